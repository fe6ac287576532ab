"""Leave-one-out and chronological: who trains on what; the hash changes iff what it stands for does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_data import dataset, targets

from sairlib.data.dataset import index
from sairlib.data.filters import Filters
from sairlib.data.interactions import CATEGORY, ITEM, TIMESTAMP, USER, Interactions
from sairlib.data.prepare import prepare
from sairlib.data.readers.grouplens import GroupLens
from sairlib.data.sequences import SequenceStore
from sairlib.data.source import Source
from sairlib.data.split import Part, Split, chronological, leave_one_out
from sairlib.errors import UserError

ROWS = [(1, 10, 1), (1, 11, 2), (1, 12, 3), (1, 13, 4), (2, 10, 1), (2, 11, 1), (2, 14, 1), (5, 10, 9), (6, 14, 1)]


def split(rows: list[tuple[int, int, int]], categories: list[tuple[int, str]] | None = None) -> Split:
    frame = pd.DataFrame(np.array(rows, np.int64), columns=[USER, ITEM, TIMESTAMP])
    pairs = pd.DataFrame(categories or [(10, "War")], columns=[ITEM, CATEGORY])
    return leave_one_out(index(Interactions(frame, "set.csv", pairs)))


def test_roles() -> None:
    made = split([*ROWS, (6, 10, 2)])
    assert made.train_lengths.tolist() == [2, 1, 1, 2]  # users 1, 2, 5, 6: those of 5 and 6 all train
    assert made.eval_users.tolist() == [0, 1]
    assert made.n_short == 2


@pytest.mark.parametrize(
    ("share", "train_lengths"),
    [(0.8, [7, 3, 2, 1, 2]), (0.5, [4, 2, 1, 1, 2]), (0.99, [8, 3, 2, 1, 2]), (0.01, [10, 5, 4, 3, 2])],
)
def test_chronological_roles(share: float, train_lengths: list[int]) -> None:
    """Of 10, 5, 4, 3 and 2 actions; who has none to train on, to validate and to test trains on all."""
    rows = [(user, 10 + i, i) for user, n in enumerate([10, 5, 4, 3, 2]) for i in range(n)]
    if share == 0.01:
        with pytest.raises(UserError, match="nobody to evaluate"):
            chronological(split(rows).dataset, share)
        return
    made = chronological(split(rows).dataset, share)
    assert made.train_lengths.tolist() == train_lengths
    assert made.eval_users.tolist() == [0, 1, 2, 3]
    assert made.sha256() != split(rows).sha256()


def test_a_share_of_a_round_number_is_round() -> None:
    """0.55 * 100 is 55.00000000000001 in floating point: 55 actions are the past, of which the last validates."""
    made = chronological(split([(0, i, i) for i in range(100)]).dataset, 0.55)
    assert made.train_lengths.tolist() == [54]


def test_users_of_three_actions_can_be_left_out() -> None:
    rows = [(user, 10 + i, i) for user, n in enumerate([5, 3, 4]) for i in range(n)]
    made = leave_one_out(split(rows).dataset, min_actions=4)
    assert made.eval_users.tolist() == [0, 2] and made.train_lengths.tolist() == [3, 3, 2]
    assert made.sha256() != leave_one_out(split(rows).dataset).sha256()
    with pytest.raises(UserError, match=r"split\.min_actions=2: must be 3 or more"):
        leave_one_out(split(rows).dataset, min_actions=2)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"split\.share="):
        chronological(split(ROWS).dataset, share)


def test_the_item_after_the_past_is_tested_and_later_ones_are_left_alone() -> None:
    rows = [(1, 10 + i, i) for i in range(10)] + [(2, 10 + i, i) for i in range(3)]
    made = chronological(split(rows).dataset, 0.5)
    store = SequenceStore(made, 50, torch.device("cpu"))
    for part, ends in ((Part.VALIDATION, [4, 1]), (Part.TEST, [5, 2])):
        found = {}
        for history, targets_B, rows_B in store.evaluation(part, 8):
            for user, items, target in zip(history.users_B, history.items_BN, targets_B, strict=True):
                found[int(user)] = ([i for i in items.tolist() if i], int(target))
            had = store.had(part, rows_B).tolist()
        assert found == {u: (list(range(1, end + 1)), end + 1) for u, end in enumerate(ends)}
        assert sorted(sum(map(bool, items)) for items in had) == sorted(ends)
    assert store.counts_M[1:].tolist() == [2, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_hashes_are_those_of_earlier_versions() -> None:
    """Figures were published with them."""
    assert split(ROWS).sha256() == "0009b81915e82104b83e1c2af3b6b701d270295184a2eb4be76010deeb8a01dd"
    chronologically = chronological(split(ROWS).dataset, 0.5)
    assert chronologically.sha256() == "5fe96975546d3de9ff5d84e17befe86064b4eb44d928b2678a08dcdde85be4da"


def test_hash_stays_where_nothing_that_counts_changed() -> None:
    later = [(user, item, time + 100) for user, item, time in ROWS]
    assert split(later).sha256() == split(ROWS).sha256()
    swapped_in_file = [ROWS[3], *ROWS[:3], *ROWS[4:]]
    assert split(swapped_in_file).sha256() == split(ROWS).sha256()


@pytest.mark.parametrize(
    "rows",
    [
        [*ROWS[:4], ROWS[5], ROWS[4], *ROWS[6:]],  # a tie the other way round in the file
        [(1, 10, 5), *ROWS[1:]],  # the oldest becomes the newest
        ROWS[:-1],
        [*ROWS, (7, 10, 1)],
        [(1, 99, 1) if row == (1, 10, 1) else row for row in ROWS],
        [(8 if user == 6 else user, item, time) for user, item, time in ROWS],  # another person
    ],
)
def test_hash_changes_with_data_and_order(rows: list[tuple[int, int, int]]) -> None:
    assert split(rows).sha256() != split(ROWS).sha256()


def test_hash_changes_with_categories() -> None:
    assert split(ROWS, [(10, "Drama")]).sha256() != split(ROWS).sha256() != split(ROWS, [(11, "War")]).sha256()


def test_hash_changes_with_what_each_user_trains_on() -> None:
    """Of the same data, under the same name: the roles alone."""
    made = split(ROWS)
    for user in range(made.dataset.n_users):
        other = made.train_lengths.copy()
        other[user] -= 1
        assert replace(made, train_lengths=other).sha256() != made.sha256()
    assert replace(made, train_lengths=made.train_lengths.copy()).sha256() == made.sha256()


def test_hash_changes_with_what_is_to_be_found() -> None:
    """Of the same data and the same training parts: no two of these splits are comparable."""
    data = dataset([[1, 2, 3, 4, 5, 6], [3, 2, 1, 4, 5], [2, 5, 1, 6]], 6)
    usual, later, last = ((0, 2), (1, 2), (2, 2)), ((0, 3), (1, 3), (2, 3)), ((0, 4), (1, 4), (2, 3))
    roles = [
        (usual, later),
        (later, usual),
        (last, later),
        (usual, last),
        (usual, usual),
        (usual[:2], later),  # user 2 has the two actions, and is left alone
        (usual, later[:2]),
        ((*usual, (0, 3)), later),
        (usual, (*later, (0, 4))),
        ((*usual, *later), last),
        (last, (*usual, *later)),
    ]
    lengths = np.array([2, 2, 2])
    hashes = [Split(data, lengths, targets(*one), targets(*other)).sha256() for one, other in roles]
    assert len(set(hashes)) == len(roles)
    again = Split(data, lengths.copy(), targets(*last), targets(*later))
    assert again.sha256() == hashes[2]


@pytest.mark.parametrize("target", [(0, 1), (0, 6), (1, 5), (2, -1)])
@pytest.mark.parametrize("part", Part)
def test_a_target_that_trains_or_is_none_of_the_user_s_is_refused(target: tuple[int, int], part: Part) -> None:
    data = dataset([[1, 2, 3, 4, 5, 6], [3, 2, 1, 4, 5], [2, 5, 1, 6]], 6)
    chosen = {Part.VALIDATION: targets((0, 2)), Part.TEST: targets((0, 3))} | {part: targets((0, 4), target)}
    with pytest.raises(ValueError, match="one of its user's actions, after those that train"):
        Split(data, np.array([2, 2, 0]), chosen[Part.VALIDATION], chosen[Part.TEST])


def test_nothing_to_evaluate_or_to_rank_is_said() -> None:
    with pytest.raises(UserError, match="none of the 2 users has 3 or more actions"):
        split([(1, 1, 1), (1, 2, 2), (2, 1, 1)])
    with pytest.raises(UserError, match="a single item"):
        split([(1, 1, 1), (1, 1, 2), (1, 1, 3)])


def test_movielens_100k_has_the_split_of_file_order(real_data: Callable[[str], Path]) -> None:
    source = Source(real_data("ml-100k.zip"))
    made = leave_one_out(prepare(source, GroupLens(), Filters(), None))
    with source.open("u.data") as stream:
        rows = [[int(field) for field in line.split()] for line in stream]
    last = {}
    for user, item, _, time in rows:  # ties: the later row wins
        if user not in last or time >= last[user][0]:
            last[user] = (time, item)
    data = made.dataset
    tested = {int(data.user_ids[u]): int(data.item_ids[data.items[data.offsets[u + 1] - 1] - 1]) for u in range(943)}
    assert tested == {user: item for user, (_, item) in last.items()}
    assert len(made.eval_users) == 943
