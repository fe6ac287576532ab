"""Relative time and position: how far back each step lies from each other, in buckets, and a learned number of each."""

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from sairlib.errors import UserError
from sairlib.nn.layers import Encoder

LOG_BASE = 0.301
"""A bucket of times ends where their natural logarithm has grown by this much: each is 35 % longer than the last."""


class Back(NamedTuple):
    """How far back the N steps lie from Q queries at steps of the same rows. Q = N, or 1 after ``at``.

    ``seen``: (1, N, N) or (B, 1, N), True for a query's own step and those before it. ``steps``, of the same shape:
    how many steps back. ``times`` (B, Q, N): how much time, in buckets; None without times. Both are 0 where a query
    does not see the step.
    """

    seen: Tensor
    steps: Tensor
    times: Tensor | None

    def at(self, steps_B: Tensor) -> "Back":
        """The same for one query of each row."""
        rows_B = torch.arange(steps_B.shape[0], device=steps_B.device)
        times = None if self.times is None else self.times[rows_B, steps_B][:, None]
        return Back(self.seen[0, steps_B][:, None], self.steps[0, steps_B][:, None], times)


def back(steps_BND: Tensor, times_BN: Tensor | None, n_steps: int, n_times: int) -> Back:
    """Of every step of a batch. There are ``n_steps`` distances and ``n_times`` buckets; the last holds all beyond.

    The bucket of a time is floor(ln(max(time, 1)) / 0.301), times in the data's unit (mostly seconds).
    """
    steps_N = torch.arange(steps_BND.shape[1], device=steps_BND.device)
    apart_1NN = (steps_N[:, None] - steps_N)[None]
    times_BNN = None
    if times_BN is not None:
        passed_BNN = (times_BN[:, :, None] - times_BN[:, None]).clamp_(min=1)  # the future is in the bucket 0
        times_BNN = (passed_BNN.log() / LOG_BASE).long().clamp_(max=n_times - 1)
    return Back(apart_1NN >= 0, apart_1NN.clamp(0, n_steps - 1), times_BNN)


def needed(times_BN: Tensor | None) -> Tensor:
    """The times. UserError if there are none."""
    if times_BN is None:
        raise UserError("this model looks at the times of a history: give a timestamp for each action")
    return times_BN


class Bias(nn.Module):
    """A learned number for each of ``n`` buckets. They start normal with deviation 0.02, as in HSTU's authors' code."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, buckets: Tensor) -> Tensor:
        """Of the same shape as ``buckets``."""
        return self.weight.index_select(0, buckets.flatten()).view(buckets.shape)


@final
class RelativeBlocks(Encoder):
    """A stack of blocks (HSTU's, FuXi's) that look at ``Back``, with ``max_len`` distances and ``n_times`` buckets.

    A block takes the states (B, N, D), ``Back``, and, to compute its output at one step of each row alone, these steps.
    The stack shows no ``attentions``: the blocks' weights are not shares, and some are below 0.
    """

    def __init__(self, blocks: Sequence[nn.Module], max_len: int, n_times: int, needs_times: str | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.max_len = max_len
        self.n_times = n_times
        self.needs_times = needs_times

    def forward(self, steps_BND: Tensor, times_BN: Tensor | None = None) -> Tensor:
        apart = self._apart(steps_BND, times_BN)
        for block in self.blocks:
            steps_BND = block(steps_BND, apart)
        return steps_BND

    def at_steps(self, steps_BND: Tensor, steps_B: Tensor, times_BN: Tensor | None = None) -> Tensor:
        """Skips the other queries in the last block."""
        apart = self._apart(steps_BND, times_BN)
        for block in self.blocks[:-1]:
            steps_BND = block(steps_BND, apart)
        states_B1D: Tensor = self.blocks[-1](steps_BND, apart.at(steps_B), steps_B)
        return states_B1D[:, 0]

    def _apart(self, steps_BND: Tensor, times_BN: Tensor | None) -> Back:
        return back(steps_BND, needed(times_BN) if self.needs_times else None, self.max_len, self.n_times)
