"""Objectives: what a model learns to predict. They make batches of users, and the loss of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from sairlib.batch import PAD, Batch, Negatives, State, lengths, map_state
from sairlib.data.sequences import Rows, SequenceStore
from sairlib.errors import UserError
from sairlib.models.recommender import ClozeModel, Recommender, StepModel
from sairlib.training.losses import Loss
from sairlib.training.negatives import Draw, Sampler

DRAWS = ("pairs", "users")


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
        return self.steps() / self.store.n_batches(self.batch_size)

    @property
    def rows_per_batch(self) -> float:
        """About how many items a batch looks up: inputs, targets and negatives."""
        n_negatives = self.sampler.n if self.sampler else 0
        return self.store.n_train_steps / self.store.n_batches(self.batch_size) * (2 + n_negatives)

    def check(self, model: Recommender) -> None:
        """UserError if this objective or its loss is not defined for the model."""
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
    """Predicts the next item at every step, or the next ``n_targets`` items, as in Caser and AttRec."""

    def __init__(
        self, loss: Loss, sampler: Sampler | None, store: SequenceStore, batch_size: int, n_targets: int = 1
    ) -> None:
        super().__init__(loss, sampler, store, batch_size)
        if n_targets < 1:
            raise UserError(f"n_targets={n_targets}: must be 1 or more")
        self.n_targets = n_targets

    def steps(self) -> float:
        return self.store.n_train_steps

    def check(self, model: Recommender) -> None:
        super().check(model)
        if not isinstance(model, StepModel):
            raise UserError(
                f"{type(model).__name__} sees the whole sequence: training every step would leak the target;"
                f" choose objective={'cloze' if isinstance(model, ClozeModel) else 'prefix'}"
            )

    def batch(self, rows: Rows, generator: torch.Generator, draw: Draw | None) -> Batch:
        history, targets_BN = self.store.train_window(rows)
        later = [pad(targets_BN, (0, shift))[:, shift:] for shift in range(1, self.n_targets)]
        targets_BNS = torch.stack([targets_BN, *later], -1)
        return Batch(history, targets_BNS, draw(rows.users_B, tuple(targets_BNS.shape[1:])) if draw else None)

    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        assert isinstance(model, StepModel)
        states = map_state(lambda states_BN: states_BN.flatten(0, 1), model.encode(batch.history))
        return states, batch.targets_BNS.flatten(0, 1), _flattened(batch.negatives)


@final
class Prefix(Objective):
    """Predicts the item after a prefix, for models whose state depends on the whole sequence.

    ``draw``: ``pairs`` draws uniformly from all pairs of a user and one of the user's prefixes. The models' public code
    weighs pairs so too, but its epoch shows all pairs; an epoch here draws as many pairs as there are users (1/160 of
    all on ML-1M). ``users`` takes every user once per epoch, cut at a random step: a step of a user with few steps then
    weighs much more than one of a user with many.
    """

    def __init__(
        self, loss: Loss, sampler: Sampler | None, store: SequenceStore, batch_size: int, draw: str = "pairs"
    ) -> None:
        super().__init__(loss, sampler, store, batch_size)
        if draw not in DRAWS:
            raise UserError(f"draw={draw}: choose one of {', '.join(DRAWS)}")
        self.pairs = draw == "pairs"

    def steps(self) -> float:
        return float(len(self.store.train_users))

    def check(self, model: Recommender) -> None:
        super().check(model)
        if isinstance(model, ClozeModel):
            raise UserError(f"{type(model).__name__} is trained on masked items; choose objective=cloze")

    def batch(self, rows: Rows, generator: torch.Generator, draw: Draw | None) -> Batch:
        users_B, store = rows.users_B, self.store
        random_B = torch.rand(len(users_B), generator=generator, device=users_B.device, dtype=torch.float64)
        if self.pairs:
            users_B, ends_B = store.prefixes(random_B)
        else:
            ends_B = 1 + (random_B * (store.train_lengths[users_B] - 1)).long()
        targets_B11 = store.items[store.starts[users_B] + ends_B][:, None, None]
        negatives = draw(users_B, (1, 1)) if draw else None
        return Batch(store.history(users_B, ends_B, store.max_len), targets_B11, negatives)

    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        return model.newest(batch.history), batch.targets_BNS.flatten(0, 1), _flattened(batch.negatives)


@final
class Cloze(Objective):
    """Predicts items hidden at random (BERT4Rec, section 3.6).

    Each step is hidden with probability ``mask_share``, but at least one per sequence. In a ``last_share`` of the
    sequences only the newest step is hidden, as in evaluation. Every hidden step weighs the same.
    """

    def __init__(
        self,
        loss: Loss,
        sampler: Sampler | None,
        store: SequenceStore,
        batch_size: int,
        mask_share: float = 0.2,
        last_share: float = 0.1,
    ) -> None:
        super().__init__(loss, sampler, store, batch_size)
        for name, value in (("mask_share", mask_share), ("last_share", last_share)):
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value}: must be between 0 and 1")
        self.mask_share = mask_share
        self.last_share = last_share

    def steps(self) -> float:
        lengths_U = self.store.train_lengths[self.store.train_users].clamp(max=self.store.max_len).double()
        hidden_U = self.mask_share * lengths_U + (1 - self.mask_share) ** lengths_U  # if none is drawn, one is hidden
        return float((self.last_share + (1 - self.last_share) * hidden_U).sum())

    def check(self, model: Recommender) -> None:
        super().check(model)
        if not isinstance(model, ClozeModel):
            raise UserError(f"{type(model).__name__} has no mask item; choose objective=next_item or prefix")

    def batch(self, rows: Rows, generator: torch.Generator, draw: Draw | None) -> Batch:
        store = self.store
        history = store.history(rows.users_B, store.train_lengths[rows.users_B], store.max_len)
        hidden_BN = self._hidden(history.items_BN, generator)
        targets_BN1 = torch.where(hidden_BN, history.items_BN, PAD)[..., None]
        negatives = draw(rows.users_B, (targets_BN1.shape[1], 1)) if draw else None
        return Batch(history, targets_BN1, negatives)

    def _hidden(self, items_BN: Tensor, generator: torch.Generator) -> Tensor:
        """Which steps are hidden (B, N)."""
        options: dict[str, Any] = {"generator": generator, "device": items_BN.device}
        real_BN, lengths_B = items_BN != PAD, lengths(items_BN)
        steps_N = torch.arange(items_BN.shape[1], device=items_BN.device)
        one_B = (torch.rand(len(items_BN), **options) * lengths_B).long()  # hidden if no other step is
        last_B = torch.rand(len(items_BN), **options) < self.last_share
        hidden_BN = (torch.rand(items_BN.shape, **options) < self.mask_share) & real_BN & ~last_B[:, None]
        one_B = torch.where(last_B, lengths_B - 1, one_B)
        return torch.where(hidden_BN.any(1, keepdim=True), hidden_BN, (steps_N == one_B[:, None]) & real_BN)

    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        assert isinstance(model, ClozeModel)
        hidden_BN = batch.targets_BNS[..., 0] != PAD
        items_BN = batch.history.items_BN.masked_fill(hidden_BN, model.mask_item)
        states_BN = model.encode(batch.history._replace(items_BN=items_BN))
        states = map_state(lambda tensor_BN: tensor_BN[hidden_BN], states_BN)
        return states, batch.targets_BNS[hidden_BN], _mapped(batch.negatives, lambda tensor_BN: tensor_BN[hidden_BN])


def _flattened(negatives: Negatives | None) -> Negatives | None:
    """With X in place of (B, N)."""
    return _mapped(negatives, lambda tensor_BN: tensor_BN.flatten(0, 1))


def _mapped(negatives: Negatives | None, function: Callable[[Tensor], Tensor]) -> Negatives | None:
    """``function`` of the tensors of own negatives; shared ones stay as they are."""
    if negatives is None or negatives.shared:
        return negatives
    log_expected = negatives.log_expected.expand(*negatives.items_BNSC.shape[:-1], -1)
    return Negatives(function(negatives.items_BNSC), function(log_expected))
