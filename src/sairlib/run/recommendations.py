"""What a trained model recommends, in the ids of the data."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sairlib.batch import PAD, History, State, as_rows, like, map_state, nobody, single
from sairlib.data.dataset import Dataset
from sairlib.data.ids import Ints
from sairlib.data.interactions import ITEM, TITLE, USER
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.evaluation.top import LeftOut, top, top_counts
from sairlib.models.recommender import Recommender
from sairlib.run.histories import Histories

RANK, SCORE, BY, INTERESTS = "rank", "score", "by", "interests"
BYS = np.array(["model", "popularity"], object)
PEOPLE_AT_ONCE, ROWS_AT_ONCE = 8192, 2**20
"""Of people and rows, how many make one frame of a stream, at most; histories of similar length are ranked together."""

FAVOURED = 50
STEPS_AT_ONCE = 8192
"""How many steps of histories a CPU encodes at once: what a layer gives is then still in its cache for the next."""


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

        UserError, at once, if k is below 1, or if nothing may be recommended.
        """
        if asked.k < 1:
            raise UserError(f"k={asked.k}: must be 1 or more")
        if asked.allowed_C is not None and not len(asked.allowed_C):
            raise UserError("no item of the model is among the candidates: there is nothing to recommend")
        if asked.interests and not self.has_interests:
            raise UserError(f"{type(self.model).__name__} has no interests: interests=true is for SAIR's models")
        k = min(asked.k, self.data.n_items if asked.allowed_C is None else len(asked.allowed_C))
        at_once = max(1, min(PEOPLE_AT_ONCE, ROWS_AT_ONCE // k))
        return (self._frame(histories, rows_B, asked._replace(k=k)) for rows_B in histories.chunks(at_once))

    @property
    def has_interests(self) -> bool:
        """Whether the model can say which interests spoke."""
        return self.model.explain(nobody(self.store.device)) is not None

    def _frame(self, histories: Histories, rows_B: NDArray[np.intp], asked: Asked) -> pd.DataFrame:
        nothing_B = histories.lengths[rows_B] == 0
        items_BK = np.empty((len(rows_B), asked.k), np.int64)
        scores_BK = np.empty((len(rows_B), asked.k), np.float32)
        if nothing_B.any():
            ranked = top_counts(self.store.counts_M, asked.k, self._allowed(asked))
            items_BK[nothing_B], scores_BK[nothing_B] = (part.cpu().numpy() for part in ranked)
        if not nothing_B.all():
            items_BK[~nothing_B], scores_BK[~nothing_B] = self._rank(histories, rows_B[~nothing_B], asked)
        found_BK = items_BK != PAD
        items, n_found_B = items_BK[found_BK], found_BK.sum(1)
        columns: dict[str, Any] = {
            USER: np.repeat(histories.ids[rows_B], n_found_B),
            RANK: np.tile(np.arange(1, asked.k + 1), len(rows_B))[found_BK.ravel()],
            ITEM: self.data.item_ids[items - 1],
        }
        if self.data.titles_M is not None:
            columns[TITLE] = self.data.titles_M[items]
        columns |= {SCORE: scores_BK[found_BK], BY: np.repeat(BYS[nothing_B.astype(int)], n_found_B)}
        if asked.interests:
            spoke_BK = np.full(items_BK.shape, None, object)
            spoke_BK[~nothing_B] = self._spoke(histories, rows_B[~nothing_B], items_BK[~nothing_B])
            columns[INTERESTS] = spoke_BK[found_BK]
        frame: pd.DataFrame = pd.DataFrame(columns)
        return frame

    def _allowed(self, asked: Asked) -> Tensor | None:
        return None if asked.allowed_C is None else torch.from_numpy(asked.allowed_C).to(self.store.device)

    def _rank(self, histories: Histories, rows_B: NDArray[np.intp], asked: Asked) -> tuple[Ints, NDArray[np.float32]]:
        order = np.argsort(histories.lengths[rows_B], kind="stable")  # those of similar length together
        rows_B = rows_B[order]
        states = self._states(histories, rows_B)
        rows_X, items_X = histories.pairs(rows_B[: len(rows_B) if asked.exclude_seen else 0])
        left_out = LeftOut(*self._tensors(rows_X, items_X))
        ranked = top(self.model.head, states, self.model.n_items, asked.k, left_out, self._allowed(asked))
        back = np.argsort(order)
        return ranked.items_BK.cpu().numpy()[back], ranked.scores_BK.cpu().numpy()[back]

    def _spoke(self, histories: Histories, rows_B: NDArray[np.intp], items_BC: Ints) -> NDArray[np.object_]:
        """For each item (B, C): what each kept interest adds to its score, as text. They sum to it, but for a rest."""
        texts = np.empty(items_BC.shape, object)
        for start in range(0, len(rows_B), self.batch_size):
            own = slice(start, start + self.batch_size)
            kept_BK, parts_BKD = self._parts(histories, rows_B[own])
            (items,) = self._tensors(items_BC[own])
            with torch.no_grad():
                added_KBC = [self.model.head.score(part_BD, items) for part_BD in parts_BKD.unbind(1)]
            added_BCK = torch.stack(added_KBC, -1).cpu().tolist()
            for row, kept_K in enumerate(kept_BK.tolist()):
                texts[start + row] = [
                    " ".join([f"{i}:{added:+.3f}" for i, added in zip(kept_K, added_K, strict=True)])
                    for added_K in added_BCK[row]
                ]
        return texts

    def _parts(self, histories: Histories, rows_B: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        explained = self.model.explain(self.history(histories, rows_B))
        assert explained is not None
        return explained.kept_BK, explained.parts_BKD

    def leanings(self, histories: Histories, row: int) -> list[tuple[int, list[tuple[str, float, float]]]]:
        """For each interest that speaks for one person: the two categories which it favours most.

        Of the items to which the interest adds most (``FAVOURED``, at most a tenth of all), each category's share is
        compared with its share of all items: (its name, the former, the latter). Empty without categories.
        """
        table = self.data.item_categories
        if not self.data.n_categories:
            return []
        kept_BK, parts_BKD = self._parts(histories, np.array([row]))
        n_best, everywhere = max(1, min(FAVOURED, self.model.n_items // 10)), self._shares(table[1:])
        leanings = []
        for interest, part_BD in zip(kept_BK[0].tolist(), parts_BKD.unbind(1), strict=True):
            nothing = torch.zeros((1, 0), dtype=torch.long, device=self.store.device)
            best = top(self.model.head, part_BD, self.model.n_items, n_best, nothing).items_BK[0].cpu().numpy()
            shares = self._shares(table[best])
            more = [t for t in np.argsort(everywhere - shares, kind="stable")[:2] if shares[t] > everywhere[t]]
            named = [(self.data.category_names[t], float(shares[t]), float(everywhere[t])) for t in more]
            leanings.append((interest, named))
        return leanings

    def _shares(self, categories_XG: Ints) -> NDArray[np.float64]:
        """The share of these items that each category has."""
        counts = np.bincount(categories_XG.ravel(), minlength=self.data.n_categories + 1)[1:]
        return counts / max(1, len(categories_XG))

    def _tensors(self, *arrays: NDArray[Any]) -> list[Tensor]:
        return [torch.from_numpy(array).to(self.store.device) for array in arrays]

    def history(self, histories: Histories, rows_B: NDArray[np.intp]) -> History:
        """What the model sees of these people."""
        return histories.take(rows_B, self.store.max_len, self.store.device)

    @torch.no_grad()
    def _newest(self, history: History) -> State:
        return map_state(single, self.model.newest(history))

    def states(self, histories: Histories) -> State:
        """The model's state for each history (B, ...)."""
        return self._states(histories, np.arange(len(histories)))

    def _states(self, histories: Histories, rows_B: NDArray[np.intp]) -> State:
        pieces = [self._newest(self.history(histories, own_B)) for own_B in self.batches(histories, rows_B)]
        joined = tuple(torch.cat(parts) for parts in zip(*map(as_rows, pieces), strict=True))
        return like(pieces[0], joined)

    def batches(self, histories: Histories, rows_B: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        """Rows to encode together: ``batch_size``, on a CPU fewer, of long histories."""
        steps_B = np.clip(histories.lengths[rows_B], 1, self.store.max_len)
        on_cpu, start = self.store.device.type == "cpu", 0
        while start < len(rows_B):
            longest = int(steps_B[start : start + self.batch_size].max())
            size = min(self.batch_size, max(1, STEPS_AT_ONCE // longest)) if on_cpu else self.batch_size
            yield rows_B[start : start + size]
            start += size

    @torch.no_grad()
    def score(self, histories: Histories, items_C: Ints) -> Tensor:
        """Scores (B, C) of the same items, as numbers, for each history."""
        items = torch.from_numpy(items_C).to(self.store.device)
        return torch.cat(
            [
                self.model.head.score_shared(self._newest(self.history(histories, rows_B)), items).float()
                for rows_B in histories.chunks(self.batch_size)
            ]
        )
