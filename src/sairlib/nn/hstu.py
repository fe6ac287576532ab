"""HSTU's encoder: attention without a softmax, which knows how long ago each step was."""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from sairlib.batch import at_steps
from sairlib.errors import UserError
from sairlib.nn.layers import Dropout
from sairlib.nn.relative import Back, Bias, RelativeBlocks

EPSILON = 1e-6
"""Of the normalisations, as in the authors' code."""
N_TIMES = 129
"""Buckets of times, as in the authors' code."""


def check_sizes(**sizes: int) -> None:
    """UserError for one below 1; it names it."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}={size}: must be 1 or more")


class Unit(nn.Module):
    """One layer: X + f2(Dropout(Norm(A V) * U)); the equations are in ``models.hstu.HSTU``."""

    def __init__(
        self, width: int, dropout: float, max_len: int, n_heads: int, d_qk: int, d_v: int, position: bool, time: bool
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.max_len = max_len
        self.widths = [n_heads * d_v, n_heads * d_v, n_heads * d_qk, n_heads * d_qk]
        self.uvqk = nn.Linear(width, sum(self.widths), bias=False)
        self.output = nn.Linear(n_heads * d_v, width)
        self.dropout = Dropout(dropout)
        self.position_bias = Bias(max_len) if position else None
        self.time_bias = Bias(N_TIMES) if time else None
        nn.init.normal_(self.uvqk.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, states_BND: Tensor, apart: Back, steps_B: Tensor | None = None) -> Tensor:
        """States (B, N, D), or (B, 1, D) at ``steps_B`` alone; ``apart`` has the same queries."""
        normal_BND = layer_norm(states_BND, states_BND.shape[-1:], eps=EPSILON)
        gate, value, query, key = silu(self.uvqk(normal_BND)).split(self.widths, -1)
        if steps_B is not None:
            states_BND, gate, query = (at_steps(part, steps_B)[:, None] for part in (states_BND, gate, query))
        mixed = self._weights(query, key, apart) @ self._heads(value / self.max_len)
        mixed_BQV = mixed.transpose(1, 2).flatten(2)
        normal_BQV = layer_norm(mixed_BQV, mixed_BQV.shape[-1:], eps=EPSILON)
        changed: Tensor = self.output(self.dropout(normal_BQV * gate))
        return states_BND + changed

    def _weights(self, query: Tensor, key: Tensor, apart: Back) -> Tensor:
        """N A (B, H, Q, N)."""
        scores = self._heads(query) @ self._heads(key).mT
        if self.position_bias is not None:
            scores = scores + self.position_bias(apart.steps)[:, None]
        if self.time_bias is not None and apart.times is not None:
            scores = scores + self.time_bias(apart.times)[:, None]
        weights: Tensor = silu(scores) * apart.seen[:, None]
        return weights

    def _heads(self, part_BNX: Tensor) -> Tensor:
        """(B, H, N, X / H)."""
        B, N, X = part_BNX.shape
        return part_BNX.reshape(B, N, self.n_heads, X // self.n_heads).transpose(1, 2)


def transduction_units(
    width: int,
    dropout: float,
    max_len: int,
    n_blocks: int = 2,
    n_heads: int = 1,
    d_qk: int = 64,
    d_v: int = 64,
    position_bias: bool = True,
    time_bias: bool = True,
) -> RelativeBlocks:
    """HSTU's stack of layers; the arguments are explained in ``models.hstu.HSTU``."""
    check_sizes(max_len=max_len, n_blocks=n_blocks, n_heads=n_heads, d_qk=d_qk, d_v=d_v)
    block = partial(Unit, width, dropout, max_len, n_heads, d_qk, d_v, position_bias, time_bias)
    return RelativeBlocks([block() for _ in range(n_blocks)], max_len, N_TIMES, "time_bias" if time_bias else None)
