"""A run that has been trained: ranking its targets, and asking it for recommendations."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from torch import Tensor

from sairlib.batch import PAD, State
from sairlib.data.ids import Ints
from sairlib.data.interactions import CATEGORY, USER
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part, Split
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import Ranks
from sairlib.models.recommender import Products, Recommender
from sairlib.run import report
from sairlib.run.histories import Histories, of_people, of_users
from sairlib.run.recommendations import Asked, Recommendations

Given: TypeAlias = pd.DataFrame | Mapping[object, Sequence[object]] | Sequence[Sequence[object]] | Histories
"""Histories as ids of items: see ``Run.stream``."""
Users: TypeAlias = Iterable[object] | int | str
"""Ids of people in the data, or a single one."""


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) run, with the weights that validation chose."""

    settings: dict[str, Any]
    """The resolved configuration."""
    split: Split
    store: SequenceStore
    model: Recommender
    evaluator: Evaluator
    best_epoch: int

    def rank(self, part: Part = Part.TEST) -> dict[str, Ranks]:
        """Ranks of the targets of ``part``, by the name of the ranking; NonFiniteError if a score is NaN or inf."""
        return self.evaluator.rank(self.model, part)

    def test(self) -> dict[str, Any]:
        """Repeat the final evaluation: the content of ``test.json``."""
        return report.results(self.evaluator, self.model, self.rank(), self.split, self.best_epoch)

    def recommend(self, histories: Given | None = None, k: int = 10, **options: Any) -> pd.DataFrame:
        """The ``k`` best items for each history, one row for each item, best first. Options are those of ``stream``.

        Columns: ``user``, ``rank`` from 1, ``item``, ``title`` (if the data has titles), ``score``, and ``by``:
        ``model``, or ``popularity`` for a history without an item that the model knows. A person gets fewer than ``k``
        rows if fewer items are left.
        """
        frame: pd.DataFrame = pd.concat(list(self.stream(histories, k, **options)), ignore_index=True)
        return frame

    def stream(
        self,
        histories: Given | None = None,
        k: int = 10,
        *,
        users: Users | None = None,
        exclude_seen: bool = True,
        candidates: Iterable[object] | None = None,
        category: str | None = None,
        interests: bool = False,
    ) -> Iterator[pd.DataFrame]:
        """``recommend`` in frames of some thousand people.

        ``histories``: ids of items, oldest first, as a list of lists, a mapping from people to lists, or a frame with
        the column ``item`` and perhaps ``user`` and ``timestamp``. Items that the model does not know are left out;
        models with a vector for each user use the mean of these. Without ``histories``: ``users`` of the data by their
        ids, or everybody, from all that they did, held-out actions included.

        ``exclude_seen``: leave out what a history holds. ``candidates``: ids of the items to choose among.
        ``category``: choose among the items of one. ``interests``: for SAIR, a column that says which interests spoke
        for an item: ``3:+1.204 7:-0.310`` for what interests 3 and 7 add to its score.

        UserError for a user that the data lacks, both histories and users, a bad k or option, or no item to choose.
        """
        people = self.people(histories, users)
        allowed = self._allowed(candidates, category)
        return self._ranked.stream(people, Asked(k, exclude_seen, allowed, interests))

    def people(self, histories: Given | None = None, users: Users | None = None) -> Histories:
        """Histories or users, given as to ``stream``, as numbers: how long they are, and what of them is unknown.

        Every method takes the result in place of histories. UserError as in ``stream``.
        """
        if histories is not None and users is not None:
            raise UserError("give histories or users, not both")
        if histories is None:
            people = of_users(self.split.dataset, users)
        else:
            people = histories if isinstance(histories, Histories) else of_people(self.split.dataset, histories)
        if not len(people):
            raise UserError("histories and users: there is nobody in them")
        return people

    def score(self, histories: Given | None, items: Sequence[object], *, users: Users | None = None) -> pd.DataFrame:
        """Scores of ``items``, given by their ids: a row for each history or user, a column for each item.

        UserError for an item that the model does not know.
        """
        numbers = self.split.dataset.item_numbers(items)
        if (numbers == PAD).any():
            raise UserError(f"items: the model has no item {items[int((numbers == PAD).argmax())]!r}")
        people = self.people(histories, users)
        scores_BC = self._ranked.score(people, numbers)
        frame: pd.DataFrame = pd.DataFrame(scores_BC.cpu().numpy(), index=people.ids, columns=list(items))
        return frame

    def states(self, histories: Given | None = None, *, users: Users | None = None) -> State:
        """The model's state for each history or user (B, ...): one tensor, or a tuple of tensors for some models."""
        return self._ranked.states(self.people(histories, users))

    def has_interests(self) -> bool:
        """Whether the model says which interests spoke for an item."""
        return self._ranked.has_interests

    def leanings(self, histories: Given | None = None, users: Users | None = None) -> pd.DataFrame:
        """Which categories the interests of SAIR favour that speak for a person, at most two for each interest.

        Columns: ``user``, ``interest``, ``category``, ``share`` of the category among the items to which the
        interest adds most (50, at most a tenth of all), and ``share_of_all`` items. No rows without categories.

        UserError as in ``stream``, and for a model without interests.
        """
        people, ranked = self.people(histories, users), self._ranked
        if not ranked.has_interests:
            raise UserError(f"{type(self.model).__name__} has no interests")
        rows = [
            (people.ids[row], interest, *favoured)
            for row in range(len(people))
            for interest, categories in ranked.leanings(people, row)
            for favoured in categories
        ]
        frame: pd.DataFrame = pd.DataFrame(rows, columns=[USER, "interest", CATEGORY, "share", "share_of_all"])
        return frame

    def item_vectors(self) -> tuple[Tensor, Tensor | None]:
        """The vectors (M, D) and biases (M, or None) whose products with a state are its scores.

        Row m belongs to the item with the id ``split.dataset.item_ids[m]``. UserError for a model whose score is no
        product, such as a distance.
        """
        head = self.model.head
        if not isinstance(head, Products):
            raise UserError(f"{type(self.model).__name__} scores by {type(head).__name__}, not by products of vectors")
        vectors, bias = head.of(None)
        return vectors[1:].detach(), None if bias is None else bias[1:].detach()

    @property
    def _ranked(self) -> Recommendations:
        return Recommendations(self.split.dataset, self.store, self.model, self.evaluator.settings.batch_size)

    def _allowed(self, candidates: Iterable[object] | None, category: str | None) -> Ints | None:
        """The numbers of the items to choose among, ascending; None for all."""
        data, allowed = self.split.dataset, None
        if isinstance(candidates, str):
            raise UserError(f"candidates={candidates}: give a list of ids of items")
        if candidates is not None:
            numbers = np.unique(data.item_numbers(candidates))
            allowed = numbers[numbers != PAD]
        if category is not None:
            if category not in data.category_names:
                known = ", ".join(data.category_names[:30]) or "none"
                raise UserError(f"category={category}: the data has no such category (it has {known})")
            of_it = np.flatnonzero((data.item_categories == data.category_names.index(category) + 1).any(1))
            allowed = of_it if allowed is None else np.intersect1d(allowed, of_it)
        return allowed
