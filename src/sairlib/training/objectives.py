"""What a model is asked to predict in training: from users to a batch, from a batch to the parts of the loss."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
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
    """What is to be predicted, and what it costs. ``batch_size``: users of a batch."""

    def __init__(self, loss: Loss, sampler: Sampler | None, store: SequenceStore, batch_size: int) -> None:
        self.cost = loss
        self.sampler = sampler
        self.store = store
        self.batch_size = batch_size

    @abstractmethod
    def steps(self) -> float:
        """How many steps an epoch asks about, on average."""

    @cached_property
    def steps_per_batch(self) -> float:
        """What a batch's summed loss is divided by: every step of an epoch then weighs the same.

        Batches are grouped by length. Divided by its own number of steps, a batch of short sequences would give each
        step many times the weight of one in a batch of long sequences.
        """
        return self.steps() / self.store.n_batches(self.batch_size)

    @property
    def rows_per_batch(self) -> float:
        """About so many items a batch looks up: inputs, targets and their negatives."""
        drawn = self.sampler.n if self.sampler else 0
        return self.store.n_train_steps / self.store.n_batches(self.batch_size) * (2 + drawn)

    def check(self, model: Recommender) -> None:
        """UserError for a model that this objective, or its loss, has no meaning for."""
        self.cost.check(model, self.sampler)

    def batches(
        self, rows: Rows, generator: torch.Generator, steps_at_once: int | None = None
    ) -> Iterator[tuple[Batch, float]]:
        """A batch, or its pieces of about so many steps; each with the share of the batch that it is."""
        draw = self.sampler.begin(generator) if self.sampler else None
        for piece in self.store.pieces(rows, steps_at_once):
            yield self.batch(piece, generator, draw), len(piece.users_B) / len(rows.users_B)

    @abstractmethod
    def batch(self, rows: Rows, generator: torch.Generator, draw: Draw | None) -> Batch:
        """What is asked about these users."""

    @abstractmethod
    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        """States (X, ...), their targets (X, S), and what these are told from."""

    def loss(self, model: Recommender, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Named scalars whose sum is to be minimised. ``share``: the batch is so much of a whole one."""
        states, targets_XS, negatives = self.states(model, batch)
        total = self.cost.each(model, states, targets_XS, negatives).sum() / self.steps_per_batch
        others = model.auxiliary(batch, states).items()
        return {self.cost.name: total, **{name: share * value for name, value in others}}


@final
class NextItem(Objective):
    """The next item at every step (or the next ``n_targets`` of them, as Caser and AttRec have it)."""

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
        return states, batch.targets_BNS.flatten(0, 1), _rows(batch.negatives)


@final
class Prefix(Objective):
    """The item after a prefix, for models that see the whole of what they are given.

    ``draw``: ``pairs`` draws from all pairs of a user and one of its prefixes, each with the same chance. The public
    codes of these models weigh them so. An epoch here draws as many pairs as there are users; one of theirs shows
    all pairs, some 160 times as many on ML-1M. ``users`` takes every user once in an epoch, cut at a step drawn anew: a
    step of a user with few then weighs many times one of a user with many.
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
        at_B = torch.rand(len(users_B), generator=generator, device=users_B.device, dtype=torch.float64)
        if self.pairs:
            users_B, ends_B = store.prefixes(at_B)
        else:
            ends_B = 1 + (at_B * (store.train_lengths[users_B] - 1)).long()
        targets_B11 = store.items[store.starts[users_B] + ends_B][:, None, None]
        drawn = draw(users_B, (1, 1)) if draw else None
        return Batch(store.history(users_B, ends_B, store.max_len), targets_B11, drawn)

    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        return model.newest(batch.history), batch.targets_BNS.flatten(0, 1), _rows(batch.negatives)


@final
class Cloze(Objective):
    """Items hidden at random are told from all others (BERT4Rec, section 3.6).

    Each step is hidden with probability ``mask_share``, at least one of a sequence; of a ``last_share`` of the
    sequences the newest alone, which is what the evaluation asks. Every hidden step counts once.
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
        drawn_U = self.mask_share * lengths_U + (1 - self.mask_share) ** lengths_U  # none was: then one is taken
        return float((self.last_share + (1 - self.last_share) * drawn_U).sum())

    def check(self, model: Recommender) -> None:
        super().check(model)
        if not isinstance(model, ClozeModel):
            raise UserError(f"{type(model).__name__} has no mask item; choose objective=next_item or prefix")

    def batch(self, rows: Rows, generator: torch.Generator, draw: Draw | None) -> Batch:
        store = self.store
        history = store.history(rows.users_B, store.train_lengths[rows.users_B], store.max_len)
        hidden_BN = self._hidden(history.items_BN, generator)
        targets_BN1 = torch.where(hidden_BN, history.items_BN, PAD)[..., None]
        drawn = draw(rows.users_B, (targets_BN1.shape[1], 1)) if draw else None
        return Batch(history, targets_BN1, drawn)

    def _hidden(self, items_BN: Tensor, generator: torch.Generator) -> Tensor:
        drawn: dict[str, Any] = {"generator": generator, "device": items_BN.device}
        real_BN, lengths_B = items_BN != PAD, lengths(items_BN)
        steps_N = torch.arange(items_BN.shape[1], device=items_BN.device)
        one_B = (torch.rand(len(items_BN), **drawn) * lengths_B).long()  # of those of which none was hidden: this one
        last_B = torch.rand(len(items_BN), **drawn) < self.last_share
        hidden_BN = (torch.rand(items_BN.shape, **drawn) < self.mask_share) & real_BN & ~last_B[:, None]
        one_B = torch.where(last_B, lengths_B - 1, one_B)
        return torch.where(hidden_BN.any(1, keepdim=True), hidden_BN, (steps_N == one_B[:, None]) & real_BN)

    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        assert isinstance(model, ClozeModel)
        hidden_BN = batch.targets_BNS[..., 0] != PAD
        items_BN = batch.history.items_BN.masked_fill(hidden_BN, model.mask_item)
        states = map_state(
            lambda states_BN: states_BN[hidden_BN], model.encode(batch.history._replace(items_BN=items_BN))
        )
        drawn = batch.negatives
        if drawn is not None and not drawn.shared:
            expected = drawn.log_expected.expand(*drawn.items_BNSC.shape[:-1], -1)
            drawn = Negatives(drawn.items_BNSC[hidden_BN], expected[hidden_BN])
        return states, batch.targets_BNS[hidden_BN], drawn


def _rows(negatives: Negatives | None) -> Negatives | None:
    """Those of every step in a row of its own: X in the place of (B, N)."""
    if negatives is None or negatives.shared:
        return negatives
    expected = negatives.log_expected.expand(*negatives.items_BNSC.shape[:-1], -1)
    return Negatives(negatives.items_BNSC.flatten(0, 1), expected.flatten(0, 1))
