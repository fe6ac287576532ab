"""Squared distances of states and items, for models that score by them."""

from typing import Any

import torch
from torch import Tensor

from sairlib.nn.kernels.switch import fast_on


def squared_distances(states: Tensor, vectors: Tensor) -> Tensor:
    """(..., C) from states (..., D) and vectors (..., C, D)."""
    if not fast_on(states):
        return plain_squared_distances(states, vectors)
    found: Tensor = _SquaredDistances.apply(states, vectors)  # type: ignore[no-untyped-call]
    return found


def plain_squared_distances(states: Tensor, vectors: Tensor) -> Tensor:
    return (vectors - states.unsqueeze(-2)).square().sum(-1)


class _SquaredDistances(torch.autograd.Function):
    """As written out, but for what autograd would keep and repeat: on CPU in half the time."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, vectors: Tensor) -> Tensor:
        between = vectors - states.unsqueeze(-2)
        ctx.save_for_backward(between)
        distances: Tensor = torch.linalg.vecdot(between, between)
        return distances

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (between,) = ctx.saved_tensors
        to_vectors = between * (2 * gradient).unsqueeze(-1)
        return -to_vectors.sum(-2), to_vectors


def all_squared_distances(states_BD: Tensor, vectors_MD: Tensor) -> Tensor:
    """The same of every pair (B, M), as ||a||^2 + ||b||^2 - 2 ab: one product of matrices, on every device.

    In fp32, for what is left of it is small.
    """
    with torch.autocast(states_BD.device.type, enabled=False):
        states_BD, vectors_MD = states_BD.float(), vectors_MD.float()
        return states_BD.square().sum(1, keepdim=True) + vectors_MD.square().sum(1) - 2 * states_BD @ vectors_MD.T
