"""Names for interests: what their vectors are near to, and what people clicked next where they were the strongest."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sairlib.batch import PAD
from sairlib.data.ids import Ints
from sairlib.evaluation.metrics import Floats
from sairlib.run.explained import InterestFigures, item_names
from sairlib.run.finished import Run

FEWEST = 5
"""Occurrences in the training part of an item that may be near, and clicks of what sets an interest apart: what is
rarer may be chance."""
LEAST_LIFT = 1.1
"""Of what sets an interest apart."""


class Near(NamedTuple):
    """A category or an item, and the cosine of its vector with an interest's."""

    name: str
    cosine: float


class Clicked(NamedTuple):
    """A category or an item that people clicked next, after steps at which an interest was the strongest.

    ``share`` of these clicks; ``lift``: that share by the share of all clicks after any step.
    """

    name: str
    share: float
    lift: float


@dataclass(frozen=True)
class InterestName:
    """What one interest of the pool seems to be about. Two views, which need not agree.

    ``near_categories`` and ``near_items`` compare its vector with those of categories and items, as they enter the
    model: geometry, of a space in which training was never asked to place interests beside items. ``next_categories``
    and ``next_items`` say what people did: which share of their next clicks had a category, or were an item, after
    steps at which this interest had the highest weight, in order of share x log(lift), what sets the interest apart
    most. What has a lift below 1.1, or was clicked less than 5 times, is left out: often everything.
    """

    number: int
    near_categories: list[Near]
    near_items: list[Near]
    next_categories: list[Clicked]
    next_items: list[Clicked]

    @property
    def short(self) -> str:
        """The number, and the category or item that sets it apart most."""
        telling = [*self.next_categories[:1], *self.next_items[:1]]
        return f"{self.number} {telling[0].name}" if telling else str(self.number)


@torch.no_grad()
def names(run: Run, figures: InterestFigures, n: int = 3) -> list[InterestName]:
    """A name for each interest, with at most ``n`` of each kind of categories and items."""
    interests, data = run.model.interests(), run.split.dataset
    assert interests is not None
    often_M = run.store.counts_M >= FEWEST
    if not often_M[1:].any():  # a small data set
        often_M = run.store.counts_M > 0
    often_M[PAD] = False
    near_items = _nearest(interests.pool_LD, interests.items_MD, often_M, n)
    near_categories: list[list[tuple[int, float]]] = [[] for _ in near_items]
    if interests.categories_TD is not None:
        every_T = torch.ones(len(interests.categories_TD), dtype=torch.bool, device=often_M.device)
        near_categories = _nearest(interests.pool_LD, interests.categories_TD, every_T, n)
    clicks_L = figures.next_LM.sum(1)
    next_items = _apart(figures.next_LM, clicks_L, n)
    by_category_LT = _by_category(figures.next_LM, data.item_categories, data.n_categories)
    next_categories = _apart(by_category_LT, clicks_L, n)

    def title(item: int) -> str:
        return item_names(data, np.array([item]))[0]

    return [
        InterestName(
            number,
            [Near(data.category_names[t], cosine) for t, cosine in near_categories[number]],
            [Near(title(item), cosine) for item, cosine in near_items[number]],
            [Clicked(data.category_names[t - 1], share, lift) for t, share, lift in next_categories[number]],
            [Clicked(title(item), share, lift) for item, share, lift in next_items[number]],
        )
        for number in range(len(near_items))
    ]


def _nearest(pool_LD: Tensor, vectors_XD: Tensor, may_X: Tensor, n: int) -> list[list[tuple[int, float]]]:
    """Of each interest, the ``n`` vectors with the highest cosine: (row, cosine)."""
    cosines_LX = normalize(pool_LD.float(), dim=-1) @ normalize(vectors_XD.float(), dim=-1).T
    best = cosines_LX.masked_fill(~may_X, -torch.inf).topk(min(n, int(may_X.sum())))
    return [list(zip(*row, strict=True)) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def _apart(counts_LX: Ints, clicks_L: Ints, n: int) -> list[list[tuple[int, float, float]]]:
    """Of each row, the ``n`` columns that set it apart most: (column, share of its clicks, lift)."""
    base_X = counts_LX.sum(0) / max(1, clicks_L.sum())
    found = []
    for counts_X, clicks in zip(counts_LX, clicks_L, strict=True):
        there = np.flatnonzero(counts_X >= FEWEST)
        share: Floats = counts_X[there] / max(1, clicks)
        lift: Floats = share / base_X[there]
        best = np.argsort(-share * np.log(lift), kind="stable")[:n]
        found.append([(int(there[i]), float(share[i]), float(lift[i])) for i in best if lift[i] >= LEAST_LIFT])
    return found


def _by_category(counts_LM: Ints, item_categories: Ints, n_categories: int) -> Ints:
    """How many of the clicks had each category (L, T + 1), PAD first; an item counts for each of its own."""
    counts_LT = np.zeros((len(counts_LM), n_categories + 1), np.int64)
    for column in item_categories.T:
        for row, counts_M in enumerate(counts_LM):
            counts_LT[row] += np.bincount(column, counts_M, n_categories + 1).astype(np.int64)
    counts_LT[:, PAD] = 0
    return counts_LT
