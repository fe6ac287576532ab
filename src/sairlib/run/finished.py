"""A run that has been trained: ranking its targets, and asking it for recommendations."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from torch import Tensor

from sairlib.batch import PAD, State
from sairlib.data.ids import Ints
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part, Split
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import Ranks
from sairlib.models.recommender import Products, Recommender
from sairlib.run import report
from sairlib.run.histories import Histories, of_people, of_users
from sairlib.run.recommendations import Asked, Recommendations

Given: TypeAlias = pd.DataFrame | Mapping[object, Sequence[object]] | Sequence[Sequence[object]]
"""Histories as ids of items: see ``Run.recommend``."""


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
        users: Iterable[object] | None = None,
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
        people = self._people(histories, users)
        allowed = self._allowed(candidates, category)
        return self._ranked.stream(people, Asked(k, exclude_seen, allowed, interests))

    def score(self, histories: Given, items: Sequence[object]) -> pd.DataFrame:
        """Scores of ``items``, given by their ids: a row for each history, a column for each item.

        UserError for an item that the model does not know.
        """
        numbers = self.split.dataset.item_numbers(items)
        if (numbers == PAD).any():
            raise UserError(f"items: the model has no item {items[int((numbers == PAD).argmax())]!r}")
        people = of_people(self.split.dataset, histories)
        scores_BC = self._ranked.score(people, numbers)
        frame: pd.DataFrame = pd.DataFrame(scores_BC.cpu().numpy(), index=people.ids, columns=list(items))
        return frame

    def states(self, histories: Given) -> State:
        """The model's state for each history (B, ...): one tensor, or a tuple of tensors for some models."""
        return self._ranked.states(of_people(self.split.dataset, histories))

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

    def _people(self, histories: Given | None, users: Iterable[object] | None) -> Histories:
        if histories is None:
            return of_users(self.split.dataset, users)
        if users is not None:
            raise UserError("give histories or users, not both")
        return of_people(self.split.dataset, histories)

    def _allowed(self, candidates: Iterable[object] | None, category: str | None) -> Ints | None:
        """The numbers of the items to choose among, ascending; None for all."""
        data, allowed = self.split.dataset, None
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
