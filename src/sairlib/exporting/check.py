"""An exported program against the live model, on real histories."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sairlib.batch import STRANGER, History, State, as_rows
from sairlib.errors import UserError, one_line
from sairlib.run.finished import Run
from sairlib.run.histories import of_users

HISTORIES = 1000
LARGEST = 1e-4
"""Of the relative differences that are accepted."""
SIZES = (1, 2, 7, 64, 250)
"""Of the batches, in turn."""
SCORES_AT_ONCE = 2**24

Callee: TypeAlias = Callable[[Tensor, Tensor], State]
"""From items (B, N) and users (B) to states, scores or vectors."""


@dataclass(frozen=True)
class Difference:
    """How far an exported program is from the live model. ``relative``: to the largest number of the same batch."""

    histories: int
    batches: int
    shortest: int
    longest: int
    absolute: float
    relative: float

    def figures(self) -> dict[str, Any]:
        return {
            f"max_{key}_difference" if isinstance(value, float) else key: value for key, value in asdict(self).items()
        }


def real_histories(run: Run) -> Iterator[History]:
    """1,000 people of the run's data, or all if there are fewer, in batches of several sizes and lengths.

    Every second batch holds whole histories (of ``max_len`` items at most); of the others only the newest one, three or
    half of ``max_len`` items are taken. The last batch is as wide as ``max_len``, with a stranger and an empty history.
    """
    people = of_users(run.split.dataset)
    rows = np.random.default_rng(0).permutation(len(people))[:HISTORIES]
    max_len, device = run.store.max_len, torch.device("cpu")
    cuts = [max_len, 1, max_len, min(3, max_len), max_len, max(1, max_len // 2)]
    most = max(1, SCORES_AT_ONCE // (run.model.n_items + 1))
    start = 0
    for number in count():
        if start >= len(rows):
            break
        size = min(SIZES[number % len(SIZES)], most)
        yield people.take(rows[start : start + size], cuts[number % len(cuts)], device)
        start += size
    first = people.take(rows[:1], max_len, device)
    items_BN = torch.zeros(3, max_len, dtype=torch.int64)
    items_BN[:2, : first.items_BN.shape[1]] = first.items_BN
    yield History(torch.tensor([int(first.users_B), STRANGER, STRANGER]), items_BN)


@torch.no_grad()
def difference(run: Run, live: Callable[[History], State], exported: Callee) -> Difference:
    """The largest differences of ``exported`` from ``live`` over ``real_histories``.

    UserError if one is above 1e-4, relative to the largest number of its batch, or if the exported program fails.
    """
    n_rows, n_batches, shortest, longest = 0, 0, run.store.max_len, 0
    absolute = relative = 0.0
    for history in real_histories(run):
        expected = as_rows(live(history))
        try:
            found = as_rows(exported(history.items_BN, history.users_B))
        except Exception as error:  # each runtime has its own
            shape = tuple(history.items_BN.shape)
            raise UserError(f"the exported program fails on histories of shape {shape}: {one_line(error)}") from error
        for one, other in zip(expected, found, strict=True):
            apart, size = _apart(one, other)
            absolute, relative = max(absolute, apart), max(relative, apart / max(size, 1e-30) if apart else 0.0)
        n_rows, n_batches = n_rows + len(history.items_BN), n_batches + 1
        width = history.items_BN.shape[1]
        shortest, longest = min(shortest, width), max(longest, width)
    if not relative <= LARGEST:
        raise UserError(
            f"the exported program differs from the model: by {absolute:.2g}, {relative:.2g} of the largest number"
            f" (accepted: {LARGEST:g}); nothing is written"
        )
    return Difference(n_rows, n_batches, shortest, longest, absolute, relative)


def _apart(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """The largest difference, and the largest number, of all that is finite. What is not must be equal: else inf."""
    if expected.shape != found.shape:
        return torch.inf, 1.0
    finite = torch.isfinite(expected)
    if not torch.equal(expected[~finite], found[~finite]):
        return torch.inf, 1.0
    gap = (expected[finite].double() - found[finite].double()).abs()
    apart = float(gap.max()) if gap.numel() else 0.0
    return (torch.inf if apart != apart else apart), float(expected[finite].abs().max()) if gap.numel() else 1.0
