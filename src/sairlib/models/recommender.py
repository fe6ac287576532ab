"""The abstract types of models, and the heads that score items against their states."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sairlib.batch import Batch, History, State, at_steps, last_steps, map_state


class Explanation(NamedTuple):
    """Which of a model's L interests make the state of each history."""

    relevance_BNL: Tensor
    """How much each step speaks for each interest."""
    interacted_BNL: Tensor
    """The same after the steps' relevances have attended to one another, as which interests are kept is decided."""
    kept_BNK: Tensor
    """The interests that each step keeps, strongest first."""
    weights_BNK: Tensor
    """Their weights, which sum to 1 at each step."""
    kept_BK: Tensor
    """``kept_BNK`` at the newest step."""
    weights_BK: Tensor
    """``weights_BNK`` at the newest step."""
    parts_BKD: Tensor
    """What each interest of ``kept_BK`` adds to the state."""
    rest_BD: Tensor
    """What else the state has: with it they sum to the state, and so do their scores of an item. Mostly zeros."""


class Interests(NamedTuple):
    """A model's L interests, and what they are related to: vectors of one space."""

    pool_LD: Tensor
    items_MD: Tensor
    """The vectors of all M + 1 items as they enter the model, PAD first."""
    categories_TD: Tensor | None
    """Those of the T categories; None for a model that does not use them."""


Carried: TypeAlias = tuple[Tensor, ...]
"""What a model carries from one step of B sequences to the next: tensors (B, ...) of real numbers."""


class Recommender(nn.Module, ABC):
    """A model turns histories into states; its ``head`` scores items against them.

    Derive a model from one of the types below, which differ in what a state has seen, and mark it ``@final``.
    Make a variant an argument, or a part that is passed in, not a subclass.
    """

    n_items: int
    needs_times: str | None = None
    """The option because of which histories must have times, UserError without; None if they need none."""

    @property
    @abstractmethod
    def head(self) -> "Head":
        """Scores items against the states."""

    @abstractmethod
    def newest(self, history: History) -> State:
        """The states (B, ...) that predict the item after each history; finite for an empty history."""

    def prepare(self, counts_M: Tensor, history: History) -> None:
        """Called once before training, with how often each item occurs in the training part (M + 1), and some histories
        of it."""

    def after_step(self) -> None:
        """Called after every optimiser step, for example to limit the norm of the weights."""

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        """Named scalars to add to the loss: weighted means over the batch. ``states``: those that the loss scores."""
        return {}

    @torch.no_grad()
    def diagnose(self, history: History) -> dict[str, Tensor]:
        """Named figures to plot, scalars or vectors, averaged over these histories."""
        return {}

    @torch.no_grad()
    def explain(self, history: History) -> Explanation | None:
        """Which interests make the states of ``newest``; None for a model without interests."""
        return None

    @torch.no_grad()
    def interests(self) -> Interests | None:
        """The interests of ``explain`` as vectors; None for a model without interests."""
        return None

    @torch.no_grad()
    def attentions(self, history: History) -> Iterator[tuple[str, Tensor]]:
        """A name for each causal attention over the steps, and its weights (B, H, N, N), one after the other.

        Row t of the last two dimensions has the weights of the steps up to t; rows of padding mean nothing. No such
        attention, nothing.
        """
        return iter(())

    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


class StepModel(Recommender):
    """One state per step, which depends only on the history up to that step. Every step can be trained.

    ``memory``: how many of the newest items a state depends on; evaluation reads only these. None: all items.
    """

    memory: int | None = None

    @abstractmethod
    def encode(self, history: History) -> State:
        """States (B, N, ...). Those at padding are not used."""

    def newest(self, history: History) -> State:
        recent = history if self.memory is None else history.tail(self.memory)
        last_B = last_steps(recent.items_BN)
        return map_state(lambda states: at_steps(states, last_B), self.encode(recent))


class RecurrentModel(StepModel):
    """A step model that can also be run one step at a time: what a step leaves behind is carried to the next.

    In evaluation, the states of a sequence that is run so are those of ``encode``.
    """

    @abstractmethod
    def start(self, n: int) -> Carried:
        """What is carried to the first step of ``n`` sequences."""

    @abstractmethod
    def step(self, history: History, carried: Carried) -> tuple[State, Carried]:
        """States (B, 1, ...) of a history of one step, none of it padding, and what is carried to the step after."""


class CategoryModel(StepModel):
    """A StepModel that may be told the category of each next item, in training alone: ``objective=given_category``."""

    @abstractmethod
    def encode_given(self, history: History, targets_BN: Tensor) -> State:
        """States (B, N, ...) for training: the one before each target depends on its category, and else as ``encode``
        only on the history up to that step. PAD stands for no target."""


class SequenceModel(Recommender):
    """One state per sequence, which depends on all of it."""


class PrefixModel(SequenceModel):
    """A SequenceModel that makes the states of all prefixes together, in less time than one by one:
    ``objective=prefix objective.draw=all``."""

    @abstractmethod
    def encode_prefixes(self, history: History) -> State:
        """States (B, N, ...): at each step that of ``newest`` for the history up to it. Those at padding are not
        used."""


class ClozeModel(Recommender):
    """Predicts hidden items from the items before and after them. The id ``mask_item`` replaces a hidden item."""

    mask_item: int

    @abstractmethod
    def encode(self, history: History) -> State:
        """States (B, N, ...). Only those at ``mask_item`` are used."""


Lookup: TypeAlias = Callable[[Tensor | None], Tensor]
"""From item ids to a vector or number of each (*items.shape, ...). None stands for all M + 1 ids, PAD first."""


class Head(ABC):
    """Scores items against states; higher is better.

    ``log_odds``: whether a loss may read the scores as log-odds. Negated distances, never above 0, are none.
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
        """Scores (B, M + 1) of all items against states (B, D). Column 0 belongs to PAD and is not used."""


def one_tensor(states: State) -> Tensor:
    """The state itself; TypeError if it is a tuple of tensors."""
    if not isinstance(states, Tensor):
        raise TypeError("this head scores states of one tensor")
    return states


@final
class Products(Head):
    """score = <state, item vector> + item bias (if there is a bias)."""

    log_odds = True

    def __init__(self, vectors: Lookup, bias: Lookup | None = None) -> None:
        """``vectors`` returns (*items.shape, D), ``bias`` returns (*items.shape)."""
        self.vectors = vectors
        self.bias = bias

    def of(self, items: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The vectors and biases of ``items``; None stands for all items."""
        return self.vectors(items), None if self.bias is None else self.bias(items)

    def score(self, states: State, items: Tensor) -> Tensor:
        vectors, bias = self.of(items)
        scores = (one_tensor(states).unsqueeze(-2) * vectors).sum(-1)
        return scores if bias is None else scores + bias

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        return linear(one_tensor(states), *self.of(items_C))

    def score_all(self, states: State) -> Tensor:
        return linear(one_tensor(states), *self.of(None))
