"""FuXi-alpha's encoder: an attention each for what items are, when and where, then a gated feed-forward net."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from sairlib.batch import at_steps
from sairlib.nn.hstu import EPSILON, N_TIMES, check_sizes
from sairlib.nn.layers import Dropout, FeedForward
from sairlib.nn.relative import Back, Bias, RelativeBlocks


class Channels(nn.Module):
    """One block: adaptive multi-channel self-attention and a feed-forward net of two stages (``models.fuxi_alpha``)."""

    def __init__(
        self,
        width: int,
        dropout: float,
        max_len: int,
        n_heads: int,
        d_qk: int,
        d_v: int,
        ffn_width: int,
        position: bool,
        time: bool,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.max_len = max_len
        self.position_weight = Bias(max_len) if position else None
        self.time_weight = Bias(N_TIMES) if time else None
        joined = (1 + position + time) * n_heads * d_v
        self.widths = [joined, n_heads * d_v, n_heads * d_qk, n_heads * d_qk]
        self.uvqk = nn.Linear(width, sum(self.widths), bias=False)
        self.output = nn.Linear(joined, width)
        self.feed_forward = FeedForward(width, 0.0, ffn_width, "swiglu")
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.uvqk.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, states_BND: Tensor, apart: Back, steps_B: Tensor | None = None) -> Tensor:
        """States (B, N, D), or (B, 1, D) at ``steps_B`` alone; ``apart`` has the same queries."""
        gate, value, query, key = silu(self.uvqk(_normal(states_BND))).split(self.widths, -1)
        if steps_B is not None:
            states_BND, gate, query = (at_steps(part, steps_B)[:, None] for part in (states_BND, gate, query))
        value = self._heads(value)
        semantic = silu(self._heads(query) @ self._heads(key).mT) / self.max_len
        weights = [semantic * apart.seen[:, None]]
        if self.time_weight is not None and apart.times is not None:
            weights.insert(0, (self.time_weight(apart.times) * apart.seen)[:, None])
        if self.position_weight is not None:
            weights.insert(0, (self.position_weight(apart.steps) * apart.seen)[:, None])
        mixed = torch.cat([each @ value for each in weights], -1)
        mixed_BQV = mixed.transpose(1, 2).flatten(2)
        states_BND = states_BND + self.output(self.dropout(_normal(mixed_BQV) * gate))
        changed: Tensor = self.feed_forward(self.dropout(_normal(states_BND)))
        return states_BND + changed

    def _heads(self, part_BNX: Tensor) -> Tensor:
        """(B, H, N, X / H)."""
        B, N, X = part_BNX.shape
        return part_BNX.reshape(B, N, self.n_heads, X // self.n_heads).transpose(1, 2)


def _normal(x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:], eps=EPSILON)


def channel_blocks(
    width: int,
    dropout: float,
    max_len: int,
    n_blocks: int = 2,
    n_heads: int = 1,
    d_qk: int = 64,
    d_v: int = 64,
    ffn_width: int | None = None,
    position_channel: bool = True,
    time_channel: bool = True,
) -> RelativeBlocks:
    """FuXi-alpha's stack of blocks; the arguments are explained in ``models.fuxi_alpha.FuXiAlpha``."""
    inner = width if ffn_width is None else ffn_width
    check_sizes(max_len=max_len, n_blocks=n_blocks, n_heads=n_heads, d_qk=d_qk, d_v=d_v, ffn_width=inner)
    block = partial(Channels, width, dropout, max_len, n_heads, d_qk, d_v, inner, position_channel, time_channel)
    needs_times = "time_channel" if time_channel else None
    return RelativeBlocks([block() for _ in range(n_blocks)], max_len, N_TIMES, needs_times)
