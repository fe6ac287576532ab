"""One pass for all targets of a user: when it gives the ranks of one history per target, and when not."""

from collections.abc import Callable
from dataclasses import replace
from typing import final

import numpy as np
import pytest
import small_data
import torch
from test_evaluator import ALL, Table, listed, make_evaluator, make_split, random_scores, split_with_many_targets
from torch import Tensor

from sairlib.batch import History
from sairlib.data.split import Part, Split, leave_last
from sairlib.errors import UserError
from sairlib.models.gru4rec import GRU4Rec
from sairlib.models.recommender import Head, Products, Recommender, StepModel
from sairlib.models.sasrec import SASRec
from sairlib.models.transrec import TransRec

Listed = dict[str, list[list[int]]]


def leave_five(seed: int = 0) -> Split:
    """40 users with 7 to 25 actions on 50 items: 5 test targets each."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(1, 51, length).tolist() for length in rng.integers(7, 26, 40)]
    return leave_last(small_data.make_dataset(sequences, 50), 5)


def both_passes(split: Split, model: Recommender, max_len: int, part: Part = Part.TEST) -> list[Listed]:
    settings = [replace(ALL, passes=passes) for passes in ("targets", "users")]
    return [listed(make_evaluator(split, one, max_len).rank(model, part)) for one in settings]


@pytest.mark.parametrize(
    ("make", "max_len"),
    [
        (lambda: GRU4Rec(50), 25),
        (lambda: SASRec(50, 40, 25, positional_embedding=False), 25),
        (lambda: TransRec(50, 40), 3),
    ],
)
def test_one_pass_for_a_user_gives_the_same_ranks(make: Callable[[], Recommender], max_len: int) -> None:
    """Where no state depends on the window: neither positions from the newest item, nor histories that are cut."""
    torch.manual_seed(0)
    targets, users = both_passes(leave_five(), make(), max_len)
    assert targets == users


def test_one_pass_differs_where_a_state_depends_on_the_window() -> None:
    torch.manual_seed(0)
    for model, max_len in ((SASRec(50, 40, 25), 25), (GRU4Rec(50), 5)):
        targets, users = both_passes(leave_five(), model, max_len)
        assert targets != users


def test_one_pass_needs_a_state_at_every_step() -> None:
    split = make_split()
    with pytest.raises(UserError, match=r"evaluation\.passes=users: Table has no state at every step"):
        make_evaluator(split, replace(ALL, passes="users")).rank(Table(random_scores(split)), Part.TEST)


@final
class Bigrams(StepModel):
    """A state holds the scores after its item; there is memory for two histories at once."""

    def __init__(self, scores_MM: Tensor) -> None:
        super().__init__()
        self.n_items = len(scores_MM) - 1
        self.scores_MM = scores_MM

    @property
    def head(self) -> Head:
        return Products(lambda items: torch.eye(self.n_items + 1)[slice(None) if items is None else items])

    def encode(self, history: History) -> Tensor:
        if len(history.users_B) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes")
        return self.scores_MM[history.items_BN]


@pytest.mark.parametrize("max_len", [1, 2, 5])
def test_one_pass_ranks_targets_of_any_order_and_number(max_len: int) -> None:
    """Also those without a history, and more of a user than a window has steps."""
    split = split_with_many_targets()
    model = Bigrams(torch.randint(0, 6, (51, 51), generator=torch.Generator().manual_seed(0)).float())
    for part in Part:
        targets, users = both_passes(split, model, max_len, part)
        assert targets == users
