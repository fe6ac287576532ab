"""Order, dense ids and categories equal a slow plain version; ties keep the order of the file."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from sairlib.batch import PAD
from sairlib.data.dataset import UNKNOWN, Dataset, index
from sairlib.data.interactions import CATEGORY, ITEM, TIMESTAMP, USER, Interactions, no_categories

Row = tuple[int, int, int]
IDS = st.sampled_from([0, 3, 7, 40, 41, 2**40, 2**63 - 1])
TIMES = st.integers(-2, 2) | st.sampled_from([-(2**62), 2**62])  # the latter too far apart to share a key with users
ROWS = st.lists(st.tuples(IDS, IDS, TIMES), min_size=1, max_size=40)


def dataset(rows: list[Row], pairs: list[tuple[int, str]] | None = None, timed: bool = True) -> Dataset:
    users, items, times = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    frame = pd.DataFrame({USER: users, ITEM: items} | ({TIMESTAMP: times} if timed else {}))
    categories = no_categories()
    if pairs:
        named = {ITEM: np.array([i for i, _ in pairs], np.int64), CATEGORY: np.array([c for _, c in pairs], object)}
        categories = pd.DataFrame(named)
    return index(Interactions(frame, "set.csv", categories))


@given(ROWS, st.booleans())
def test_order_and_ids_equal_the_slow_ones(rows: list[Row], timed: bool) -> None:
    made = dataset(rows, timed=timed)
    assert made.user_ids.tolist() == sorted({user for user, _, _ in rows})
    assert made.item_ids.tolist() == sorted({item for _, item, _ in rows})
    assert (made.n_users, made.n_items) == (len(made.user_ids), len(made.item_ids))
    for u, user in enumerate(made.user_ids.tolist()):
        mine = [(time if timed else 0, row, item) for row, (owner, item, time) in enumerate(rows) if owner == user]
        dense = made.items[made.offsets[u] : made.offsets[u + 1]]
        assert made.item_ids[dense - 1].tolist() == [item for _, _, item in sorted(mine)]
    assert made.offsets[-1] == len(made.items) == len(rows)


def test_ties_keep_the_order_of_the_file_however_long() -> None:
    # Unstable sorts only show on more rows than hypothesis makes.
    rng = np.random.default_rng(0)
    rows = [(int(u), i, int(t)) for i, (u, t) in enumerate(rng.integers(0, 3, (5000, 2)))]
    made = dataset(rows)
    assert made.item_ids[made.items - 1].tolist() == [row for _, _, row in sorted((u, t, i) for u, i, t in rows)]


@given(ROWS, st.lists(st.tuples(IDS, st.sampled_from(["War", "Action", "Children's", "é"])), max_size=12))
def test_categories_equal_the_slow_ones(rows: list[Row], pairs: list[tuple[int, str]]) -> None:
    made = dataset(rows, pairs)
    of: dict[int, list[str]] = {item: [] for item in made.item_ids.tolist()}
    for item, name in pairs:
        if item in of and name not in of[item]:
            of[item].append(name)
    if not any(of.values()):  # an item that nobody had does not count
        assert made.n_categories == 0 and made.item_categories.shape == (made.n_items + 1, 0)
        return
    assert (made.item_categories[PAD] == PAD).all()
    assert made.item_categories.shape[1] == max(map(len, of.values()))
    for row, item in zip(made.item_categories[1:].tolist(), made.item_ids.tolist(), strict=True):
        real = [code for code in row if code != PAD]
        assert row == real + [PAD] * (len(row) - len(real))
        assert [made.category_names[code - 1] for code in real] == (of[item] or [UNKNOWN])
    wanted = sorted({name for names in of.values() for name in names}) + [UNKNOWN] * (not all(of.values()))
    assert list(made.category_names) == wanted
