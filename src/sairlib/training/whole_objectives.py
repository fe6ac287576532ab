"""Objectives of models that see a whole sequence: the item after a prefix, and hidden items (cloze)."""

from typing import Any, final

import torch
from torch import Tensor

from sairlib.batch import PAD, Batch, Negatives, State, lengths, map_state
from sairlib.data.sequences import Rows, SequenceStore
from sairlib.errors import UserError
from sairlib.models.recommender import ClozeModel, PrefixModel, Recommender, StepModel
from sairlib.training.losses import Loss
from sairlib.training.negatives import Draw, Sampler
from sairlib.training.objectives import Objective, every_step, flat, flattened, mapped

DRAWS = ("pairs", "users", "all")


@final
class Prefix(Objective):
    """Predicts the item after a prefix, for models whose state depends on the whole sequence.

    ``draw``: ``pairs`` draws uniformly from all pairs of a user and one of the user's prefixes. The models' public code
    weighs pairs so too, but its epoch shows all pairs; an epoch here draws as many pairs as there are users (1/160 of
    all on ML-1M). ``users`` takes every user once per epoch, cut at a random step: a step of a user with few steps then
    weighs much more than one of a user with many. ``all`` draws nothing: an epoch has every prefix of each user's
    newest ``max_len`` training steps, for models that make all their states together (``PrefixModel``).
    """

    def __init__(
        self, loss: Loss, sampler: Sampler | None, store: SequenceStore, batch_size: int, draw: str = "pairs"
    ) -> None:
        super().__init__(loss, sampler, store, batch_size)
        if draw not in DRAWS:
            raise UserError(f"draw={draw}: choose one of {', '.join(DRAWS)}")
        self.draw = draw
        self.pairs_up_to = (store.train_lengths[store.train_users] - 1).cumsum(0)
        """How many pairs each training user and those before have (U)."""

    def steps(self) -> float:
        return self.store.n_train_steps if self.draw == "all" else float(len(self.store.train_users))

    def check(self, model: Recommender) -> None:
        super().check(model)
        if isinstance(model, ClozeModel):
            raise UserError(f"{type(model).__name__} is trained on masked items; choose objective=cloze")
        if self.draw == "all" and not isinstance(model, PrefixModel):
            raise UserError(
                f"objective.draw=all: {type(model).__name__} cannot make the states of all prefixes together; choose"
                f" {'objective=next_item' if isinstance(model, StepModel) else 'objective.draw=pairs'}"
            )

    def batch(self, rows: Rows, generator: torch.Generator, draw: Draw | None) -> Batch:
        users_B, store = rows.users_B, self.store
        if self.draw == "all":
            return every_step(store, rows, draw)
        random_B = torch.rand(len(users_B), generator=generator, device=users_B.device, dtype=torch.float64)
        if self.draw == "pairs":
            pair_B = (random_B * self.pairs_up_to[-1]).long()
            nth_B = torch.searchsorted(self.pairs_up_to, pair_B, right=True)
            users_B, ends_B = store.train_users[nth_B], self.pairs_up_to[nth_B] - pair_B
        else:
            ends_B = 1 + (random_B * (store.train_lengths[users_B] - 1)).long()
        targets_B11 = store.items[store.starts[users_B] + ends_B][:, None, None]
        negatives = draw(users_B, (1, 1)) if draw else None
        return Batch(store.history(users_B, ends_B, store.max_len), targets_B11, negatives)

    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        if self.draw == "all":
            assert isinstance(model, PrefixModel)
            return flat(model.encode_prefixes(batch.history), batch)
        return model.newest(batch.history), batch.targets_BNS.flatten(0, 1), flattened(batch.negatives)


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
        return states, batch.targets_BNS[hidden_BN], mapped(batch.negatives, lambda tensor_BN: tensor_BN[hidden_BN])
