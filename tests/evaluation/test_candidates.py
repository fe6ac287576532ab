"""Candidates: unseen items only, uniform or by popularity, the same for every model and every version."""

import numpy as np
import pytest
import torch
from small_data import make_dataset, make_split, make_targets

from sairlib.batch import PAD
from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.evaluation.candidates import candidates


def people(n_users: int, n_items: int) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(1, n_items + 1, length).tolist() for length in rng.integers(1, 25, n_users)]


@pytest.mark.parametrize("kind", ["uniform", "popular"])
@pytest.mark.parametrize("n", [1, 7, 15, 20, 36, 60, 100])  # rejection, shuffling, and more than there are
def test_candidates_are_distinct_and_unseen(kind: str, n: int) -> None:
    sequences = [*people(150, 60), list(range(1, 61)), [*range(1, 60), 60, 60]]
    split = make_split(sequences, 60)
    drawn = candidates(split, n, kind, 1)
    trained = {item for s in sequences for item in (s[:-2] if len(s) >= 3 else s)}
    short = 0
    for user, row in zip(split.eval_users.tolist(), drawn.items_UC.tolist(), strict=True):
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
    split = make_split(people(50, 60), 60)
    first = candidates(split, 10, kind, 1)
    torch.manual_seed(99)
    np.random.seed(99)
    assert np.array_equal(candidates(split, 10, kind, 1).items_UC, first.items_UC)
    assert candidates(split, 10, kind, 1).sha256() == first.sha256()
    other = candidates(split, 10, kind, 2)
    assert other.sha256() != first.sha256() and not np.array_equal(other.items_UC, first.items_UC)
    assert candidates(split, 11, kind, 1).sha256() != first.sha256()


@pytest.mark.parametrize("n", [4, 10])  # 27 unseen: rejection (4 n <= 27), shuffling
def test_uniform_candidates_are_uniform(n: int) -> None:
    n_users = 3000
    split = make_split([[1, 2, 3]] * n_users + [list(range(1, 31))], 30)
    counts = np.bincount(candidates(split, n, "uniform", 5).items_UC[:n_users].flatten(), minlength=31)
    assert counts[:4].sum() == 0
    share = n / 27
    deviation = np.sqrt(n_users * share * (1 - share))
    assert np.abs(counts[4:] - n_users * share).max() < 4.5 * deviation


def test_popular_candidates_follow_training_counts() -> None:
    n_users = 3000
    background = [[4] * 6 + [5] * 3 + [6] + [7, 8]]  # 7 and 8 are held out: never drawn
    split = make_split([[1, 2, 3]] * n_users + background, 9)
    one = np.bincount(candidates(split, 1, "popular", 0).items_UC[:n_users, 0], minlength=10)
    assert one.sum() == n_users == one[4:7].sum()
    assert np.abs(one[4:7] / n_users - [0.6, 0.3, 0.1]).max() < 0.04
    two = candidates(split, 2, "popular", 0).items_UC[:n_users]
    # Without replacement: 6 is left out unless drawn first, or second after 4 or 5.
    assert abs((two == 6).any(1).mean() - (0.1 + 0.6 * 0.1 / 0.4 + 0.3 * 0.1 / 0.7)) < 0.04
    assert np.array_equal(np.sort(candidates(split, 5, "popular", 0).items_UC[0]), [PAD, PAD, 4, 5, 6])


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"^evaluation\.candidates=best: choose one of uniform, popular$"):
        candidates(make_split([[1, 2, 3]], 3), 1, "best", 0)


@pytest.mark.parametrize("kind", ["uniform", "popular"])
def test_candidates_depend_on_the_user_and_not_on_the_number_of_targets(kind: str) -> None:
    """One row for each user who has a target in any part; no item that the user ever had."""
    sequences = people(30, 60)
    data, lengths = make_dataset(sequences, 60), np.array([len(sequence) // 2 for sequence in sequences])
    held_out = [(user, at) for user, sequence in enumerate(sequences) for at in range(lengths[user], len(sequence))]
    validation = make_targets(*(pair for pair in held_out if pair[0] % 3 == 0))
    test = make_targets(*(pair for pair in held_out if pair[0] % 3 == 1))
    split = Split(data, lengths, validation, test)
    users = [user for user, sequence in enumerate(sequences) if user % 3 < 2 and len(sequence) > lengths[user]]
    assert len(users) < len(validation) and split.eval_users.tolist() == users
    drawn = candidates(split, 5, kind, 1)
    assert drawn.items_UC.shape == (len(users), 5) and drawn.n_short == 0
    for user, row in zip(users, drawn.items_UC.tolist(), strict=True):
        assert len(set(row)) == 5 and not set(row) & {PAD, *sequences[user]}
    # Fewer targets of the same users: the same candidates.
    assert candidates(Split(data, lengths, validation, make_targets(*held_out)), 5, kind, 1).sha256() != drawn.sha256()
    first = {user: (user, at) for user, at in reversed(held_out)}
    fewer = Split(data, lengths, *(make_targets(*(first[u] for u in users if u % 3 == part)) for part in (0, 1)))
    assert len(fewer.validation) < len(validation)
    assert candidates(fewer, 5, kind, 1).sha256() == drawn.sha256()


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("uniform", "610726b9b70a3cb3aadccd361993a1c3fa11b56e1d4bf5f30760ff15f4e8c101"),
        ("popular", "0a5691b9c8710d44d2184f430ba29b933e07b05152e98e4e9cf93fd7c26401e2"),
    ],
)
def test_candidates_are_those_of_earlier_versions(kind: str, digest: str) -> None:
    """Published figures were measured against them."""
    assert candidates(make_split(people(50, 60), 60), 10, kind, 1).sha256() == digest


@pytest.mark.parametrize("n", [1, 5, 100, 399])
def test_popular_candidates_are_the_first_of_all_in_the_drawn_order(n: int) -> None:
    """However many items there are to choose from: against the whole of them sorted."""
    sequences = people(40, 400)
    split, rng = make_split(sequences, 400), np.random.default_rng(1)
    trains = [item for s in sequences for item in (s[:-2] if len(s) >= 3 else s)]
    with np.errstate(divide="ignore"):
        log_counts = np.log(np.bincount(trains, minlength=401))
    keys = log_counts + rng.gumbel(size=(len(split.eval_users), 401))
    for user, row, drawn in zip(split.eval_users, keys, candidates(split, n, "popular", 1).items_UC, strict=True):
        row[sequences[user]] = -np.inf
        order = np.argsort(-row)[:n]
        assert drawn.tolist() == np.where(np.isfinite(row[order]), order, PAD).tolist()
