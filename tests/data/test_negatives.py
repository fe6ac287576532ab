"""Negatives and candidates: exactly the unseen, uniform or popular, the same for all and for ever."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sairlib.batch import PAD
from sairlib.data.dataset import Dataset
from sairlib.data.negatives import Unseen, candidates
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Split, leave_one_out
from sairlib.errors import UserError


def unseen(histories: list[list[int]], n_items: int) -> Unseen:
    users = torch.tensor([u for u, items in enumerate(histories) for _ in items], dtype=torch.long)
    items = torch.tensor([i for items in histories for i in items], dtype=torch.long)
    return Unseen(users, items, len(histories), n_items)


def split(sequences: list[list[int]], n_items: int) -> Split:
    offsets = np.cumsum([0, *map(len, sequences)])
    items = np.concatenate([np.array(s, np.int64) for s in sequences])
    table = np.full((n_items + 1, 0), PAD, np.int64)
    return leave_one_out(Dataset(items, offsets, np.arange(len(sequences)), np.arange(1, n_items + 1), table, ()))


@given(st.integers(1, 8).flatmap(lambda m: st.tuples(st.just(m), st.lists(st.lists(st.integers(1, m)), min_size=1))))
def test_at_enumerates_the_complement(case: tuple[int, list[list[int]]]) -> None:
    n_items, histories = case
    made = unseen(histories, n_items)
    ranks = torch.arange(n_items + 2)
    for user, history in enumerate(histories):
        complement = sorted(set(range(1, n_items + 1)) - set(history))
        found = made.at(torch.full_like(ranks, user), ranks).tolist()
        assert found == complement + [PAD] * (len(ranks) - len(complement))
        assert int(made.sizes[user]) == len(complement)


def test_draw_is_uniform_over_the_unseen() -> None:
    histories = [[1, 2, 3, 3, 20], [], [7], list(range(1, 21))]
    made = unseen(histories, 20)
    drawn = made.draw(torch.tensor([2, 0, 3, 1]), (4000, 5), torch.Generator().manual_seed(0))
    assert drawn.shape == (4, 4000, 5)
    for row, user in enumerate([2, 0, 3, 1]):
        counts = np.bincount(drawn[row].flatten().numpy(), minlength=21)
        allowed = sorted(set(range(1, 21)) - set(histories[user])) or [PAD]
        assert counts[allowed].sum() == 20_000
        expected = 20_000 / len(allowed)
        assert np.abs(counts[allowed] - expected).max() < 5 * np.sqrt(expected)
    again = made.draw(torch.tensor([2, 0, 3, 1]), (4000, 5), torch.Generator().manual_seed(0))
    other = made.draw(torch.tensor([2, 0, 3, 1]), (4000, 5), torch.Generator().manual_seed(1))
    assert torch.equal(drawn, again) and not torch.equal(drawn, other)


def test_training_negatives_avoid_the_training_part_alone() -> None:
    # Sparing the held-out items would tell a model which they are.
    store = SequenceStore(split([[1, 2, 3, 4, 5]], 6), 5, torch.device("cpu"))
    drawn = store.unseen.draw(torch.tensor([0]), (500,), torch.Generator().manual_seed(0))
    assert set(drawn.flatten().tolist()) == {4, 5, 6}


def people(n_users: int, n_items: int) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(1, n_items + 1, length).tolist() for length in rng.integers(1, 25, n_users)]


@pytest.mark.parametrize("kind", ["uniform", "popular"])
@pytest.mark.parametrize("n", [1, 7, 15, 20, 36, 60, 100])  # rejection, shuffling, and more than there are
def test_candidates_are_distinct_and_unseen(kind: str, n: int) -> None:
    sequences = [*people(150, 60), list(range(1, 61)), [*range(1, 60), 60, 60]]
    made = split(sequences, 60)
    drawn = candidates(made, n, kind, 1)
    trained = {item for s in sequences for item in (s[:-2] if len(s) >= 3 else s)}
    short = 0
    for user, row in zip(made.eval_users.tolist(), drawn.items_UC.tolist(), strict=True):
        free = set(range(1, 61)) - set(sequences[user])
        if kind == "popular":
            free &= trained
        real = [item for item in row if item != PAD]
        assert row == real + [PAD] * (n - len(real))
        assert len(set(real)) == len(real) == min(n, len(free))
        assert set(real) <= free
        short += len(free) < n
    assert drawn.n_short == short >= 2


@pytest.mark.parametrize("kind", ["uniform", "popular"])
def test_candidates_follow_from_split_and_seed(kind: str) -> None:
    made = split(people(50, 60), 60)
    first = candidates(made, 10, kind, 1)
    torch.manual_seed(99)
    np.random.seed(99)
    assert np.array_equal(candidates(made, 10, kind, 1).items_UC, first.items_UC)
    assert candidates(made, 10, kind, 1).sha256() == first.sha256()
    other = candidates(made, 10, kind, 2)
    assert other.sha256() != first.sha256() and not np.array_equal(other.items_UC, first.items_UC)
    assert candidates(made, 11, kind, 1).sha256() != first.sha256()


@pytest.mark.parametrize("n", [4, 10])  # 27 unseen: rejection (4 n <= 27), shuffling
def test_uniform_candidates_are_uniform(n: int) -> None:
    n_users = 3000
    made = split([[1, 2, 3]] * n_users + [list(range(1, 31))], 30)
    counts = np.bincount(candidates(made, n, "uniform", 5).items_UC[:n_users].flatten(), minlength=31)
    assert counts[:4].sum() == 0
    share = n / 27
    deviation = np.sqrt(n_users * share * (1 - share))
    assert np.abs(counts[4:] - n_users * share).max() < 4.5 * deviation


def test_popular_candidates_follow_training_counts() -> None:
    n_users = 3000
    background = [[4] * 6 + [5] * 3 + [6] + [7, 8]]  # 7 and 8 are held out: never drawn
    made = split([[1, 2, 3]] * n_users + background, 9)
    one = np.bincount(candidates(made, 1, "popular", 0).items_UC[:n_users, 0], minlength=10)
    assert one.sum() == n_users == one[4:7].sum()
    assert np.abs(one[4:7] / n_users - [0.6, 0.3, 0.1]).max() < 0.04
    two = candidates(made, 2, "popular", 0).items_UC[:n_users]
    # Without replacement: 6 is left out unless drawn first, or second after 4 or 5.
    assert abs((two == 6).any(1).mean() - (0.1 + 0.6 * 0.1 / 0.4 + 0.3 * 0.1 / 0.7)) < 0.04
    assert np.array_equal(np.sort(candidates(made, 5, "popular", 0).items_UC[0]), [PAD, PAD, 4, 5, 6])


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="choose uniform or popular"):
        candidates(split([[1, 2, 3]], 3), 1, "best", 0)
