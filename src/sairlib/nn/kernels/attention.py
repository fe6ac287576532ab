"""Causal attention, block by block."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from sairlib.nn.kernels.switch import fast_on

BLOCK = 48
"""Queries of a block: enough for fast products, few enough to skip most of the masked half."""


def causal_attention(query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V with a causal mask; all tensors have shape (B, H, N, D).

    ``dropout``: of the attention weights.
    """
    if dropout or query_BHND.dtype != torch.float32 or not fast_on(query_BHND):
        return plain_causal_attention(query_BHND, key_BHND, value_BHND, dropout)
    parts = (part.reshape(-1, *part.shape[2:]) for part in (query_BHND, key_BHND, value_BHND))
    mixed: Tensor = _Blocked.apply(*parts)  # type: ignore[no-untyped-call]
    return mixed.view(query_BHND.shape)


def plain_causal_attention(query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor, dropout: float = 0.0) -> Tensor:
    return scaled_dot_product_attention(query_BHND, key_BHND, value_BHND, dropout_p=dropout, is_causal=True)


class _Blocked(torch.autograd.Function):
    """Causal attention over (B, N, D) in fp32, without dropout: on CPU two thirds of the time of PyTorch's kernel.

    A block of queries is multiplied only with the keys up to its end. The backward pass needs the weights: B N N / 2
    numbers, few because the trainer cuts batches into pieces.
    """

    @staticmethod
    def forward(ctx: Any, query_BND: Tensor, key_BND: Tensor, value_BND: Tensor) -> Tensor:
        future = query_BND.new_full((BLOCK, BLOCK), -torch.inf).triu_(1)
        mixed_BND = query_BND.new_empty(query_BND.shape)
        weights = []
        for start, end in _blocks(query_BND):
            scores = torch.bmm(query_BND[:, start:end], key_BND[:, :end].mT).mul_(query_BND.shape[-1] ** -0.5)
            scores[:, :, start:] += future[: end - start, : end - start]
            weights.append(scores.softmax(-1))
            mixed_BND[:, start:end] = torch.bmm(weights[-1], value_BND[:, :end])
        ctx.save_for_backward(query_BND, key_BND, value_BND, *weights)
        return mixed_BND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_BND, key_BND, value_BND, *block_weights = ctx.saved_tensors
        to_query_BND = query_BND.new_empty(query_BND.shape)
        to_key_BND, to_value_BND = (query_BND.new_zeros(query_BND.shape) for _ in range(2))
        for weights, (start, end) in zip(block_weights, _blocks(query_BND), strict=True):
            gradient = gradient_BND[:, start:end]
            to_value_BND[:, :end].baddbmm_(weights.mT, gradient)
            to_weights = torch.bmm(gradient, value_BND[:, :end].mT)
            to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_scores *= query_BND.shape[-1] ** -0.5
            to_query_BND[:, start:end] = torch.bmm(to_scores, key_BND[:, :end])
            to_key_BND[:, :end].baddbmm_(to_scores.mT, query_BND[:, start:end])
        return to_query_BND, to_key_BND, to_value_BND


def _blocks(query_BND: Tensor) -> list[tuple[int, int]]:
    """First and last (excluded) step of each block."""
    n = query_BND.shape[1]
    return [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
