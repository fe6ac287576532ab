"""What a model is asked to predict in training: from users to a batch, from a batch to the parts of the loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from sairlib import losses
from sairlib.batch import PAD, Batch, lengths
from sairlib.data.negatives import Sampler
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.models.recommender import Recommender
from sairlib.nn.kernels.parts import in_parts
from sairlib.nn.kernels.softmax import softmax_of_products

DRAWS = ("pairs", "users")
Loss = Callable[..., Tensor]
"""A function of ``losses.py``, or a ``partial`` of one."""


class Objective(ABC):
    """What is to be predicted.

    ``steps_per_batch`` is what a batch's summed loss is divided by, its steps on average over an epoch: every step that
    is asked about then weighs the same. None takes the batch's own count. Batches are grouped by length, and with their
    own counts a step of a short sequence would weigh many times one of a long sequence.
    """

    def __init__(self, loss: Loss, sampler: Sampler, steps_per_batch: float | None = None) -> None:
        self.loss_function = loss
        self.sampler = sampler
        self.steps_per_batch = steps_per_batch
        self.name: str = (loss.func if isinstance(loss, partial) else loss).__name__
        self.full = self.name == losses.softmax.__name__

    @property
    def in_pieces(self) -> bool:
        """Whether a batch's gradient is the sum of its pieces'."""
        return self.steps_per_batch is not None

    @abstractmethod
    def steps(self, store: SequenceStore) -> float:
        """How many steps an epoch asks about, on average."""

    @abstractmethod
    def batch(
        self, store: SequenceStore, users_B: Tensor, generator: torch.Generator, n_steps: int | None = None
    ) -> Batch:
        """What is asked about ``users_B``, with fresh negatives; ``n_steps`` as in ``SequenceStore.train_window``."""

    @abstractmethod
    def loss(self, model: Recommender, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Named scalars whose sum is to be minimised. ``share``: the batch is so much of a whole one."""

    @abstractmethod
    def check(self, model: Recommender) -> None:
        """UserError for a model, or a loss, that this has no meaning for."""
        if self.name in ("bce", "gbce") and not model.log_odds:
            raise UserError(
                f"loss={self.name} reads scores as log-odds, and those of {type(model).__name__} are negated distances,"
                " never above 0; choose bpr, hinge, softmax or sampled_softmax"
            )

    def _negatives(self, users_B: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.full:  # all items are its negatives: none to draw
            return users_B.new_zeros(0), torch.zeros(0, device=users_B.device)
        return self.sampler.draw(users_B, shape, generator)

    def _each(self, model: Recommender, states: Tensor, batch: Batch, targets: Tensor) -> Tensor:
        """What each of the targets (..., S) costs, seen from its state (..., D); 0 where it is PAD."""
        counts = targets != PAD
        asked_X = counts.any(-1).flatten()
        rows, scores_per_row = [states.flatten(0, -2), targets.flatten(0, -2)], model.n_items + 1
        if not self.full:
            scores_per_row = targets.shape[-1] * (1 + batch.negatives.shape[-1])
            if batch.negatives.dim() > 1:
                log_expected = batch.log_expected.expand(*targets.shape, -1)
                rows += [batch.negatives.flatten(0, -3), log_expected.flatten(0, -3)]
        if self.full and model.by_products:
            each = softmax_of_products(rows[0], *model.item_vectors(None), rows[1], asked_X)
        else:
            each = in_parts(partial(self._cost, model, batch), scores_per_row, asked_X, *rows)
        return each.view(targets.shape).where(counts, 0.0)

    def _cost(self, model: Recommender, batch: Batch, states_XD: Tensor, targets_XS: Tensor, *own: Tensor) -> Tensor:
        """The same (X, S) of some rows, with the negatives (X, S, C) that are their ``own``; where PAD, anything."""
        if self.full:
            return self.loss_function(model.score_all(states_XD), targets_XS)
        if own:
            negatives, log_expected = own
            candidates = torch.cat([targets_XS[..., None], negatives], -1)
            scores = model.score(states_XD, candidates.flatten(1)).view(candidates.shape)
            counts = candidates != PAD
        else:
            negatives, log_expected = batch.negatives, batch.log_expected
            positive, negative = model.score(states_XD, targets_XS), model.score_shared(states_XD, negatives)
            scores = torch.cat([positive[..., None], negative[:, None].expand(*targets_XS.shape, -1)], -1)
            counts = torch.cat([(targets_XS != PAD)[..., None], targets_XS[..., None] != negatives], -1)
        return self.loss_function(scores.float(), counts, log_expected)

    def _parts(self, each: Tensor, n_asked: Tensor | int, model: Recommender, share: float) -> dict[str, Tensor]:
        total = each.sum() / (self.steps_per_batch or n_asked)
        return {self.name: total, **{name: share * value for name, value in model.regularisers().items()}}


@final
class NextItem(Objective):
    """The next item at every step (or the next ``n_targets`` of them, as Caser and AttRec have it)."""

    def __init__(self, loss: Loss, sampler: Sampler, steps_per_batch: float | None = None, n_targets: int = 1) -> None:
        super().__init__(loss, sampler, steps_per_batch)
        if n_targets < 1:
            raise UserError(f"n_targets={n_targets}: must be 1 or more")
        self.n_targets = n_targets

    def steps(self, store: SequenceStore) -> float:
        return float(store.train_steps(store.train_rows).sum())

    def check(self, model: Recommender) -> None:
        super().check(model)
        if not model.every_step:
            raise UserError(
                f"{type(model).__name__} sees the whole sequence: training every step would leak the target;"
                f" choose objective={'prefix' if model.mask_item is None else 'cloze'}"
            )

    def batch(
        self, store: SequenceStore, users_B: Tensor, generator: torch.Generator, n_steps: int | None = None
    ) -> Batch:
        items_BN, targets_BN = store.train_window(users_B, n_steps)
        later = [torch.nn.functional.pad(targets_BN, (0, shift))[:, shift:] for shift in range(1, self.n_targets)]
        targets_BNS = torch.stack([targets_BN, *later], -1)
        drawn = self._negatives(users_B, tuple(targets_BNS.shape[1:]), generator)
        return Batch(users_B, items_BN, targets_BNS, *drawn)

    def loss(self, model: Recommender, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        each = self._each(model, model.encode(batch.items_BN, batch.users_B), batch, batch.targets_BNS)
        return self._parts(each, (batch.targets_BNS[..., 0] != PAD).sum().clamp_min(1), model, share)


@final
class Prefix(Objective):
    """The item after a prefix, for models that see the whole of what they are given.

    ``draw``: ``pairs`` draws from all pairs of a user and one of its prefixes, each with the same chance. The public
    codes of these models weigh them so. An epoch here draws as many pairs as there are users; one of theirs shows
    all pairs, some 160 times as many on ML-1M. ``users`` takes every user once in an epoch, cut at a step drawn anew: a
    step of a user with few then weighs many times one of a user with many.
    """

    def __init__(self, loss: Loss, sampler: Sampler, steps_per_batch: float | None = None, draw: str = "pairs") -> None:
        super().__init__(loss, sampler, steps_per_batch)
        if draw not in DRAWS:
            raise UserError(f"draw={draw}: choose one of {', '.join(DRAWS)}")
        self.draw = draw

    def steps(self, store: SequenceStore) -> float:
        return float(len(store.train_rows))

    def check(self, model: Recommender) -> None:
        super().check(model)
        if model.mask_item is not None:
            raise UserError(f"{type(model).__name__} is trained on masked items; choose objective=cloze")

    def batch(
        self, store: SequenceStore, users_B: Tensor, generator: torch.Generator, n_steps: int | None = None
    ) -> Batch:
        at_B = torch.rand(len(users_B), generator=generator, device=users_B.device, dtype=torch.float64)
        if self.draw == "pairs":
            users_B, ends_B = store.prefixes(at_B)
        else:
            ends_B = 1 + (at_B * (store.train_lengths[users_B] - 1)).long()
        targets_B11 = store.items[store.starts[users_B] + ends_B][:, None, None]
        drawn = self._negatives(users_B, (1, 1), generator)
        return Batch(users_B, store.windows(users_B, ends_B, store.max_len), targets_B11, *drawn)

    def loss(self, model: Recommender, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        states_B1D = model.encode_newest(batch.items_BN, batch.users_B)[:, None]
        each = self._each(model, states_B1D, batch, batch.targets_BNS)
        return self._parts(each, len(batch.users_B), model, share)


@final
class Cloze(Objective):
    """Items hidden at random are told from all others (BERT4Rec, section 3.6).

    Each step is hidden with probability ``mask_share``, at least one of a sequence; of a ``last_share`` of the
    sequences the newest alone, which is what the evaluation asks. Every hidden step counts once.
    """

    def __init__(
        self,
        loss: Loss,
        sampler: Sampler,
        steps_per_batch: float | None = None,
        mask_share: float = 0.2,
        last_share: float = 0.1,
    ) -> None:
        super().__init__(loss, sampler, steps_per_batch)
        for name, value in (("mask_share", mask_share), ("last_share", last_share)):
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value}: must be between 0 and 1")
        self.mask_share = mask_share
        self.last_share = last_share

    def steps(self, store: SequenceStore) -> float:
        lengths_U = store.train_lengths[store.train_rows].clamp(max=store.max_len).double()
        drawn_U = self.mask_share * lengths_U + (1 - self.mask_share) ** lengths_U  # none was: then one is taken
        return float((self.last_share + (1 - self.last_share) * drawn_U).sum())

    def check(self, model: Recommender) -> None:
        super().check(model)
        if model.mask_item is None:
            raise UserError(f"{type(model).__name__} has no mask item; choose objective=next_item or prefix")

    def batch(
        self, store: SequenceStore, users_B: Tensor, generator: torch.Generator, n_steps: int | None = None
    ) -> Batch:
        items_BN = store.windows(users_B, store.train_lengths[users_B], store.max_len)
        hidden_BN = self._hidden(items_BN, generator)
        targets_BN1 = torch.where(hidden_BN, items_BN, PAD)[..., None]
        # The mask's number is the first after the items'.
        masked_BN = torch.where(hidden_BN, store.n_items + 1, items_BN)
        return Batch(users_B, masked_BN, targets_BN1, *self._negatives(users_B, (items_BN.shape[1], 1), generator))

    def _hidden(self, items_BN: Tensor, generator: torch.Generator) -> Tensor:
        drawn: dict[str, Any] = {"generator": generator, "device": items_BN.device}
        real_BN, lengths_B = items_BN != PAD, lengths(items_BN)
        steps_N = torch.arange(items_BN.shape[1], device=items_BN.device)
        one_B = (torch.rand(len(items_BN), **drawn) * lengths_B).long()  # of those of which none was hidden: this one
        last_B = torch.rand(len(items_BN), **drawn) < self.last_share
        hidden_BN = (torch.rand(items_BN.shape, **drawn) < self.mask_share) & real_BN & ~last_B[:, None]
        one_B = torch.where(last_B, lengths_B - 1, one_B)
        return torch.where(hidden_BN.any(1, keepdim=True), hidden_BN, (steps_N == one_B[:, None]) & real_BN)

    def loss(self, model: Recommender, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        hidden_BN = batch.targets_BNS[..., 0] != PAD
        states_XD = model.encode(batch.items_BN, batch.users_B)[hidden_BN]
        if batch.negatives.dim() > 1:
            batch = batch._replace(
                negatives=batch.negatives[hidden_BN],
                log_expected=batch.log_expected.expand(*batch.negatives.shape)[hidden_BN],
            )
        each = self._each(model, states_XD, batch, batch.targets_BNS[hidden_BN])
        return self._parts(each, len(each), model, share)
