"""What a model is: the abstract types of models, and the heads by which their states score items."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sairlib.batch import Batch, History, State, at_steps, last_steps, map_state
from sairlib.nn.kernels.distances import all_squared_distances, squared_distances


class Recommender(nn.Module, ABC):
    """Makes states of histories; its ``head`` scores items against them.

    A model is a final class under one of the three types below, which say what a state of it has seen. A variant is an
    argument or a part handed in, not a subclass.
    """

    n_items: int

    @property
    @abstractmethod
    def head(self) -> "Head":
        """How a state scores items."""

    @abstractmethod
    def newest(self, history: History) -> State:
        """The state (B, ...) that predicts what comes after each history; finite for an empty one."""

    def prepare(self, counts_M: Tensor) -> None:
        """Called once before training: how often each item occurs in the training part (M + 1)."""

    def after_step(self) -> None:
        """Called after every step of the optimiser: where weights are held to a ball, say."""

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        """Named scalars, already weighted, to be added to the loss: means over the batch. ``states`` are those that
        the loss scores."""
        return {}

    @torch.no_grad()
    def diagnose(self, history: History) -> dict[str, Tensor]:
        """Named figures worth plotting about these histories, scalars or vectors, averaged over the batch."""
        return {}

    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


class StepModel(Recommender):
    """A state at every step, a function of what came up to it alone: every step may be trained.

    ``memory``: how many of the newest items a state depends on, where that is a number; evaluation reads no more.
    """

    memory: int | None = None

    @abstractmethod
    def encode(self, history: History) -> State:
        """States (B, N, ...); what stands at padding is not looked at."""

    def newest(self, history: History) -> State:
        seen = history if self.memory is None else history.tail(self.memory)
        last_B = last_steps(seen.items_BN)
        return map_state(lambda states: at_steps(states, last_B), self.encode(seen))


class SequenceModel(Recommender):
    """One state for a whole sequence, which has seen all of it."""


class ClozeModel(Recommender):
    """Hidden items are told from all others, before and after them. ``mask_item`` is the number that hides one."""

    mask_item: int

    @abstractmethod
    def encode(self, history: History) -> State:
        """States (B, N, ...), of which those at ``mask_item`` mean something."""


Rows: TypeAlias = Callable[[Tensor | None], Tensor]
"""Gives something of each of these items (*items.shape, ...); of all M + 1, PAD's first, where they are None."""


class Head(ABC):
    """Scores of items against states, higher is better.

    ``log_odds``: whether scores may be read as such; negated distances, never above 0, may not.
    """

    log_odds: bool

    @abstractmethod
    def score(self, states: State, items: Tensor) -> Tensor:
        """Scores (..., C) of ``items`` (..., C), each row against its own state (..., D)."""

    @abstractmethod
    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        """Scores (..., C) of the same items against every state (..., D)."""

    @abstractmethod
    def score_all(self, states: State) -> Tensor:
        """Scores (B, M + 1) of every item against states (B, D); column 0 is PAD's and means nothing."""


def one_tensor(states: State) -> Tensor:
    """A state that has to be a single tensor."""
    if not isinstance(states, Tensor):
        raise TypeError("this head scores states of one tensor")
    return states


@final
class Products(Head):
    """<state, vector of the item> + its bias, where there is one."""

    log_odds = True

    def __init__(self, vectors: Rows, bias: Rows | None = None) -> None:
        """``vectors`` gives (*items.shape, D), ``bias`` (*items.shape)."""
        self.vectors = vectors
        self.bias = bias

    def of(self, items: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What states are multiplied with, and what is added."""
        return self.vectors(items), None if self.bias is None else self.bias(items)

    def score(self, states: State, items: Tensor) -> Tensor:
        vectors, bias = self.of(items)
        scores = (one_tensor(states).unsqueeze(-2) * vectors).sum(-1)
        return scores if bias is None else scores + bias

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        return linear(one_tensor(states), *self.of(items_C))

    def score_all(self, states: State) -> Tensor:
        return linear(one_tensor(states), *self.of(None))


@final
class Distances(Head):
    """The item's bias, where there is one, less the distance between the state and the item's point.

    ``kind``: ``squared_l2`` or ``l1``.
    """

    log_odds = False

    def __init__(self, points: Rows, bias: Rows | None = None, kind: str = "squared_l2") -> None:
        """``points`` gives (*items.shape, D), ``bias`` (*items.shape)."""
        self.points = points
        self.bias = bias
        self.l1 = kind == "l1"

    def score(self, states: State, items: Tensor) -> Tensor:
        points, own = self.points(items), one_tensor(states)
        each = (own.unsqueeze(-2) - points).abs().sum(-1) if self.l1 else squared_distances(own, points)
        return self._less(each, items)

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        own = one_tensor(states)
        return self._less(self._all(own.flatten(0, -2), self.points(items_C)).view(*own.shape[:-1], -1), items_C)

    def score_all(self, states: State) -> Tensor:
        return self._less(self._all(one_tensor(states), self.points(None)), None)

    def _all(self, states_XD: Tensor, points_MD: Tensor) -> Tensor:
        return torch.cdist(states_XD, points_MD, p=1) if self.l1 else all_squared_distances(states_XD, points_MD)

    def _less(self, distances: Tensor, items: Tensor | None) -> Tensor:
        return -distances if self.bias is None else self.bias(items) - distances


@final
class Mixture(Head):
    """w times what one head makes of the first half of a state, and (1 - w) times what another makes of the second."""

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
