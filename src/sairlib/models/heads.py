"""Heads beside products: distances, cosines, and a mixture of two heads."""

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sairlib.batch import State
from sairlib.models.recommender import Head, Lookup, one_tensor
from sairlib.nn.kernels.distances import all_squared_distances, squared_distances
from sairlib.nn.kernels.lookup import rows
from sairlib.nn.layers import Table

SHORTEST = 1e-6
"""Vectors shorter than this are divided by it, not by their length."""


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., D) scaled to length 1."""
    return normalize(vectors, dim=-1, eps=SHORTEST)


def units(table: Table) -> Lookup:
    """The rows of a table scaled to length 1. A product of two such vectors is the cosine of their angle."""

    def vectors(items: Tensor | None) -> Tensor:
        if items is None:
            return unit(table.weight)
        if table.sparse or items.numel() < len(table.weight):
            return unit(table(items))
        return rows(unit(table.weight), items, table.padding_idx)  # scales fewer rows

    return vectors


@final
class Distances(Head):
    """score = item bias (if there is one) - distance between the state and the item's point.

    ``kind`` of distance: ``squared_l2`` or ``l1``.
    """

    log_odds = False

    def __init__(self, points: Lookup, bias: Lookup | None = None, kind: str = "squared_l2") -> None:
        """``points`` returns (*items.shape, D), ``bias`` returns (*items.shape)."""
        self.points = points
        self.bias = bias
        self.l1 = kind == "l1"

    def score(self, states: State, items: Tensor) -> Tensor:
        points, states = self.points(items), one_tensor(states)
        distances = (states.unsqueeze(-2) - points).abs().sum(-1) if self.l1 else squared_distances(states, points)
        return self._scores(distances, items)

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        states = one_tensor(states)
        distances_XC = self._distances(states.flatten(0, -2), self.points(items_C))
        return self._scores(distances_XC.view(*states.shape[:-1], -1), items_C)

    def score_all(self, states: State) -> Tensor:
        return self._scores(self._distances(one_tensor(states), self.points(None)), None)

    def _distances(self, states_XD: Tensor, points_MD: Tensor) -> Tensor:
        """Of every state to every point (X, M)."""
        return torch.cdist(states_XD, points_MD, p=1) if self.l1 else all_squared_distances(states_XD, points_MD)

    def _scores(self, distances: Tensor, items: Tensor | None) -> Tensor:
        return -distances if self.bias is None else self.bias(items) - distances


@final
class Mixture(Head):
    """score = w first(first half of the state) + (1 - w) second(second half of the state), two heads."""

    def __init__(self, w: float, first: Head, second: Head) -> None:
        self.w = w
        self.first = first
        self.second = second
        self.log_odds = first.log_odds and second.log_odds

    def score(self, states: State, items: Tensor) -> Tensor:
        halves = one_tensor(states).chunk(2, -1)
        return self._mix(self.first.score(halves[0], items), self.second.score(halves[1], items))

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        halves = one_tensor(states).chunk(2, -1)
        return self._mix(self.first.score_shared(halves[0], items_C), self.second.score_shared(halves[1], items_C))

    def score_all(self, states: State) -> Tensor:
        halves = one_tensor(states).chunk(2, -1)
        return self._mix(self.first.score_all(halves[0]), self.second.score_all(halves[1]))

    def _mix(self, first: Tensor, second: Tensor) -> Tensor:
        return self.w * first + (1 - self.w) * second
