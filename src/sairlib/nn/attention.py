"""Causal self-attention: at every step, over that step and what came before it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from sairlib.batch import at_steps
from sairlib.errors import UserError


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
        mixed_BHND = scaled_dot_product_attention(query_BHND, key_BHND, value_BHND, dropout_p=dropout, is_causal=True)
        mixed_BND: Tensor = self.output(mixed_BHND.transpose(1, 2).reshape(B, N, D))
        return mixed_BND

    def at_steps(self, states_BND: Tensor, steps_B: Tensor) -> Tensor:
        """``forward(states_BND)`` at one step of each row alone (B, D), for evaluation."""
        B, N, D = states_BND.shape
        query_DD, key_value_2DD = self.query_key_value.weight.split((D, 2 * D))
        query_BH1D = self._heads(linear(at_steps(states_BND, steps_B), query_DD)[:, None])
        key_BHND, value_BHND = map(self._heads, linear(states_BND, key_value_2DD).split(D, -1))
        seen_B11N = (torch.arange(N, device=steps_B.device) <= steps_B[:, None])[:, None, None]
        dropout = self.dropout if self.training else 0.0
        mixed_BH1D = scaled_dot_product_attention(query_BH1D, key_BHND, value_BHND, seen_B11N, dropout)
        mixed_BD: Tensor = self.output(mixed_BH1D.reshape(B, D))
        return mixed_BD

    def _heads(self, x_BND: Tensor) -> Tensor:
        """(B, H, N, D / H)."""
        B, N, D = x_BND.shape
        return x_BND.view(B, N, self.n_heads, D // self.n_heads).transpose(1, 2)
