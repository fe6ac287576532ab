"""TiSASRec's encoder: attention to items, their positions, and how long ago they were by a person's own clock."""

import math
from collections.abc import Iterator
from typing import cast, final

import torch
from torch import Tensor, nn

from sairlib.batch import at_steps
from sairlib.errors import UserError
from sairlib.nn.layers import Dropout, Encoder, FeedForward, Table
from sairlib.nn.relative import needed


def personal_intervals(times_BN: Tensor, most: int) -> Tensor:
    """floor((t_i - t_j) / unit_i) in row i, column j (B, N, N), at most ``most``; 0 for a later j.

    unit_i is the smallest time above 0 between neighbours of the steps up to i; where all are equal, all are 0 apart.
    """
    longest = math.inf if times_BN.is_floating_point() else torch.iinfo(times_BN.dtype).max
    gaps_BN = times_BN.diff(dim=1, prepend=times_BN[:, :1])
    units_BN = gaps_BN.masked_fill(gaps_BN <= 0, longest).cummin(1).values
    passed_BNN = (times_BN[:, :, None] - times_BN[:, None]).clamp_(min=0)
    return passed_BNN.div(units_BN[..., None], rounding_mode="floor").clamp_(max=most).long()


class Tables(nn.Module):
    """Vectors of positions and of intervals, each as keys and as values: P^K, P^V (N, D) and R^K, R^V (k + 1, D)."""

    def __init__(self, width: int, max_len: int, k: int | None, dropout: float) -> None:
        super().__init__()
        self.positions = nn.ModuleList(Table(max_len, width, whole=True) for _ in range(2))
        self.intervals = None if k is None else nn.ModuleList(Table(k + 1, width, whole=True) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, n_steps: int) -> tuple[list[Tensor], list[Tensor] | None]:
        """P^K and P^V of the first ``n_steps`` positions; R^K and R^V."""
        positions = [self.dropout(cast(Table, table).weight[:n_steps]) for table in self.positions]
        if self.intervals is None:
            return positions, None
        return positions, [self.dropout(cast(Table, table).weight) for table in self.intervals]


class IntervalBlock(nn.Module):
    """x + Dropout(g(LayerNorm(x))), with g = attention and then g = feed-forward.

    The attention never holds a vector for each pair of steps. q_i R^K has k + 1 products for each step, of which each
    pair picks one; and the weights of row i are summed by interval before they are multiplied with R^V.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        for part in self.query_key_value.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        states_BND: Tensor,
        positions: list[Tensor],
        intervals: list[Tensor] | None,
        apart_BQN: Tensor | None,
        steps_B: Tensor | None = None,
    ) -> Tensor:
        """States (B, N, D), or (B, 1, D) at ``steps_B`` alone; ``apart_BQN`` has the same Q queries."""
        weights_BHQN, value_BHND = self.weights(states_BND, positions, intervals, apart_BQN, steps_B)
        weights_BHQN = self.dropout(weights_BHQN)
        mixed_BHQD = weights_BHQN @ value_BHND
        if intervals is not None and apart_BQN is not None:
            by_interval = weights_BHQN.new_zeros(*weights_BHQN.shape[:-1], len(intervals[1]))
            by_interval = by_interval.scatter_add(-1, self._each_head(apart_BQN), weights_BHQN)
            mixed_BHQD = mixed_BHQD + by_interval @ self._heads(intervals[1])
        mixed_BQD = mixed_BHQD.transpose(1, 2).flatten(2)
        own_BQD = states_BND if steps_B is None else at_steps(states_BND, steps_B)[:, None]
        own_BQD = own_BQD + self.dropout(mixed_BQD)
        all_BQD: Tensor = own_BQD + self.dropout(self.feed_forward(self.feed_forward_norm(own_BQD)))
        return all_BQD

    def weights(
        self,
        states_BND: Tensor,
        positions: list[Tensor],
        intervals: list[Tensor] | None,
        apart_BQN: Tensor | None,
        steps_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """alpha (B, H, Q, N) before dropout, and the values with those of the positions (B, H, N, D / H)."""
        query, key, value = self.query_key_value(self.attention_norm(states_BND)).chunk(3, -1)
        steps_N = torch.arange(states_BND.shape[1], device=states_BND.device)
        later = steps_N > steps_N[:, None]
        if steps_B is not None:
            query = at_steps(query, steps_B)[:, None]
            later = (steps_N > steps_B[:, None])[:, None, None]
        query = self._heads(query)
        scores_BHQN = query @ self._heads(key + positions[0]).mT
        if intervals is not None and apart_BQN is not None:
            of_intervals = query @ self._heads(intervals[0]).mT
            scores_BHQN = scores_BHQN + of_intervals.gather(-1, self._each_head(apart_BQN))
        scores_BHQN = scores_BHQN * query.shape[-1] ** -0.5
        return scores_BHQN.masked_fill(later, -torch.inf).softmax(-1), self._heads(value + positions[1])

    def _each_head(self, apart_BQN: Tensor) -> Tensor:
        return apart_BQN[:, None].expand(-1, self.n_heads, -1, -1)

    def _heads(self, part: Tensor) -> Tensor:
        """From (..., N, D) to (..., H, N, D / H)."""
        return part.reshape(*part.shape[:-1], self.n_heads, part.shape[-1] // self.n_heads).transpose(-2, -3)


@final
class TimeIntervals(Encoder):
    """TiSASRec's stack of blocks; the arguments are explained in ``models.tisasrec.TiSASRec``."""

    def __init__(
        self,
        width: int,
        dropout: float,
        max_len: int,
        n_blocks: int = 2,
        n_heads: int = 1,
        k: int = 256,
        intervals: bool = True,
    ) -> None:
        super().__init__()
        for name, size in (("max_len", max_len), ("n_blocks", n_blocks), ("k", k)):
            if size < 1:
                raise UserError(f"{name}={size}: must be 1 or more")
        if n_heads < 1 or width % n_heads:
            raise UserError(f"n_heads={n_heads} does not divide the width {width}")
        self.needs_times = "intervals" if intervals else None
        self.k = k
        self.tables = Tables(width, max_len, k if intervals else None, dropout)
        self.blocks = nn.ModuleList(IntervalBlock(width, n_heads, dropout) for _ in range(n_blocks))
        self.final_norm = nn.LayerNorm(width)

    def forward(self, steps_BND: Tensor, times_BN: Tensor | None = None) -> Tensor:
        positions, intervals = self.tables(steps_BND.shape[1])
        apart_BNN = self._apart(times_BN)
        for block in self.blocks:
            steps_BND = block(steps_BND, positions, intervals, apart_BNN)
        final_BND: Tensor = self.final_norm(steps_BND)
        return final_BND

    def at_steps(self, steps_BND: Tensor, steps_B: Tensor, times_BN: Tensor | None = None) -> Tensor:
        """Skips the other queries in the last block."""
        positions, intervals = self.tables(steps_BND.shape[1])
        apart_BNN = self._apart(times_BN)
        for block in self.blocks[:-1]:
            steps_BND = block(steps_BND, positions, intervals, apart_BNN)
        apart_B1N = None if apart_BNN is None else at_steps(apart_BNN, steps_B)[:, None]
        states_B1D = self.blocks[-1](steps_BND, positions, intervals, apart_B1N, steps_B)
        final_BD: Tensor = self.final_norm(states_B1D[:, 0])
        return final_BD

    def attentions(self, steps_BND: Tensor, times_BN: Tensor | None = None) -> Iterator[Tensor]:
        positions, intervals = self.tables(steps_BND.shape[1])
        apart_BNN = self._apart(times_BN)
        for block in self.blocks:
            yield cast(IntervalBlock, block).weights(steps_BND, positions, intervals, apart_BNN)[0]
            steps_BND = block(steps_BND, positions, intervals, apart_BNN)

    def _apart(self, times_BN: Tensor | None) -> Tensor | None:
        return None if self.needs_times is None else personal_intervals(needed(times_BN), self.k)
