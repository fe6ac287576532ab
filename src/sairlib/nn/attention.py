"""Causal attention: each step mixes the steps up to it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sairlib.batch import at_steps
from sairlib.errors import UserError
from sairlib.nn.kernels.attention import causal_attention


class Attention(nn.Module, ABC):
    """From one vector per step to a mixture per step, of the steps up to it."""

    @abstractmethod
    def forward(self, states_BND: Tensor) -> Tensor:
        """Mixtures (B, N, D)."""

    def at_steps(self, states_BND: Tensor, steps_B: Tensor) -> Tensor:
        """``forward(states_BND)`` at only one step of each row (B, D), for evaluation."""
        return at_steps(self(states_BND), steps_B)

    def weights(self, states_BND: Tensor) -> Tensor | None:
        """The weights (B, H, N, N) with which each step attends to each; None if they are not of single steps."""
        return None


AttentionPart: TypeAlias = Callable[[int, int], Attention]
"""Makes an attention from a width and a number of heads."""


class CausalAttention(Attention):
    """softmax(Q K^T / sqrt(D / H)) V with a causal mask, over (B, N, D).

    Sequences are right-padded (see ``batch.py``), so no real step sees padding and no padding mask is needed.
    Q, K and V have no biases, as in the papers. ``output_projection`` adds the output matrix of PyTorch's multi-head
    attention, which the SASRec and SAIR papers do not have. ``dropout`` of the attention weights rules out the fast
    kernel: leave it at 0 unless a paper uses it.
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
        """``forward(states_BND)`` at only one step of each row (B, D), for evaluation.

        With one query per row it is cheaper to apply W_K to the query, q (x W_K)^T = (q W_K^T) x^T, and W_V to the
        mixture, a (x W_V) = (a x) W_V, than to every state.
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

    def weights(self, states_BND: Tensor) -> Tensor:
        """The weights (B, H, N, N), before dropout, with which each step (row) attends to the steps up to it.

        For explanations: ``forward`` never holds all of them. Rows of padding mean nothing.
        """
        N, D = states_BND.shape[1:]
        query_BHND, key_BHND, _ = map(self._heads, self.query_key_value(states_BND).split(D, -1))
        scores_BHNN = query_BHND @ key_BHND.mT * (D // self.n_heads) ** -0.5
        later_NN = torch.ones(N, N, dtype=torch.bool, device=states_BND.device).triu(1)
        weights_BHNN: Tensor = scores_BHNN.masked_fill(later_NN, -torch.inf).softmax(-1)
        return weights_BHNN

    def _heads(self, x_BND: Tensor) -> Tensor:
        """(B, H, N, D / H)."""
        B, N, D = x_BND.shape
        return x_BND.view(B, N, self.n_heads, D // self.n_heads).transpose(1, 2)
