"""Figures of a data set: sizes, lengths of sequences, popularity, ties in time. Pure functions of its arrays."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sairlib.data.dataset import Dataset
from sairlib.data.ids import Ints
from sairlib.data.order import tied_groups
from sairlib.data.split import Part, Split

TOP_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Of the items: the points of the popularity curve that are reported."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

Sizes = dict[str, int | float]
"""Figures by name: ``users``, ``items``, ``actions``, ``categories``, ``average_length``, ``sparsity``."""

_SAIR = ("users", "items", "actions", "categories", "average_length", "sparsity")
_SASREC = ("users", "items", "average_length")
PUBLISHED: dict[str, tuple[str, Sizes]] = {
    "ml-1m": ("SAIR, Table I", dict(zip(_SAIR, (6_041, 3_883, 1_000_038, 18, 163.4, 95.58), strict=True))),
    "ml-20m": ("SAIR, Table I", dict(zip(_SAIR, (138_494, 26_745, 20_000_263, 21, 144.41, 99.46), strict=True))),
    "anime": ("SAIR, Table I", dict(zip(_SAIR, (73_515, 11_200, 7_813_737, 82, 96.51, 99.05), strict=True))),
    "ml-1m-sasrec": ("SASRec, Table II", dict(zip(_SASREC, (6_040, 3_416, 163.5), strict=True))),
    "amazon-games": ("SASRec, Table II", dict(zip(_SASREC, (31_013, 23_715, 9.3), strict=True))),
}
"""By the name of a data set: the paper and its figures, some of which do not follow from others of the same row."""


def sizes(data: Dataset) -> Sizes:
    """A row of Table I of the SAIR paper.

    ``users`` and ``items`` occur in an action, ``categories`` count [UNK] if an item needs it. ``average_length``:
    actions per user. ``sparsity``: 100 * (1 - actions / (users * items)), in percent; repeated actions count.
    """
    n_users, n_items, n_actions = data.n_users, data.n_items, len(data.items)
    return {
        "users": n_users,
        "items": n_items,
        "actions": n_actions,
        "categories": data.n_categories,
        "average_length": n_actions / n_users,
        "sparsity": 100 * (1 - n_actions / (n_users * n_items)),
    }


def quantiles(values: Ints, shares: tuple[float, ...] = QUANTILES) -> list[int]:
    """For each share the smallest of ``values`` (n >= 1) such that at least this share of them is not above it."""
    return [int(value) for value in np.quantile(values, shares, method="inverted_cdf")]


def _bin_starts(longest: int) -> Iterator[int]:
    """The first value of each bin, 1, 2, 3, 5, 10, 20, 50, 100, ..., and one above ``longest``."""
    yield from (1, 2, 3)
    start = 5
    for factor in itertools.cycle((2, 2, 2.5)):
        yield start
        if start > longest:
            return
        start = round(start * factor)


def histogram(lengths: Ints) -> list[dict[str, int]]:
    """How many of ``lengths`` (1 or more each) lie ``from`` .. ``to``, both included: 1, 2, 3-4, 5-9, 10-19, 20-49,
    50-99, 100-199, ..., from the shortest to the longest."""
    starts = np.array([*_bin_starts(int(lengths.max()))], np.int64)
    counts, _ = np.histogram(lengths, starts)
    used = np.flatnonzero(counts)
    return [
        {"from": int(starts[at]), "to": int(starts[at + 1]) - 1, "users": int(counts[at])}
        for at in range(used[0], used[-1] + 1)
    ]


def gini(counts: Ints) -> float:
    """The Gini coefficient of how often things occur (n, not negative): the mean difference between two of them,
    drawn with replacement, over twice their mean.

    0: all occur equally often, also if none occurs; (n - 1) / n: a single one occurs.
    """
    n, total = len(counts), int(counts.sum())
    if total == 0:
        return 0.0
    ranks = np.arange(1, n + 1, dtype=np.float64)
    return float(2 * (ranks @ np.sort(counts).astype(np.float64)) / (n * total) - (n + 1) / n)


def top_share(counts: Ints, share: float) -> float:
    """Which part of all occurrences belongs to the most frequent ``share`` of things; their number is rounded up."""
    n_top = math.ceil(round(share * len(counts), 9))  # 0.55 * 100 is 55.00000000000001
    return float(np.sort(counts)[::-1][:n_top].sum() / counts.sum())


def popularity(counts: Ints) -> dict[str, Any]:
    """The popularity curve of items that occur ``counts`` times: ``top``, part of the actions by share of the items
    (see ``top_share``), ``gini``, and how many items occur fewer than 5 times, and once."""
    return {
        "top": {f"{share:.0%}": top_share(counts, share) for share in TOP_SHARES},
        "gini": gini(counts),
        "items_under_5": int((counts < 5).sum()),
        "items_once": int((counts == 1).sum()),
    }


def tied(data: Dataset) -> NDArray[np.bool_] | None:
    """For each action, whether another item of the same user has the same time; None if the data has no times."""
    if data.times is None:
        return None
    groups = tied_groups(data)
    at = np.flatnonzero(groups >= 0)
    with_another = np.zeros(len(data.items), bool)
    if len(at):
        begins = np.flatnonzero(np.diff(groups[at], prepend=-1))
        items = data.items[at]
        differ = np.maximum.reduceat(items, begins) > np.minimum.reduceat(items, begins)
        with_another[at] = differ[groups[at]]
    return with_another


def ties(split: Split) -> dict[str, Any] | None:
    """How much of a split depends on the rule that orders actions of the same user and time, by default their order in
    the file. None if the data has no times.

    ``actions``: how many are tied with another item. ``validation`` and ``test``: for how many ``targets`` another item
    of the user has the same time, so that another order might make that one the target. ``users``: how many users have
    such a target.
    """
    data = split.dataset
    with_another = tied(data)
    if with_another is None:
        return None
    found: dict[str, Any] = {"actions": int(with_another.sum())}
    affected = np.zeros(data.n_users, bool)
    for part in Part:
        users_E, positions_E = split.targets(part).users_E, split.targets(part).positions_E
        tied_E = with_another[data.offsets[users_E] + positions_E]
        affected[users_E[tied_E]] = True
        found[part.value] = {"targets": len(users_E), "tied": int(tied_E.sum())}
    return {**found, "users": int(affected.sum())}


def describe(split: Split, max_len: int) -> dict[str, Any]:
    """All figures of the data of a split, as plain values: ``sizes``, ``lengths``, ``split``, ``popularity``, ``ties``.

    ``lengths``: quantiles and histogram of the number of actions of a user. ``split``: how many users are
    ``evaluated``, have ``too_few_actions`` to be, are evaluated with a ``single_training_action``, and have a training
    part ``longer_than_max_len``, of which a model sees the newest ``max_len``.
    """
    data = split.dataset
    lengths = np.diff(data.offsets)
    evaluated = split.eval_users
    return {
        "sizes": sizes(data),
        "lengths": {
            "quantiles": {f"{share:.0%}": value for share, value in zip(QUANTILES, quantiles(lengths), strict=True)},
            "histogram": histogram(lengths),
        },
        "split": {
            "name": split.name,
            "evaluated": len(evaluated),
            "too_few_actions": split.n_short,
            "single_training_action": int((split.train_lengths[evaluated] < 2).sum()),
            "max_len": max_len,
            "longer_than_max_len": int((split.train_lengths > max_len).sum()),
        },
        "popularity": popularity(np.bincount(data.items, minlength=data.n_items + 1)[1:]),
        "ties": ties(split),
    }
