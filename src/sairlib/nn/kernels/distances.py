"""Squared distances between states and items."""

from typing import Any

import torch
from torch import Tensor

from sairlib.nn.kernels.switch import fast_on


def squared_distances(states: Tensor, vectors: Tensor) -> Tensor:
    """Squared distances (..., C) between states (..., D) and vectors (..., C, D)."""
    if not fast_on(states):
        return plain_squared_distances(states, vectors)
    distances: Tensor = _SquaredDistances.apply(states, vectors)  # type: ignore[no-untyped-call]
    return distances


def plain_squared_distances(states: Tensor, vectors: Tensor) -> Tensor:
    return (vectors - states.unsqueeze(-2)).square().sum(-1)


class _SquaredDistances(torch.autograd.Function):
    """Stores and recomputes less than autograd does: on CPU half the time."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, vectors: Tensor) -> Tensor:
        difference = vectors - states.unsqueeze(-2)
        ctx.save_for_backward(difference)
        distances: Tensor = torch.linalg.vecdot(difference, difference)
        return distances

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (difference,) = ctx.saved_tensors
        to_vectors = difference * (2 * gradient).unsqueeze(-1)
        return -to_vectors.sum(-2), to_vectors


def all_squared_distances(states_BD: Tensor, vectors_MD: Tensor) -> Tensor:
    """Squared distances of all pairs (B, M), as ||a||^2 + ||b||^2 - 2 ab: one matrix product, on every device.

    Always in fp32, because the result is a small difference of large numbers.
    """
    with torch.autocast(states_BD.device.type, enabled=False):
        states_BD, vectors_MD = states_BD.float(), vectors_MD.float()
        return states_BD.square().sum(1, keepdim=True) + vectors_MD.square().sum(1) - 2 * states_BD @ vectors_MD.T
