"""Causal self-attention: at every step, over that step and what came before it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from sairlib.batch import at_steps
from sairlib.errors import UserError

BLOCK = 48
"""Queries that meet their keys at once: enough for fast products, few enough to leave out most of the masked half."""


class _Blocked(torch.autograd.Function):
    """softmax(Q K^T / sqrt(D)) V, causal, over (B, N, D) in fp32: on CPU two thirds of the time of PyTorch's kernel.

    A block of queries is multiplied with the keys up to its end alone. The weights are kept for the backward pass:
    B N N / 2 numbers, few for the pieces that the trainer cuts batches into.
    """

    @staticmethod
    def forward(ctx: Any, query_BND: Tensor, key_BND: Tensor, value_BND: Tensor) -> Tensor:
        future = query_BND.new_full((BLOCK, BLOCK), -torch.inf).triu_(1)
        mixed_BND = query_BND.new_empty(query_BND.shape)
        kept = []
        for start, end in _blocks(query_BND):
            scores = torch.bmm(query_BND[:, start:end], key_BND[:, :end].mT).mul_(query_BND.shape[-1] ** -0.5)
            scores[:, :, start:] += future[: end - start, : end - start]
            kept.append(scores.softmax(-1))
            mixed_BND[:, start:end] = torch.bmm(kept[-1], value_BND[:, :end])
        ctx.save_for_backward(query_BND, key_BND, value_BND, *kept)
        return mixed_BND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_BND, key_BND, value_BND, *kept = ctx.saved_tensors
        to_query_BND = query_BND.new_empty(query_BND.shape)
        to_key_BND, to_value_BND = (query_BND.new_zeros(query_BND.shape) for _ in range(2))
        for weights, (start, end) in zip(kept, _blocks(query_BND), strict=True):
            gradient = gradient_BND[:, start:end]
            to_value_BND[:, :end].baddbmm_(weights.mT, gradient)
            to_weights = torch.bmm(gradient, value_BND[:, :end].mT)
            to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_scores *= query_BND.shape[-1] ** -0.5
            to_query_BND[:, start:end] = torch.bmm(to_scores, key_BND[:, :end])
            to_key_BND[:, :end].baddbmm_(to_scores.mT, query_BND[:, start:end])
        return to_query_BND, to_key_BND, to_value_BND


def _blocks(query_BND: Tensor) -> list[tuple[int, int]]:
    n = query_BND.shape[1]
    return [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def causal_attention(query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V with a causal mask, all of shape (B, H, N, D), by the fastest way at hand."""
    on_cpu = query_BHND.device.type == "cpu" and query_BHND.dtype == torch.float32
    if not on_cpu or dropout or torch.compiler.is_compiling():
        return scaled_dot_product_attention(query_BHND, key_BHND, value_BHND, dropout_p=dropout, is_causal=True)
    parts = (part.reshape(-1, *part.shape[2:]) for part in (query_BHND, key_BHND, value_BHND))
    mixed: Tensor = _Blocked.apply(*parts)  # type: ignore[no-untyped-call]
    return mixed.view(query_BHND.shape)


class CausalAttention(nn.Module):
    """softmax(Q K^T / sqrt(D / H)) V with a causal mask, over (B, N, D).

    Sequences are right-padded (see ``batch.py``), so no real step can see padding and no padding mask is needed.
    Q, K and V come without bias, as the papers write them. ``output_projection`` adds the matrix that PyTorch's
    multi-head attention has and the SASRec and SAIR papers have not. ``dropout`` falls on the attention weights and
    forbids the fast kernel: leave it 0 unless a paper asks for it.
    """

    def __init__(self, width: int, n_heads: int = 1, dropout: float = 0.0, output_projection: bool = False) -> None:
        super().__init__()
        if n_heads < 1 or width % n_heads:
            raise UserError(f"n_heads={n_heads} does not divide the width {width}")
        if not 0 <= dropout < 1:
            raise UserError(f"attention_dropout must be in [0, 1), not {dropout}")
        self.n_heads = n_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False) if output_projection else nn.Identity()
        for part in self.query_key_value.weight.chunk(3):
            nn.init.xavier_uniform_(part)

    def forward(self, states_BND: Tensor) -> Tensor:
        B, N, D = states_BND.shape
        query_BHND, key_BHND, value_BHND = map(self._heads, self.query_key_value(states_BND).split(D, -1))
        dropout = self.dropout if self.training else 0.0
        mixed_BHND = causal_attention(query_BHND, key_BHND, value_BHND, dropout)
        mixed_BND: Tensor = self.output(mixed_BHND.transpose(1, 2).reshape(B, N, D))
        return mixed_BND

    def at_steps(self, states_BND: Tensor, steps_B: Tensor) -> Tensor:
        """``forward(states_BND)`` at one step of each row alone (B, D), for evaluation.

        With so few queries it is cheaper to take W_K to the query, q (x W_K)^T = (q W_K^T) x^T, and W_V to the mixture,
        a (x W_V) = (a x) W_V: neither is multiplied with every state.
        """
        B, N, D = states_BND.shape
        query_HhD, key_HhD, value_HhD = self.query_key_value.weight.view(3, self.n_heads, D // self.n_heads, D)
        query_BHh = torch.einsum("bd,hkd->bhk", at_steps(states_BND, steps_B), query_HhD)
        query_B1HD = torch.einsum("bhk,hkd->bhd", query_BHh, key_HhD)[:, None]
        states_B1ND = states_BND[:, None]
        seen_B11N = (torch.arange(N, device=steps_B.device) <= steps_B[:, None])[:, None, None]
        mixed_B1HD = scaled_dot_product_attention(
            query_B1HD, states_B1ND, states_B1ND, seen_B11N, scale=(D // self.n_heads) ** -0.5
        )
        mixed_BD: Tensor = self.output(torch.einsum("bhd,hkd->bhk", mixed_B1HD[:, 0], value_HhD).reshape(B, D))
        return mixed_BD

    def _heads(self, x_BND: Tensor) -> Tensor:
        """(B, H, N, D / H)."""
        B, N, D = x_BND.shape
        return x_BND.view(B, N, self.n_heads, D // self.n_heads).transpose(1, 2)
