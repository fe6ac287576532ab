"""Bidirectional attention over all steps but padding, and its block; for models that see whole sequences."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from sairlib.batch import at_steps, lengths
from sairlib.errors import UserError
from sairlib.nn.layers import Dropout


def real_steps(items_BN: Tensor) -> Tensor:
    """Mask (B, N) of all but padding. An empty history has step 0, because a softmax over nothing is NaN."""
    return torch.arange(items_BN.shape[1], device=items_BN.device) < lengths(items_BN).clamp_(min=1)[:, None]


def split_heads(x_BND: Tensor, n_heads: int) -> Tensor:
    """From (B, N, D) to (B, H, N, D / H)."""
    return x_BND.view(*x_BND.shape[:-1], n_heads, -1).transpose(1, 2)


def join_heads(x_BHND: Tensor) -> Tensor:
    """The inverse of ``split_heads``."""
    return x_BHND.transpose(1, 2).flatten(2)


def attend(
    query_BND: Tensor, key_BKD: Tensor, value_BKD: Tensor, n_heads: int, real_BK: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """softmax(Q K^T / sqrt(D / H)) V (B, N, D) over the keys that are real; over all K keys if ``real_BK`` is None."""
    query, key, value = (split_heads(part, n_heads) for part in (query_BND, key_BKD, value_BKD))
    mask_B11K = None if real_BK is None else real_BK[:, None, None]
    return join_heads(scaled_dot_product_attention(query, key, value, mask_B11K, dropout))


class BidirectionalAttention(nn.Module):
    """softmax(Q K^T / sqrt(D / H)) V over all real steps, earlier and later. Q, K and V are linear in the states.

    It has no output matrix: ``PostNormBlock`` has one.
    """

    def __init__(self, width: int, n_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width)

    def forward(self, states_BND: Tensor, real_BN: Tensor, *, steps_B: Tensor | None = None) -> Tensor:
        query_BND, key_BND, value_BND = self.query_key_value(states_BND).chunk(3, -1)
        if steps_B is not None:
            query_BND = at_steps(query_BND, steps_B)[:, None]
        dropout = self.dropout if self.training else 0.0
        return attend(query_BND, key_BND, value_BND, self.n_heads, real_BN, dropout)


class PostNormBlock(nn.Module):
    """LayerNorm(x + Dropout(attention(x) W + b)), then LayerNorm(x + Dropout(GELU(x W1 + b1) W2 + b2)), W1 (D, 4D).

    ``attention`` gets the states and the block's other inputs, and returns (B, N, D); with ``steps_B``, only one step
    of each row (B, 1, D).
    """

    def __init__(self, attention: nn.Module, width: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, 4 * width)
        self.second = nn.Linear(4 * width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, states_BND: Tensor, *inputs: Tensor) -> Tensor:
        return self._rest(states_BND, self.attention(states_BND, *inputs))

    def at_steps(self, states_BND: Tensor, steps_B: Tensor, *inputs: Tensor) -> Tensor:
        """``forward`` at only one step of each row (B, D)."""
        mixed_B1D = self.attention(states_BND, *inputs, steps_B=steps_B)
        return self._rest(at_steps(states_BND, steps_B), mixed_B1D[:, 0])

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.output(mixed)))
        out: Tensor = self.feed_forward_norm(x + self.dropout(self.second(gelu(self.first(x)))))
        return out


def check_sizes(d: int, n_blocks: int, n_heads: int, max_len: int, attention_dropout: float) -> None:
    """UserError for sizes that a stack of blocks cannot have."""
    for name, size in (("d", d), ("n_blocks", n_blocks), ("n_heads", n_heads), ("max_len", max_len)):
        if size < 1:
            raise UserError(f"{name} must be at least 1, not {size}")
    if d % n_heads:
        raise UserError(f"n_heads={n_heads} does not divide the width {d}")
    if not 0 <= attention_dropout < 1:
        raise UserError(f"attention_dropout must be in [0, 1), not {attention_dropout}")


def start_as_bert(model: nn.Module) -> None:
    """Initial weights of BERT: matrices and tables from N(0, 0.02^2) cut at two deviations; biases and PAD's row 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx] = 0
