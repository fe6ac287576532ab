"""Session-parallel mini-batches: one step of each of B sequences at a time, the state carried from batch to batch."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from sairlib import processes
from sairlib.batch import Batch, History, Negatives, State, map_state
from sairlib.data.sequences import Lanes, Rows, SequenceStore
from sairlib.errors import UserError
from sairlib.models.recommender import Carried, Recommender, RecurrentModel
from sairlib.training.gbce import GBCE
from sairlib.training.losses import DrawnLoss, Loss
from sairlib.training.negatives import Draw, Sampler
from sairlib.training.objectives import Objective
from sairlib.training.shared_negatives import ByWeight


@final
class SessionParallel(Objective):
    """Predicts the next item, one step of each of B sessions at a time, as GRU4Rec is trained in its papers.

    A user's training steps, at most the newest ``max_len``, are a session. ``batch_size`` is B: each of B lanes walks
    through one session after the other, one step a batch. A state is carried from a batch to the next without its
    gradient, and starts anew with each session (Hidasi et al., 2016, section 3.1.1). The negatives of a target are the
    targets of the other lanes (section 3.1.2), and those that the sampler, if there is one, draws for the whole batch
    (Hidasi and Karatzoglou, 2018, section 3.1).

    Deviations from the papers and their authors' code:

    1. The order of the sessions is drawn anew for each epoch. They form one row of steps, which is cut into B lanes of
       the same length, or shorter by one. A session that a cut divides starts anew in the next lane: fewer than B in
       an epoch. The authors' code takes the sessions in the order of time, and gives the next one to the lane that is
       free first; when none is left, its batches shrink to the last lane, or end with the last two.
    2. A negative counts only if it is not the target. In the authors' code only the lane itself is left out.
    3. For the sampled softmax, a negative i is expected (B - 1) q_i + n w_i times: q_i is the item's share of all
       targets, and the sampler draws n items, each with probability w_i. The papers do not correct for this; the
       authors' code may, for each of the two by itself.
    """

    def __init__(self, loss: Loss, sampler: Sampler | None, store: SequenceStore, batch_size: int) -> None:
        super().__init__(loss, sampler, store, batch_size)
        if sampler is not None and not isinstance(sampler, ByWeight):
            raise UserError(
                "objective=session_parallel has the same negatives for a whole batch: choose negatives=none (the other"
                " lanes' targets alone), popular or shared"
            )
        self.by_weight = sampler
        self.n_lanes = max(1, min(batch_size, int(store.n_train_steps)))
        self._carried: Carried | None = None

    def steps(self) -> float:
        return self.store.n_train_steps

    @property
    def rows_per_batch(self) -> float:
        if not isinstance(self.cost, DrawnLoss):
            return super().rows_per_batch
        return self.n_lanes * 2 + (self.sampler.n if self.sampler else 0)

    def n_batches(self) -> int:
        return len(self._row(self.store.train_users))

    def epoch(self, window: int, generator: torch.Generator) -> "Row":
        """The batches of an epoch. ``window`` has no effect: no batch has padding."""
        users_U = self.store.train_users
        return self._row(users_U[torch.randperm(len(users_U), generator=generator, device=users_U.device)])

    def few(self) -> Rows:
        return self._row(self.store.train_users)[0]

    def _row(self, users_U: Tensor) -> "Row":
        steps_U = self.store.train_steps(users_U)
        ends_U = self.store.train_lengths[users_U]
        return Row(users_U, steps_U, steps_U.cumsum(0), ends_U, int(self.store.n_train_steps), self.n_lanes)

    def check(self, model: Recommender) -> None:
        if not isinstance(model, RecurrentModel):
            raise UserError(
                f"{type(model).__name__} carries no state from step to step, which objective=session_parallel needs:"
                " choose model=gru4rec, or another objective"
            )
        if processes.size() > 1:
            raise UserError(
                "objective=session_parallel trains in one process: the lanes of a batch are negatives of each other;"
                " start it without torchrun"
            )
        if isinstance(self.cost, GBCE):
            raise UserError(
                "loss=gbce is defined only for uniform negatives, and the targets of other lanes are not: choose"
                " another loss, such as bpr_max"
            )
        if isinstance(self.cost, DrawnLoss) and self.sampler is None and self.n_lanes < 2:
            raise UserError(
                f"training.batch_size={self.batch_size}: loss={self.cost.name} needs negatives, and there is no other"
                " lane; choose 2 or more, or negatives=popular"
            )
        self.cost.check(model, self.sampler)

    def batch(self, rows: Rows, generator: torch.Generator, draw: Draw | None) -> Batch:
        assert rows.lanes is not None
        store, places_B = self.store, self._places(rows.users_B, rows.lanes)
        times_B1 = None if store.times is None else store.times[places_B - 1][:, None]
        history = History(rows.users_B, store.items[places_B - 1][:, None], times_B1)
        targets_B = store.items[places_B]
        negatives = self._negatives(targets_B, draw) if isinstance(self.cost, DrawnLoss) else None
        return Batch(history, targets_B[:, None, None], negatives, rows.lanes.begins_B)

    def _places(self, users_X: Tensor, lanes: Lanes) -> Tensor:
        """Where in the store these steps' targets are."""
        return self.store.starts[users_X] + lanes.ends_B

    def _negatives(self, targets_B: Tensor, draw: Draw | None) -> Negatives:
        """The targets, each of which is a negative of all others, and what the sampler draws."""
        items_C = targets_B
        if draw is not None:
            items_C = torch.cat([targets_B, draw(targets_B, (1, 1)).items_BNSC.flatten()])
        expected_C = (len(targets_B) - 1) * self._shares_M[items_C]
        if self.by_weight is not None:
            expected_C = expected_C + self.by_weight.log_expected_M[items_C].exp()
        return Negatives(items_C[None, None, None], expected_C.log(), shared=True)

    @cached_property
    def _shares_M(self) -> Tensor:
        """Each item's share of the targets of an epoch (M + 1)."""
        store, row = self.store, self._row(self.store.train_users)
        places_T = self._places(*row.at(torch.arange(row.n_steps, device=store.device)))
        counts_M = torch.bincount(store.items[places_T], minlength=store.n_items + 1)
        return counts_M / row.n_steps

    def states(self, model: Recommender, batch: Batch) -> tuple[State, Tensor, Negatives | None]:
        assert isinstance(model, RecurrentModel) and batch.begins_B is not None
        whole, n = self.carried(model), len(batch.begins_B)
        started = zip(model.start(n), whole, strict=True)
        carried = tuple(_where(batch.begins_B, fresh, before[:n]) for fresh, before in started)
        states, carried = model.step(batch.history, carried)
        after = zip(carried, whole, strict=True)
        self._carried = tuple(torch.cat([part.detach().to(before.dtype), before[n:]]) for part, before in after)
        return map_state(lambda states_B1D: states_B1D.flatten(0, 1), states), batch.targets_BNS[:, 0], batch.negatives

    def carried(self, model: Recommender) -> Carried:
        """The states after the last batch, of all lanes; before the first batch those that a session starts with."""
        assert isinstance(model, RecurrentModel)
        return model.start(self.n_lanes) if self._carried is None else self._carried

    def carry(self, carried: Carried) -> None:
        self._carried = carried


def _where(rows_B: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The rows of ``one`` where ``rows_B``, those of ``other`` elsewhere."""
    return torch.where(rows_B.view(-1, *(1 for _ in one.shape[1:])), one, other)


@final
@dataclass(frozen=True)
class Row:
    """The steps of U sessions in a row, cut into lanes: batch t has the steps at place t of all lanes.

    ``steps_U``: how many steps each session has; ``up_to_U``: it and those before; ``ends_U``: where its user's
    training part ends.
    """

    users_U: Tensor
    steps_U: Tensor
    up_to_U: Tensor
    ends_U: Tensor
    n_steps: int
    n_lanes: int

    def __len__(self) -> int:
        return -(-self.n_steps // self.n_lanes)

    def __getitem__(self, number: int, /) -> Rows:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        shortest, n_longer = divmod(self.n_steps, self.n_lanes)  # the first lanes have one step more than the others
        lanes_B = torch.arange(self.n_lanes if number < shortest else n_longer, device=self.users_U.device)
        users_B, lanes = self.at(lanes_B * shortest + lanes_B.clamp(max=n_longer) + number)
        return Rows(users_B, 1, lanes if number else lanes._replace(begins_B=torch.ones_like(lanes.begins_B)))

    def at(self, places_X: Tensor) -> tuple[Tensor, Lanes]:
        """The users of these steps, counted from 0, and which of theirs they are."""
        nth_X = torch.searchsorted(self.up_to_U, places_X, right=True)
        left_X = self.up_to_U[nth_X] - places_X  # of the session, this one included
        return self.users_U[nth_X], Lanes(self.ends_U[nth_X] - left_X, left_X == self.steps_U[nth_X])
