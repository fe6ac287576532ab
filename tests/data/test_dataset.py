"""Order, dense ids and categories equal a slow plain version; ties keep the order of the file."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sairlib.batch import PAD
from sairlib.data.dataset import UNKNOWN, Dataset, index
from sairlib.data.interactions import CATEGORY, ITEM, TIMESTAMP, USER, Interactions, no_categories

Row = tuple[int, int, int]
IDS = st.sampled_from([0, 3, 7, 40, 41, 2**40, 2**63 - 1])
TIMES = st.integers(-2, 2) | st.sampled_from([-(2**62), 2**62])  # the latter too far apart to share a key with users
ROWS = st.lists(st.tuples(IDS, IDS, TIMES), min_size=1, max_size=40)


def dataset_of(rows: list[Row], pairs: list[tuple[int, str]] | None = None, timed: bool = True) -> Dataset:
    users, items, times = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    frame = pd.DataFrame({USER: users, ITEM: items} | ({TIMESTAMP: times} if timed else {}))
    categories = no_categories()
    if pairs:
        named = {ITEM: np.array([i for i, _ in pairs], np.int64), CATEGORY: np.array([c for _, c in pairs], object)}
        categories = pd.DataFrame(named)
    return index(Interactions(frame, "set.csv", categories))


@given(ROWS, st.booleans())
def test_order_and_ids_equal_the_slow_ones(rows: list[Row], timed: bool) -> None:
    dataset = dataset_of(rows, timed=timed)
    assert dataset.user_ids.tolist() == sorted({user for user, _, _ in rows})
    assert dataset.item_ids.tolist() == sorted({item for _, item, _ in rows})
    assert (dataset.n_users, dataset.n_items) == (len(dataset.user_ids), len(dataset.item_ids))
    for u, user in enumerate(dataset.user_ids.tolist()):
        mine = [(time if timed else 0, row, item) for row, (owner, item, time) in enumerate(rows) if owner == user]
        dense = dataset.items[dataset.offsets[u] : dataset.offsets[u + 1]]
        assert dataset.item_ids[dense - 1].tolist() == [item for _, _, item in sorted(mine)]
    assert dataset.offsets[-1] == len(dataset.items) == len(rows)


def test_ties_keep_the_order_of_the_file_however_long() -> None:
    # Unstable sorts only show on more rows than hypothesis makes.
    rng = np.random.default_rng(0)
    rows = [(int(u), i, int(t)) for i, (u, t) in enumerate(rng.integers(0, 3, (5000, 2)))]
    dataset = dataset_of(rows)
    assert dataset.item_ids[dataset.items - 1].tolist() == [row for _, _, row in sorted((u, t, i) for u, i, t in rows)]


@given(ROWS, st.lists(st.tuples(IDS, st.sampled_from(["War", "Action", "Children's", "é"])), max_size=12))
def test_categories_equal_the_slow_ones(rows: list[Row], pairs: list[tuple[int, str]]) -> None:
    dataset = dataset_of(rows, pairs)
    of: dict[int, list[str]] = {item: [] for item in dataset.item_ids.tolist()}
    for item, name in pairs:
        if item in of and name not in of[item]:
            of[item].append(name)
    if not any(of.values()):  # an item that nobody had does not count
        assert dataset.n_categories == 0 and dataset.item_categories.shape == (dataset.n_items + 1, 0)
        return
    assert (dataset.item_categories[PAD] == PAD).all()
    assert dataset.item_categories.shape[1] == max(map(len, of.values()))
    for row, item in zip(dataset.item_categories[1:].tolist(), dataset.item_ids.tolist(), strict=True):
        real = [code for code in row if code != PAD]
        assert row == real + [PAD] * (len(row) - len(real))
        assert [dataset.category_names[code - 1] for code in real] == (of[item] or [UNKNOWN])
    expected = sorted({name for names in of.values() for name in names}) + [UNKNOWN] * (not all(of.values()))
    assert list(dataset.category_names) == expected


@given(ROWS, st.booleans())
def test_repeated_actions_are_counted(rows: list[Row], timed: bool) -> None:
    distinct = len({row if timed else row[:2] for row in rows})
    notes = [note for note in dataset_of(rows, timed=timed).notes if "repeat" in note]
    expected = f"{len(rows) - distinct} of {len(rows)} actions repeat an earlier one"
    assert [note.startswith(expected) for note in notes] == [True] * (distinct < len(rows))


@pytest.mark.parametrize(
    ("times", "note"),
    [
        ([5, 5, 5], "all 3 timestamps are 5: a user's actions keep the order of the file"),
        ([10**9, 10**9 + 1, 10**12], "1 timestamps look like milliseconds and 2 like seconds"),
        ([10**12, 10**12 + 1, 10**12 + 2], None),
        ([1, 2, 3], None),
    ],
)
def test_odd_times_are_said(times: list[int], note: str | None) -> None:
    notes = dataset_of([(1, item, time) for item, time in enumerate(times)]).notes
    assert notes == () if note is None else note in notes[0]
