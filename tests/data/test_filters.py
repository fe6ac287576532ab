"""Filters keep what they say, in order; the k-core equals a slow plain one."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sairlib.data.filters import Filters, k_core
from sairlib.data.interactions import ITEM, RATING, USER, Interactions
from sairlib.errors import UserError


def table(pairs: list[tuple[int, int]], ratings: list[float] | None = None) -> Interactions:
    frame = pd.DataFrame(np.array(pairs, np.int64).reshape(-1, 2), columns=[USER, ITEM])
    if ratings is not None:
        frame[RATING] = ratings
    return Interactions(frame, "set.csv")


def slow_core(pairs: list[tuple[int, int]], user_core: int, item_core: int) -> list[bool]:
    """Removes one action at a time."""
    left = dict(enumerate(pairs))
    while True:
        users, items = [user for user, _ in left.values()], [item for _, item in left.values()]
        for row, (user, item) in left.items():
            if users.count(user) < user_core or items.count(item) < item_core:
                del left[row]
                break
        else:
            return [row in left for row in range(len(pairs))]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(3, 9)), max_size=40), st.integers(0, 4), st.integers(0, 4))
def test_k_core_equals_the_slow_one(pairs: list[tuple[int, int]], user_core: int, item_core: int) -> None:
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    assert k_core(users, items, user_core, item_core).tolist() == slow_core(pairs, user_core, item_core)


def test_the_core_shrinks_until_it_is_stable() -> None:
    # Without item 3, which has one action, user 2 has one; without user 2, item 2 has one; and so on.
    chain = [(1, 1), (1, 2), (2, 2), (2, 3)]
    square = [(8, 8), (8, 9), (9, 8), (9, 9)]
    filtered = Filters(user_core=2, item_core=2).apply(table(chain + square))
    assert filtered.frame[[USER, ITEM]].to_numpy().tolist() == [list(pair) for pair in square]


def test_ratings_go_first_and_order_stays() -> None:
    data = table([(1, 1), (3, 2), (1, 2), (3, 3), (2, 2)], [5, 4, 4.5, 3, 5])
    filtered = Filters(min_rating=4, user_core=2).apply(data)
    assert filtered.frame[[USER, ITEM]].to_numpy().tolist() == [[1, 1], [1, 2]]
    assert filtered.frame.index.tolist() == [0, 1]


def test_no_filter_changes_nothing() -> None:
    data = table([(1, 1)])
    assert Filters().apply(data) is data


@pytest.mark.parametrize(
    "settings", [{"user_core": -1}, {"item_core": -5}, {"min_rating": float("nan")}, {"min_rating": float("inf")}]
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        Filters(**settings)  # type: ignore[arg-type]


def test_nothing_left_and_no_ratings_are_refused() -> None:
    with pytest.raises(UserError, match=r"set\.csv: nothing is left of 2 interactions after user_core and item_core"):
        Filters(user_core=2, item_core=2).apply(table([(1, 1), (2, 2)]))
    with pytest.raises(UserError, match="after min_rating"):
        Filters(min_rating=6).apply(table([(1, 1)], [5]))
    with pytest.raises(UserError, match=r"set\.csv has no ratings"):
        Filters(min_rating=4).apply(table([(1, 1)]))
