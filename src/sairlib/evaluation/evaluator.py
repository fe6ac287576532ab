"""Ranks of held-out items by a model. Ties are counted, never broken (see ``metrics.py``)."""

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sairlib import processes
from sairlib.batch import PAD, EvalBatch, History, State, map_state, single
from sairlib.data.sequences import SequenceStore, Windows
from sairlib.data.split import Part, Split
from sairlib.errors import UserError, out_of_memory
from sairlib.evaluation.candidates import Candidates, candidates
from sairlib.evaluation.counts import better_and_tied, better_and_tied_of_all, require_finite
from sairlib.evaluation.lists import list_metrics
from sairlib.evaluation.rankings import SHUFFLED, USERS, EvaluationSettings, Ranks
from sairlib.evaluation.shuffled import shuffled
from sairlib.evaluation.tiles import ROWS, SCORES_AT_ONCE
from sairlib.evaluation.top import top
from sairlib.models.recommender import Recommender, StepModel

Batch = TypeVar("Batch", bound=EvalBatch | Windows)


class Evaluator:
    """Ranks every target of a split. All rankings of a target use the same state of the model.

    ``drawn`` are the candidates of the sampled ranking; None without one. UserError if a part of the split has no
    targets, or no user has an unseen item to rank against.
    """

    def __init__(self, split: Split, store: SequenceStore, settings: EvaluationSettings) -> None:
        for part in Part:
            if not store.n_targets(part):
                raise UserError(f"the split has no targets in its {part.value} part: there is nothing to rank")
        self.store = store
        self.settings = settings
        self._item_categories = split.dataset.item_categories
        self._rows_at_once = settings.batch_size
        self.drawn: Candidates | None = None
        if settings.n_candidates:
            self.drawn = candidates(split, settings.n_candidates, settings.candidates, settings.candidates_seed)
            if not self.drawn.items_UC.any():
                raise UserError(
                    "the evaluated users have seen all items: there are no candidates to rank the held-out items"
                    " against; check the data and the filters"
                )
            items_UC = torch.from_numpy(self.drawn.items_UC)
            users = split.eval_users
            self._drawn_EC = {
                part: items_UC[np.searchsorted(users, split.targets(part).users_E)].to(store.device) for part in Part
            }

    @torch.no_grad()
    def rank(self, model: Recommender, part: Part) -> dict[str, Ranks]:
        """Ranks of the targets of ``part``, by the name of the ranking, in the order of ``split.targets(part)``.

        Several processes share the work, and all get all ranks. The model ranks in eval mode, and its own mode is
        restored. NonFiniteError, naming model and user, if a score is NaN or inf. UserError if the memory does not
        suffice for a single user.
        """
        shape = (2, self.store.n_targets(part))
        counts = {
            name: torch.zeros(shape, dtype=torch.long, device=self.store.device) for name in self.settings.rankings
        }
        at_once = SCORES_AT_ONCE // (model.n_items + 1)
        by_tiles = at_once < ROWS
        at_once = ROWS if by_tiles else at_once

        def count(piece: EvalBatch, states: State) -> None:
            for first in range(0, len(piece.rows_B), at_once):
                rows = slice(first, first + at_once)
                self._count(model, part, _take(piece, rows), map_state(itemgetter(rows), states), counts, by_tiles)

        self._each(model, part, count)
        return {name: Ranks(*processes.total(count).cpu().numpy()) for name, count in counts.items()}

    @torch.no_grad()
    def recommend(self, model: Recommender, part: Part, k: int) -> Tensor:
        """The ``k`` items that the model ranks first before each target of ``part`` (E, K), the user's history left
        out, in the order of ``split.targets(part)``; PAD where fewer are left. Otherwise as ``rank``."""
        k = min(k, model.n_items)
        items_EK = torch.full((self.store.n_targets(part), k), PAD, device=self.store.device)

        def choose(piece: EvalBatch, states: State) -> None:
            had_BX = self.store.had(part, piece.rows_B)
            items_EK[piece.rows_B] = top(model.head, states, model.n_items, k, had_BX).items_BK

        self._each(model, part, choose)
        return processes.total(items_EK)

    def list_metrics(self, model: Recommender) -> dict[str, float]:
        """Metrics of the lists of ``settings.lists`` items that the model recommends to the test users, by name."""
        items_EK = self.recommend(model, Part.TEST, self.settings.lists).cpu().numpy()
        users_M = self.store.unseen.users_of_items().cpu().numpy()
        return list_metrics(items_EK, users_M, len(self.store.starts), self._item_categories)

    def _each(self, model: Recommender, part: Part, use: Callable[[EvalBatch, State], None]) -> None:
        """Give ``use`` the targets of ``part`` with the model's states of their histories, in eval mode: this process's
        share of them, piece by piece."""
        training = model.training
        model.eval()
        try:
            for number, batch in enumerate(self._batches(model, part)):
                if number % processes.size() == processes.rank():
                    self._each_piece(model, part, batch, use)
        finally:
            model.train(training)

    def _batches(self, model: Recommender, part: Part) -> Iterable[EvalBatch | Windows]:
        if self.settings.passes != USERS:
            return map(self._in_order, self.store.evaluation(part, self.settings.batch_size))
        if not isinstance(model, StepModel):
            raise UserError(
                f"evaluation.passes={USERS}: {type(model).__name__} has no state at every step; leave"
                " evaluation.passes=targets"
            )
        # A model that sees few items is fast either way, and needs no window.
        by_user = self.store.windows if model.memory is None else self.store.evaluation
        return by_user(part, self.settings.batch_size)

    def _in_order(self, batch: EvalBatch) -> EvalBatch:
        if self.settings.histories != SHUFFLED:
            return batch
        return batch._replace(history=shuffled(batch.history, batch.rows_B, self.settings.histories_seed))

    def _each_piece(
        self, model: Recommender, part: Part, batch: EvalBatch | Windows, use: Callable[[EvalBatch, State], None]
    ) -> None:
        """As many rows at once as fit into memory: when they do not, half as many from then on."""
        start = 0
        while start < len(batch.history.users_B):
            piece = _take(batch, slice(start, start + self._rows_at_once))
            try:
                use(*self._states(model, part, piece))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if len(piece.history.users_B) == 1:
                    raise UserError(
                        "not enough memory to rank a single user; lower max_len, or the width of the model"
                    ) from error
                self._rows_at_once = len(piece.history.users_B) // 2
                continue
            start += len(piece.history.users_B)

    def _states(self, model: Recommender, part: Part, piece: EvalBatch | Windows) -> tuple[EvalBatch, State]:
        """Targets, and the state before each. Of the histories in windows only the users are kept."""
        if isinstance(piece, EvalBatch):
            return piece, map_state(single, model.newest(piece.history))
        assert isinstance(model, StepModel)
        real_BT = piece.rows_BT >= 0
        windows_X = real_BT.nonzero()[:, 0]
        rows_X, steps_X = piece.rows_BT[real_BT], piece.steps_BT[real_BT]
        states = map_state(lambda every: single(every[windows_X, steps_X]), model.encode(piece.history))
        users_X, none_X0 = piece.history.users_B[windows_X], piece.history.items_BN[windows_X, :0]
        return EvalBatch(History(users_X, none_X0), self.store.target_items(part, rows_X), rows_X), states

    def _count(
        self, model: Recommender, part: Part, batch: EvalBatch, states: State, counts: dict[str, Tensor], by_tiles: bool
    ) -> None:
        """Add the counts of these targets: from the scores of all items at once, or ``by_tiles``."""
        users_B, targets_B1, rows_B = batch.history.users_B, batch.targets_B[:, None], batch.rows_B
        drawn_BC = self._drawn_EC[part][rows_B] if self.drawn else None
        left_out = {}
        if self.settings.full_with_history:
            left_out["full_with_history"] = targets_B1[:, :0]
        if self.settings.full:
            left_out["full"] = self.store.had(part, rows_B)
        if left_out and not by_tiles:
            all_BM = model.head.score_all(states).float()
            target_B1 = all_BM.gather(1, targets_B1)
            require_finite(all_BM[:, 1:], target_B1, model, users_B)  # column PAD holds no score
            sampled_BC = None if drawn_BC is None else all_BM.gather(1, drawn_BC)
            own_BX = torch.cat([torch.full_like(targets_B1, PAD), targets_B1], 1)
            for name, left_out_BX in left_out.items():
                counts[name][:, rows_B] = better_and_tied(all_BM, target_B1, torch.cat([own_BX, left_out_BX], 1))
        else:
            for name, left_out_BX in left_out.items():
                counts[name][:, rows_B] = better_and_tied_of_all(model, states, users_B, batch.targets_B, left_out_BX)
            if drawn_BC is not None:
                scored_BC = model.head.score(states, torch.cat([targets_B1, drawn_BC], 1)).float()
                target_B1, sampled_BC = scored_BC[:, :1], scored_BC[:, 1:]
                require_finite(sampled_BC.where(drawn_BC != PAD, 0.0), target_B1, model, users_B)
        if drawn_BC is not None and sampled_BC is not None:
            real_BC = sampled_BC.where(drawn_BC != PAD, -torch.inf)
            counts["sampled"][:, rows_B] = better_and_tied(real_BC, target_B1)


def _take(batch: Batch, rows: slice) -> Batch:
    users_B, items_BN, times_BN = batch.history
    history = History(users_B[rows], items_BN[rows], None if times_BN is None else times_BN[rows])
    return type(batch)(history, batch[1][rows], batch[2][rows])
