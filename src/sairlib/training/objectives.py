"""Objectives: what a model learns to predict. They make batches of users, and the loss of a batch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from sairlib.batch import Batch, Negatives, State, map_state
from sairlib.data.sequences import Rows, SequenceStore
from sairlib.errors import UserError
from sairlib.models.recommender import Carried, CategoryModel, ClozeModel, Recommender, StepModel
from sairlib.training.losses import DrawnLoss, Loss, scored_with_all
from sairlib.training.negatives import Draw, Sampler


class Batches(Protocol):
    """The batches of an epoch, by their number from 0."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Rows: ...


class Objective(ABC):
    """What a model learns to predict, and the cost of a wrong prediction. ``batch_size``: users per batch."""

    def __init__(self, loss: Loss, sampler: Sampler | None, store: SequenceStore, batch_size: int) -> None:
        self.cost = loss
        self.sampler = sampler
        self.store = store
        self.batch_size = batch_size

    @abstractmethod
    def steps(self) -> float:
        """How many steps have a target in an epoch, on average."""

    @cached_property
    def steps_per_batch(self) -> float:
        """The divisor of a batch's summed loss: the average number of steps with a target.

        It is the same for all batches, so that every step of an epoch weighs the same. Batches are grouped by length:
        divided by its own number of steps, a batch of short sequences would give each step a far higher weight.
        """
        return self.steps() / self.n_batches()

    @property
    def rows_per_batch(self) -> float:
        """About how many items a batch looks up: inputs, targets and negatives. Infinity: it scores all items."""
        if self.sampler is None or scored_with_all(self.store.n_items, self.sampler.n):
            return math.inf
        return self.store.n_train_steps / self.n_batches() * (2 + self.sampler.n)

    def n_batches(self) -> int:
        """How many batches an epoch has."""
        return self.store.n_batches(self.batch_size)

    def epoch(self, window: int, generator: torch.Generator) -> Batches:
        """The batches of an epoch, each training user once. ``window``: as in ``SequenceStore.epoch``."""
        return self.store.epoch(self.batch_size, window, generator)

    def few(self) -> Rows:
        """A small batch to try a model on."""
        return self.store.first_rows(8)

    def carried(self, model: Recommender) -> Carried | None:
        """What one batch leaves to the next, as part of a trainer's state; None if nothing."""
        return None

    def carry(self, carried: Carried) -> None:
        """Go on with what ``carried`` returned."""
        raise NotImplementedError(f"{type(self).__name__} carries nothing")

    def check(self, model: Recommender) -> None:
        """UserError if this objective or its loss is not defined for the model."""
        if self.sampler is None and isinstance(self.cost, DrawnLoss):
            raise UserError(f"loss={self.cost.name} needs negatives: choose negatives=uniform, shared or popular")
        self.cost.check(model, self.sampler)

    def batches(
        self, rows: Rows, generator: torch.Generator, steps_at_once: int | None = None
    ) -> Iterator[tuple[Batch, float]]:
        """The batch of these users, or its pieces of about ``steps_at_once`` steps; each with its share of users."""
        draw = self.sampler.begin(generator) if self.sampler else None
        for piece in self.store.pieces(rows, steps_at_once):
            yield self.batch(piece, generator, draw), len(piece.users_B) / len(rows.users_B)

    @abstractmethod
    def batch(self, rows: Rows, generator: torch.Generator, draw: Draw | None) -> Batch:
        """The batch of these users."""

    @abstractmethod
    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        """States (X, ...), their targets (X, S), and the negatives of these."""

    def loss(self, model: Recommender, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Named scalars; training minimises their sum. ``share``: as from ``batches``."""
        states, targets_XS, negatives = self.states(model, batch)
        total = self.cost.each(model, states, targets_XS, negatives).sum() / self.steps_per_batch
        auxiliary = model.auxiliary(batch, states)
        return {self.cost.name: total, **{name: share * value for name, value in auxiliary.items()}}


@final
class NextItem(Objective):
    """Predicts the next item at every step, or the next ``n_targets`` items, as in Caser and AttRec.

    ``given_category``: a model that predicts the category of the next item first, and the item by it, is told the true
    one, as in CoCoRec.
    """

    def __init__(
        self,
        loss: Loss,
        sampler: Sampler | None,
        store: SequenceStore,
        batch_size: int,
        n_targets: int = 1,
        given_category: bool = False,
    ) -> None:
        super().__init__(loss, sampler, store, batch_size)
        if not 1 <= n_targets <= store.max_len:
            raise UserError(f"n_targets={n_targets}: must be between 1 and max_len={store.max_len}")
        if given_category and n_targets > 1:
            raise UserError(f"n_targets={n_targets}: with given_category only the next item's category can be told")
        self.n_targets = n_targets
        self.given_category = given_category

    def steps(self) -> float:
        return self.store.n_train_steps

    def check(self, model: Recommender) -> None:
        super().check(model)
        if not isinstance(model, StepModel):
            raise UserError(
                f"{type(model).__name__} sees the whole sequence: training every step would leak the target;"
                f" choose objective={'cloze' if isinstance(model, ClozeModel) else 'prefix'}"
            )
        if self.given_category and not isinstance(model, CategoryModel):
            raise UserError(f"{type(model).__name__} takes no category of the next item; choose objective=next_item")

    def batch(self, rows: Rows, generator: torch.Generator, draw: Draw | None) -> Batch:
        return every_step(self.store, rows, draw, self.n_targets)

    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        assert isinstance(model, StepModel)
        if self.given_category:
            assert isinstance(model, CategoryModel)
            encoded = model.encode_given(batch.history, batch.targets_BNS[..., 0])
        else:
            encoded = model.encode(batch.history)
        return flat(encoded, batch)


def every_step(store: SequenceStore, rows: Rows, draw: Draw | None, n_targets: int = 1) -> Batch:
    """The newest training steps of these users, each with its next ``n_targets`` items."""
    history, targets_BN = store.train_window(rows)
    later = [pad(targets_BN, (0, shift))[:, shift:] for shift in range(1, n_targets)]
    targets_BNS = torch.stack([targets_BN, *later], -1)
    return Batch(history, targets_BNS, draw(rows.users_B, tuple(targets_BNS.shape[1:])) if draw else None)


def flat(encoded: State, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
    """States (B, N, ...), targets and negatives of every step with X in place of (B, N)."""
    states = map_state(lambda states_BN: states_BN.flatten(0, 1), encoded)
    return states, batch.targets_BNS.flatten(0, 1), flattened(batch.negatives)


def flattened(negatives: Negatives | None) -> Negatives | None:
    """With X in place of (B, N)."""
    return mapped(negatives, lambda tensor_BN: tensor_BN.flatten(0, 1))


def mapped(negatives: Negatives | None, function: Callable[[Tensor], Tensor]) -> Negatives | None:
    """``function`` of the tensors of own negatives; shared ones stay as they are."""
    if negatives is None or negatives.shared:
        return negatives
    log_expected = negatives.log_expected.expand(*negatives.items_BNSC.shape[:-1], -1)
    return Negatives(function(negatives.items_BNSC), function(log_expected))
