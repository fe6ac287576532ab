"""Heads beside products: distances, and a mixture of two heads; and the parts that make a model's head."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sairlib.batch import State
from sairlib.errors import UserError
from sairlib.models.recommender import Head, Lookup, Products, one_tensor
from sairlib.nn.kernels.distances import all_squared_distances, squared_distances
from sairlib.nn.kernels.lookup import rows
from sairlib.nn.layers import Table

DISTANCES = ("squared_l2", "l1")
SHORTEST = 1e-6
"""Vectors shorter than this are divided by it, not by their length."""


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


class HeadPart(ABC):
    """How a model's states score items: a part that is handed to a model, the group ``model/head``."""

    @abstractmethod
    def head(self, table: Table, vectors: Lookup | None = None, bias: Lookup | None = None) -> Head:
        """Scores items by their vectors: those of ``table``, or ``vectors``, made from it."""

    def scale(self, states: Tensor) -> Tensor | None:
        """By what states (..., D) are multiplied before they are scored (..., 1); None: by nothing."""
        return None

    def states(self, states: Tensor) -> Tensor:
        """The states that are scored."""
        scale = self.scale(states)
        return states if scale is None else states * scale


@final
@dataclass(frozen=True)
class ByProducts(HeadPart):
    """score = <state, item vector> + bias, as nearly all models have it."""

    def head(self, table: Table, vectors: Lookup | None = None, bias: Lookup | None = None) -> Head:
        return Products(vectors or table.of, bias)


@final
@dataclass(frozen=True)
class ByCosines(HeadPart):
    """score = cosine of state and item vector / ``temperature`` + bias. UserError for a temperature of 0 or less."""

    temperature: float = 0.05

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"head.temperature={self.temperature}: must be more than 0")

    def head(self, table: Table, vectors: Lookup | None = None, bias: Lookup | None = None) -> Head:
        raw = vectors or table.of

        def units(items: Tensor | None) -> Tensor:
            if items is None or table.sparse or items.numel() < len(table.weight):
                return normalize(raw(items), dim=-1, eps=SHORTEST)
            # The items of a batch are more than there are: fewer vectors are scaled so.
            return rows(normalize(raw(None), dim=-1, eps=SHORTEST), items, table.padding_idx)

        return Products(units, bias)

    def scale(self, states: Tensor) -> Tensor:
        lengths: Tensor = states.norm(dim=-1, keepdim=True)
        return 1 / (lengths.clamp_min(SHORTEST) * self.temperature)


@final
@dataclass(frozen=True)
class ByDistances(HeadPart):
    """score = bias - distance of state and item vector, ``kind`` as in ``Distances``. Needs a loss that compares scores
    (``bpr``, ``hinge``, ``softmax``, ...): they are no log-odds."""

    kind: str = "squared_l2"

    def __post_init__(self) -> None:
        if self.kind not in DISTANCES:
            raise UserError(f"head.kind={self.kind!r}: choose one of {', '.join(DISTANCES)}")

    def head(self, table: Table, vectors: Lookup | None = None, bias: Lookup | None = None) -> Head:
        return Distances(vectors or table.of, bias, self.kind)
