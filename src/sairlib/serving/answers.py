"""Answers of a trained model to questions, as plain values for JSON."""

from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sairlib.batch import PAD, STRANGER, map_state, nobody
from sairlib.data.dataset import Times
from sairlib.data.ids import Ints
from sairlib.errors import UserError
from sairlib.evaluation.top import top, top_counts
from sairlib.run.finished import Run
from sairlib.run.histories import Histories
from sairlib.run.recommendations import Recommendations
from sairlib.serving.questions import Id, Question, shown
from sairlib.serving.search import Search

Answer: TypeAlias = dict[str, Any]


class Prepared(NamedTuple):
    """A question in the numbers of the data, which the model can answer."""

    question: Question
    user: int
    items_N: Ints
    times_N: Times | None
    n_unknown: int
    allowed_C: Ints | None


class Answers:
    """All that clients may ask of a run. ``prepare`` and ``search`` are quick; ``answer`` asks the model."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.data = data = run.split.dataset
        self.ranked = Recommendations(data, run.store, run.model, run.evaluator.settings.batch_size)
        self.ids: list[Id] = [_exact(one) for one in data.item_ids.tolist()]
        self.titles = None if data.titles_M is None else data.titles_M.tolist()
        self._users = _numbers(data.user_ids.tolist(), first=0)
        self._items = _numbers(self.ids, first=1)
        categories = data.item_categories
        self._of_category = {
            name: np.flatnonzero((categories == place).any(1)) for place, name in enumerate(data.category_names, 1)
        }
        counts = run.store.counts_M.cpu().numpy()
        self._by_count: list[int] = (np.argsort(-counts[1:], kind="stable") + 1).tolist()
        self._search = Search([f"{self._name(item)} {self.ids[item - 1]}" for item in self._by_count])
        explained = run.model.explain(nobody(run.store.device))
        self.n_interests = None if explained is None else explained.relevance_BNL.shape[-1]

    def about(self) -> Answer:
        """What is served: the model, and the sizes of its data."""
        return {
            "status": "ok",
            "model": type(self.run.model).__name__,
            "users": self.data.n_users,
            "items": self.data.n_items,
            "titles": self.titles is not None,
            "categories": list(self.data.category_names),
            "interests": self.n_interests,
            "max_len": self.run.store.max_len,
        }

    def search(self, query: str, most: int) -> Answer:
        """Items whose titles or ids have all words of ``query``, those that occur most often first."""
        return {"items": [self._item(self._by_count[place]) for place in self._search.find(query, most)]}

    def prepare(self, question: Question) -> Prepared:
        """UserError for a user or category that the data lacks, no item to choose, interests that are not there, or a
        list of items for a model that looks at times."""
        if question.interests and self.n_interests is None:
            model = type(self.run.model).__name__
            raise UserError(f"interests=true: {model} has no interests; SAIR's models have")
        allowed_C = self._allowed(question)
        if question.user is None:
            if self.run.model.needs_times:
                model = type(self.run.model).__name__
                raise UserError(f"history: {model} looks at times, which a list of items lacks; ask for a user instead")
            numbers = np.array([self._items.get(str(item), PAD) for item in question.history], np.int64)
            items_N = numbers[numbers != PAD]
            return Prepared(question, STRANGER, items_N, None, len(numbers) - len(items_N), allowed_C)
        user = self._users.get(str(question.user))
        if user is None:
            example = self.data.user_ids[0]
            raise UserError(
                f"user={shown(question.user)}: nobody in the data has this id (it has {self.data.n_users:,}, such as"
                f" {example}); POST a history instead"
            )
        own = slice(self.data.offsets[user], self.data.offsets[user + 1])
        times_N = None if self.data.times is None else self.data.times[own]
        return Prepared(question, user, self.data.items[own], times_N, 0, allowed_C)

    def _allowed(self, question: Question) -> Ints | None:
        allowed_C = None
        if question.category is not None:
            allowed_C = self._of_category.get(question.category)
            if allowed_C is None:
                known = ", ".join(self.data.category_names[:30]) or "none"
                raise UserError(f"category={shown(question.category)}: no such category (the data has {known})")
        if question.candidates is not None:
            numbers = np.unique(np.array([self._items.get(str(item), PAD) for item in question.candidates], np.int64))
            numbers = numbers[numbers != PAD]
            allowed_C = numbers if allowed_C is None else np.intersect1d(allowed_C, numbers)
        if allowed_C is not None and not len(allowed_C):
            of_it = "" if question.category is None else f" of the category {shown(question.category)}"
            raise UserError(f"no item of the model{of_it} is among the candidates: there is nothing to recommend")
        return allowed_C

    @torch.no_grad()
    def answer(self, questions: Sequence[Prepared]) -> list[Answer]:
        """One pass of the model for all; NonFiniteError if a score is NaN or inf."""
        items_BK: list[list[int]] = [[]] * len(questions)
        scores_BK: list[list[float]] = [[]] * len(questions)
        for rows, histories in self._batches(questions):
            left_out_BX = self._left_out([questions[row] for row in rows])
            states = self.ranked.states(histories)
            for at in _alike([questions[row] for row in rows]):
                first = questions[rows[at[0]]]
                state, allowed_C = map_state(itemgetter(at), states), self._tensor(first.allowed_C)
                best = top(self.run.model.head, state, self.data.n_items, first.question.k, left_out_BX[at], allowed_C)
                for place, items_K, scores_K in zip(at, best.items_BK.tolist(), best.scores_BK.tolist(), strict=True):
                    items_BK[rows[place]], scores_BK[rows[place]] = items_K, scores_K
        for row, one in enumerate(questions):
            if not len(one.items_N):
                best = top_counts(self.run.store.counts_M, one.question.k, self._tensor(one.allowed_C))
                items_BK[row], scores_BK[row] = best.items_BK[0].tolist(), best.scores_BK[0].tolist()
        return [self._told(*told) for told in zip(questions, items_BK, scores_BK, strict=True)]

    def _batches(self, questions: Sequence[Prepared]) -> list[tuple[list[int], Histories]]:
        """Rows of questions, and their histories. Those with times and those without must not be mixed."""
        rows_of: dict[bool, list[int]] = defaultdict(list)
        for row, one in enumerate(questions):
            if len(one.items_N):
                rows_of[one.times_N is None].append(row)
        return [(rows, _histories([questions[row] for row in rows])) for rows in rows_of.values()]

    def _left_out(self, questions: Sequence[Prepared]) -> Tensor:
        width = max(len(one.items_N) if one.question.exclude_seen else 1 for one in questions)
        left_out_BX = np.full((len(questions), width), PAD, np.int64)
        for row, one in enumerate(questions):
            if one.question.exclude_seen:
                left_out_BX[row, : len(one.items_N)] = one.items_N
        return torch.from_numpy(left_out_BX).to(self.run.store.device)

    def _tensor(self, items: NDArray[np.int64] | None) -> Tensor | None:
        return None if items is None else torch.from_numpy(items).to(self.run.store.device)

    def _told(self, asked: Prepared, items_K: list[int], scores_K: list[float]) -> Answer:
        pairs = [(item, score) for item, score in zip(items_K, scores_K, strict=True) if item != PAD]
        listed = [
            {"rank": rank, **self._item(item), "score": round(score, 6)} for rank, (item, score) in enumerate(pairs, 1)
        ]
        by = "model" if len(asked.items_N) else "popularity"
        told: Answer = {"by": by, "unknown": asked.n_unknown, "items": listed}
        if asked.question.interests:
            told["interests"] = self._interests(asked, listed, [item for item, _ in pairs]) if by == "model" else None
        return told

    def _interests(self, asked: Prepared, listed: list[Answer], items_C: list[int]) -> Answer:
        """The interests kept by this history, and its steps; adds to each of the items listed what they add to it."""
        max_len, device = self.run.store.max_len, self.run.store.device
        explained = self.run.model.explain(_histories([asked]).take(np.arange(1), max_len, device))
        assert explained is not None
        kept_K = explained.kept_BK[0].tolist()
        items = torch.tensor([items_C], dtype=torch.int64, device=device)  # there may be none
        added_KC = [self.run.model.head.score(part_BD, items)[0] for part_BD in explained.parts_BKD.unbind(1)]
        for one, added_K in zip(listed, torch.stack(added_KC, 1).tolist(), strict=True):
            one["interests"] = [
                {"interest": i, "adds": round(added, 6)} for i, added in zip(kept_K, added_K, strict=True)
            ]
        weights_K = explained.weights_BK[0].tolist()
        return {
            "kept": [{"interest": i, "weight": round(w, 6)} for i, w in zip(kept_K, weights_K, strict=True)],
            "steps": [self._item(item) for item in asked.items_N[-max_len:].tolist()],
            "before": _rounded(explained.relevance_BNL[0]),
            "after": _rounded(explained.interacted_BNL[0]),
        }

    def _name(self, item: int) -> str:
        return "" if self.titles is None else str(self.titles[item])

    def _item(self, item: int) -> Answer:
        if self.titles is None:
            return {"item": self.ids[item - 1]}
        return {"item": self.ids[item - 1], "title": self.titles[item]}


def _exact(one: Id) -> Id:
    """An id as text if it is a number that JavaScript would round."""
    return one if isinstance(one, str) or abs(one) < 2**53 else str(one)


def _numbers(ids: list[Id], first: int) -> dict[str, int]:
    """The number of each id, by its text: clients may give 42 or "42"."""
    return {str(one): number for number, one in enumerate(ids, first)}


def _alike(questions: Sequence[Prepared]) -> list[list[int]]:
    """The places of questions with the same k and the same array (not an equal one) of items to choose among."""
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, one in enumerate(questions):
        places[one.question.k, id(one.allowed_C)].append(place)
    return list(places.values())


def _histories(questions: Sequence[Prepared]) -> Histories:
    """The histories of these questions, either all with times or none."""
    lengths = [len(one.items_N) for one in questions]
    times_of: list[Any] = [one.times_N for one in questions if one.times_N is not None]
    times: Any = np.concatenate(times_of) if times_of else None
    return Histories(
        np.arange(len(questions)),
        np.array([one.user for one in questions], np.int64),
        np.concatenate([one.items_N for one in questions]),
        np.concatenate([[0], np.cumsum(lengths)]),
        times,
        np.array([one.n_unknown for one in questions], np.int64),
    )


def _rounded(values_NL: Tensor) -> list[list[float]]:
    rounded: list[list[float]] = values_NL.double().cpu().numpy().round(4).tolist()
    return rounded
