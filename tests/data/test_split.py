"""Leave-one-out and chronological splits: what each user trains on, and when the hash changes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_data import make_dataset, make_targets

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


def split_of(rows: list[tuple[int, int, int]], categories: list[tuple[int, str]] | None = None) -> Split:
    frame = pd.DataFrame(np.array(rows, np.int64), columns=[USER, ITEM, TIMESTAMP])
    pairs = pd.DataFrame(categories or [(10, "War")], columns=[ITEM, CATEGORY])
    return leave_one_out(index(Interactions(frame, "set.csv", pairs)))


def test_roles() -> None:
    split = split_of([*ROWS, (6, 10, 2)])
    assert split.train_lengths.tolist() == [2, 1, 1, 2]  # users 1, 2, 5, 6: those of 5 and 6 all train
    assert split.eval_users.tolist() == [0, 1]
    assert split.n_short == 2


@pytest.mark.parametrize(
    ("share", "train_lengths"),
    [(0.8, [7, 3, 2, 1, 2]), (0.5, [4, 2, 1, 1, 2]), (0.99, [8, 3, 2, 1, 2]), (0.01, [10, 5, 4, 3, 2])],
)
def test_chronological_roles(share: float, train_lengths: list[int]) -> None:
    """For 10, 5, 4, 3 and 2 actions. A user with too few for training, validation and test trains on all of them."""
    rows = [(user, 10 + i, i) for user, n in enumerate([10, 5, 4, 3, 2]) for i in range(n)]
    if share == 0.01:
        with pytest.raises(UserError, match="nobody to evaluate"):
            chronological(split_of(rows).dataset, share)
        return
    split = chronological(split_of(rows).dataset, share)
    assert split.train_lengths.tolist() == train_lengths
    assert split.eval_users.tolist() == [0, 1, 2, 3]
    assert split.sha256() != split_of(rows).sha256()


def test_a_share_of_a_round_number_is_exact() -> None:
    """0.55 * 100 is 55.00000000000001 in floating point: of the 55 past actions, the last is for validation."""
    split = chronological(split_of([(0, i, i) for i in range(100)]).dataset, 0.55)
    assert split.train_lengths.tolist() == [54]


def test_users_of_three_actions_can_be_left_out() -> None:
    rows = [(user, 10 + i, i) for user, n in enumerate([5, 3, 4]) for i in range(n)]
    split = leave_one_out(split_of(rows).dataset, min_actions=4)
    assert split.eval_users.tolist() == [0, 2] and split.train_lengths.tolist() == [3, 3, 2]
    assert split.sha256() != leave_one_out(split_of(rows).dataset).sha256()
    with pytest.raises(UserError, match=r"split\.min_actions=2: must be 3 or more"):
        leave_one_out(split_of(rows).dataset, min_actions=2)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"split\.share="):
        chronological(split_of(ROWS).dataset, share)


def test_the_item_after_the_past_is_tested_and_later_ones_are_left_alone() -> None:
    rows = [(1, 10 + i, i) for i in range(10)] + [(2, 10 + i, i) for i in range(3)]
    split = chronological(split_of(rows).dataset, 0.5)
    store = SequenceStore(split, 50, torch.device("cpu"))
    for part, ends in ((Part.VALIDATION, [4, 1]), (Part.TEST, [5, 2])):
        examples = {}
        for history, make_targets_B, rows_B in store.evaluation(part, 8):
            for user, items, target in zip(history.users_B, history.items_BN, make_targets_B, strict=True):
                examples[int(user)] = ([i for i in items.tolist() if i], int(target))
            had = store.had(part, rows_B).tolist()
        assert examples == {u: (list(range(1, end + 1)), end + 1) for u, end in enumerate(ends)}
        assert sorted(sum(map(bool, items)) for items in had) == sorted(ends)
    assert store.counts_M[1:].tolist() == [2, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_hashes_are_those_of_earlier_versions() -> None:
    """Published figures name these hashes."""
    assert split_of(ROWS).sha256() == "0009b81915e82104b83e1c2af3b6b701d270295184a2eb4be76010deeb8a01dd"
    chronologically = chronological(split_of(ROWS).dataset, 0.5)
    assert chronologically.sha256() == "5fe96975546d3de9ff5d84e17befe86064b4eb44d928b2678a08dcdde85be4da"


def test_the_hash_ignores_times_and_file_order_that_leave_the_sequences_equal() -> None:
    later = [(user, item, time + 100) for user, item, time in ROWS]
    assert split_of(later).sha256() == split_of(ROWS).sha256()
    swapped_in_file = [ROWS[3], *ROWS[:3], *ROWS[4:]]
    assert split_of(swapped_in_file).sha256() == split_of(ROWS).sha256()


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
    assert split_of(rows).sha256() != split_of(ROWS).sha256()


def test_hash_changes_with_categories() -> None:
    assert split_of(ROWS, [(10, "Drama")]).sha256() != split_of(ROWS).sha256() != split_of(ROWS, [(11, "War")]).sha256()


def test_hash_changes_with_what_each_user_trains_on() -> None:
    """With the same data and the same name; only the training lengths differ."""
    split = split_of(ROWS)
    for user in range(split.dataset.n_users):
        other = split.train_lengths.copy()
        other[user] -= 1
        assert replace(split, train_lengths=other).sha256() != split.sha256()
    assert replace(split, train_lengths=split.train_lengths.copy()).sha256() == split.sha256()


def test_hash_changes_with_the_targets() -> None:
    """With the same data and training parts, no two of these splits are comparable."""
    data = make_dataset([[1, 2, 3, 4, 5, 6], [3, 2, 1, 4, 5], [2, 5, 1, 6]], 6)
    usual, later, last = ((0, 2), (1, 2), (2, 2)), ((0, 3), (1, 3), (2, 3)), ((0, 4), (1, 4), (2, 3))
    roles = [
        (usual, later),
        (later, usual),
        (last, later),
        (usual, last),
        (usual, usual),
        (usual[:2], later),  # user 2 has both actions, but no validation target
        (usual, later[:2]),
        ((*usual, (0, 3)), later),
        (usual, (*later, (0, 4))),
        ((*usual, *later), last),
        (last, (*usual, *later)),
    ]
    lengths = np.array([2, 2, 2])
    hashes = [Split(data, lengths, make_targets(*one), make_targets(*other)).sha256() for one, other in roles]
    assert len(set(hashes)) == len(roles)
    again = Split(data, lengths.copy(), make_targets(*last), make_targets(*later))
    assert again.sha256() == hashes[2]


@pytest.mark.parametrize("target", [(0, 1), (0, 6), (1, 5), (2, -1)])
@pytest.mark.parametrize("part", Part)
def test_a_target_in_the_training_part_or_of_no_action_is_refused(target: tuple[int, int], part: Part) -> None:
    data = make_dataset([[1, 2, 3, 4, 5, 6], [3, 2, 1, 4, 5], [2, 5, 1, 6]], 6)
    targets = {Part.VALIDATION: make_targets((0, 2)), Part.TEST: make_targets((0, 3))}
    targets[part] = make_targets((0, 4), target)
    with pytest.raises(ValueError, match="one of its user's actions, after those that train"):
        Split(data, np.array([2, 2, 0]), targets[Part.VALIDATION], targets[Part.TEST])


def test_data_with_nothing_to_evaluate_or_to_rank_is_refused() -> None:
    with pytest.raises(UserError, match="none of the 2 users has 3 or more actions"):
        split_of([(1, 1, 1), (1, 2, 2), (2, 1, 1)])
    with pytest.raises(UserError, match="a single item"):
        split_of([(1, 1, 1), (1, 1, 2), (1, 1, 3)])


def test_movielens_100k_has_the_split_of_file_order(real_data: Callable[[str], Path]) -> None:
    source = Source(real_data("ml-100k.zip"))
    split = leave_one_out(prepare(source, GroupLens(), Filters(), None))
    with source.open("u.data") as stream:
        rows = [[int(field) for field in line.split()] for line in stream]
    last = {}
    for user, item, _, time in rows:  # ties: the later row wins
        if user not in last or time >= last[user][0]:
            last[user] = (time, item)
    data = split.dataset
    tested = {int(data.user_ids[u]): int(data.item_ids[data.items[data.offsets[u + 1] - 1] - 1]) for u in range(943)}
    assert tested == {user: item for user, (_, item) in last.items()}
    assert len(split.eval_users) == 943


def test_chronological_takes_four_fifths_by_default() -> None:
    split = chronological(split_of([(0, i, i) for i in range(10)]).dataset)
    assert split.train_lengths.tolist() == [7] and split.test.positions_E.tolist() == [8]
