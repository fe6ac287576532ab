"""What a trained model recommends, in the ids of the data."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sairlib.batch import PAD, STRANGER, History, State, as_rows, map_state, single
from sairlib.data.dataset import Dataset
from sairlib.data.ids import Ints
from sairlib.data.interactions import ITEM, TITLE, USER
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.evaluation.top import top, top_counts
from sairlib.models.recommender import Recommender
from sairlib.run.histories import Histories

PEOPLE_AT_ONCE = 8192
"""How many people's recommendations make one frame of a stream; histories of similar length are ranked together."""


class Asked(NamedTuple):
    """What is asked for. ``allowed_C``: choose among these items (numbers, ascending); None: among all."""

    k: int = 10
    exclude_seen: bool = True
    allowed_C: Ints | None = None
    interests: bool = False


class Recommendations:
    """Ranks items for histories with a trained model, in eval mode."""

    def __init__(self, data: Dataset, store: SequenceStore, model: Recommender, batch_size: int) -> None:
        self.data = data
        self.store = store
        self.model = model
        self.batch_size = batch_size

    def stream(self, histories: Histories, asked: Asked) -> Iterator[pd.DataFrame]:
        """Frames as ``Run.recommend`` gives them, of some thousand people each, in the order of ``histories``.

        UserError if k is below 1, or if nothing may be recommended.
        """
        if asked.k < 1:
            raise UserError(f"k={asked.k}: must be 1 or more")
        if asked.allowed_C is not None and not len(asked.allowed_C):
            raise UserError("no item of the model is among the candidates: there is nothing to recommend")
        if asked.interests and self.model.explain(self._nobody()) is None:
            raise UserError(f"{type(self.model).__name__} has no interests: interests=true is for SAIR's models")
        for rows_B in histories.chunks(PEOPLE_AT_ONCE):
            yield self._frame(histories, rows_B, asked)

    def _frame(self, histories: Histories, rows_B: NDArray[np.intp], asked: Asked) -> pd.DataFrame:
        k = min(asked.k, self.data.n_items if asked.allowed_C is None else len(asked.allowed_C))
        asked = asked._replace(k=k)
        items_BK, scores_BK = np.zeros((len(rows_B), k), np.int64), np.full((len(rows_B), k), -np.inf, np.float32)
        spoke = np.full((len(rows_B), k), None, object)
        lengths_B = histories.lengths[rows_B]
        nothing_B = lengths_B == 0
        if nothing_B.any():
            ranked = top_counts(self.store.counts_M, k, self._allowed(asked))
            items_BK[nothing_B], scores_BK[nothing_B] = (part.cpu().numpy() for part in ranked)
        order = np.argsort(lengths_B, kind="stable")
        order = order[np.count_nonzero(nothing_B) :]
        for start in range(0, len(order), self.batch_size):
            at = order[start : start + self.batch_size]
            items_BK[at], scores_BK[at] = self._rank(histories, rows_B[at], asked)
            if asked.interests:
                spoke[at] = self._spoke(histories, rows_B[at], items_BK[at])
        found = items_BK != PAD
        columns: dict[str, Any] = {
            USER: np.repeat(histories.ids[rows_B], found.sum(1)),
            "rank": np.tile(np.arange(1, k + 1), (len(rows_B), 1))[found],
            ITEM: self.data.item_ids[items_BK[found] - 1],
        }
        if self.data.titles_M is not None:
            columns[TITLE] = self.data.titles_M[items_BK[found]]
        columns |= {"score": scores_BK[found], "by": np.where(nothing_B, "popularity", "model").repeat(found.sum(1))}
        if asked.interests:
            columns["interests"] = spoke[found]
        frame: pd.DataFrame = pd.DataFrame(columns)
        return frame

    def _allowed(self, asked: Asked) -> Tensor | None:
        return None if asked.allowed_C is None else torch.from_numpy(asked.allowed_C).to(self.store.device)

    def _rank(self, histories: Histories, rows_B: NDArray[np.intp], asked: Asked) -> tuple[Ints, NDArray[np.float32]]:
        states = self._newest(self._history(histories, rows_B))
        width = int(histories.lengths[rows_B].max()) if asked.exclude_seen else 1
        seen_BX = histories.take(rows_B, width, self.store.device).items_BN
        left_out_BX = seen_BX if asked.exclude_seen else torch.zeros_like(seen_BX)
        ranked = top(self.model.head, states, self.model.n_items, asked.k, left_out_BX, self._allowed(asked))
        return ranked.items_BK.cpu().numpy(), ranked.scores_BK.cpu().numpy()

    def _spoke(self, histories: Histories, rows_B: NDArray[np.intp], items_BC: Ints) -> NDArray[np.object_]:
        """For each item (B, C): what each kept interest, by its number, adds to the score; they sum to it."""
        explained = self.model.explain(self._history(histories, rows_B))
        assert explained is not None
        items = torch.from_numpy(items_BC).to(self.store.device)
        with torch.no_grad():
            added_KBC = [self.model.head.score(part_BD, items) for part_BD in explained.parts_BKD.unbind(1)]
        added_BCK = torch.stack(added_KBC, -1).cpu().numpy()
        kept_BK = explained.kept_BK.cpu().numpy()
        texts = np.empty(items_BC.shape, object)
        for row, kept_K in enumerate(kept_BK):
            for column, added_K in enumerate(added_BCK[row]):
                texts[row, column] = " ".join(f"{i}:{added:+.3f}" for i, added in zip(kept_K, added_K, strict=True))
        return texts

    def _nobody(self) -> History:
        nobody_B = torch.tensor([STRANGER], device=self.store.device)
        return History(nobody_B, torch.full_like(nobody_B, PAD)[:, None])

    def _history(self, histories: Histories, rows_B: NDArray[np.intp]) -> History:
        return histories.take(rows_B, self.store.max_len, self.store.device)

    @torch.no_grad()
    def _newest(self, history: History) -> State:
        return map_state(single, self.model.newest(history))

    def states(self, histories: Histories) -> State:
        """The model's state for each history (B, ...)."""
        pieces = [
            as_rows(self._newest(self._history(histories, rows_B))) for rows_B in histories.chunks(self.batch_size)
        ]
        joined = tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
        return joined[0] if len(joined) == 1 else joined

    @torch.no_grad()
    def score(self, histories: Histories, items_C: Ints) -> Tensor:
        """Scores (B, C) of the same items, as numbers, for each history."""
        items = torch.from_numpy(items_C).to(self.store.device)
        return torch.cat(
            [
                self.model.head.score_shared(self._newest(self._history(histories, rows_B)), items).float()
                for rows_B in histories.chunks(self.batch_size)
            ]
        )
