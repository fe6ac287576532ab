"""The figures of a data set against slow, plain versions of their definitions."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import make_dataset

from sairlib.data import statistics, statistics_picture
from sairlib.data.dataset import Dataset, index
from sairlib.data.filters import Filters
from sairlib.data.interactions import ITEM, RATING, TIMESTAMP, USER, Interactions
from sairlib.data.split import MIN_ACTIONS, leave_one_out
from sairlib.data.statistics_filters import apply_in_steps, possible_filters
from sairlib.errors import UserError

counts_lists = st.lists(st.integers(0, 30), min_size=1, max_size=30)
actions = st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 5), st.integers(1, 5))
action_lists = st.lists(actions, min_size=1, max_size=60)


def table(rows: list[tuple[int, int, int, int]]) -> Interactions:
    return Interactions(pd.DataFrame(np.array(rows, np.int64), columns=[USER, ITEM, TIMESTAMP, RATING]), "set.csv")


@given(counts_lists)
def test_gini_is_the_mean_difference_over_twice_the_mean(counts: list[int]) -> None:
    differences = [abs(a - b) for a in counts for b in counts]
    slow = sum(differences) / len(counts) ** 2 / (2 * sum(counts) / len(counts)) if sum(counts) else 0.0
    assert statistics.gini(np.array(counts)) == pytest.approx(slow, abs=1e-12)


def test_gini_of_extremes() -> None:
    assert statistics.gini(np.full(7, 3)) == pytest.approx(0)
    assert statistics.gini(np.array([0, 0, 0, 9])) == 3 / 4
    assert statistics.gini(np.zeros(4, np.int64)) == 0


@given(counts_lists.filter(any), st.integers(1, 100))
def test_the_top_share_counts_the_most_frequent(counts: list[int], percent: int) -> None:
    n_top = -(-percent * len(counts) // 100)
    assert statistics.top_share(np.array(counts), percent / 100) == sum(sorted(counts)[-n_top:]) / sum(counts)


@given(st.lists(st.one_of(st.integers(1, 12), st.integers(1, 30_000)), min_size=1, max_size=50))
def test_a_histogram_holds_every_length_once_in_bins_without_gaps(lengths: list[int]) -> None:
    bins = statistics.histogram(np.array(lengths))
    counts = Counter(next(row["from"] for row in bins if row["from"] <= n <= row["to"]) for n in lengths)
    assert [row["users"] for row in bins] == [counts[row["from"]] for row in bins]
    assert all(after["from"] == before["to"] + 1 for before, after in pairwise(bins))
    assert bins[0]["users"] and bins[-1]["users"]
    assert {row["from"] for row in bins} <= {1, 2, 3, *(a * 10**b for a in (1, 2, 5) for b in range(5))}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.sampled_from([0.05, 0.25, 0.5, 0.75, 1.0]))
def test_a_quantile_is_the_smallest_value_that_the_share_does_not_exceed(values: list[int], share: float) -> None:
    slow = min(v for v in values if sum(other <= v for other in values) >= share * len(values) - 1e-9)
    assert statistics.quantiles(np.array(values), (share,)) == [slow]


@settings(max_examples=60)
@given(action_lists.filter(lambda rows: max(Counter(user for user, *_ in rows).values()) >= MIN_ACTIONS))
def test_ties_are_counted_for_held_out_items_of_each_user(rows: list[tuple[int, int, int, int]]) -> None:
    data = index(table([*rows, (0, 7, 0, 1)]))  # two items at least
    found = statistics.ties(leave_one_out(data))
    assert found is not None and data.times is not None
    expected = {"actions": 0, "validation": 0, "test": 0, "users": 0}
    for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        times, items = data.times[start:end].tolist(), data.items[start:end].tolist()
        seen = [{item for item, other in zip(items, times, strict=True) if other == time} for time in times]
        expected["actions"] += sum(len(both) > 1 for both in seen)
        if len(times) >= MIN_ACTIONS:
            tied = [len(seen[at]) > 1 for at in (-2, -1)]
            expected["validation"] += tied[0]
            expected["test"] += tied[1]
            expected["users"] += any(tied)
    assert {name: found[name] if name in ("actions", "users") else found[name]["tied"] for name in expected} == expected


def test_without_times_there_are_no_ties() -> None:
    assert statistics.ties(leave_one_out(make_dataset([[1, 2, 3], [3, 2]], 3))) is None


def test_who_is_evaluated_and_the_row_of_the_table() -> None:
    described = statistics.describe(leave_one_out(make_dataset([[1, 2], [1, 2, 3], [4, 3, 2, 1, 1]], 5)), max_len=2)
    assert described["sizes"] == {
        **{"users": 3, "items": 5, "actions": 10, "categories": 0},
        **{"average_length": 10 / 3, "sparsity": pytest.approx(100 * 5 / 15)},
    }
    assert described["split"] == {
        **{"name": "leave-one-out 1", "evaluated": 2, "too_few_actions": 1, "single_training_action": 1},
        **{"max_len": 2, "longer_than_max_len": 1},
    }
    assert described["popularity"]["items_once"] == 1  # item 4; item 5 has none
    assert described["popularity"]["items_under_5"] == 5


def slow_left(rows: list[tuple[int, int, int, int]], user_core: int, item_core: int) -> list[int]:
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        kept = [row for row in rows if users[row[0]] >= user_core and items[row[1]] >= item_core]
        if len(kept) == len(rows):
            return [len(users), len(items), len(rows)]
        rows = kept


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, min_size=1, max_size=150))
def test_what_filters_would_leave(rows: list[tuple[int, int, int, int]]) -> None:
    found = {left["filter"]: [left["users"], left["items"], left["actions"]] for left in possible_filters(table(rows))}
    assert found.pop("min_rating=4") == slow_left([row for row in rows if row[3] >= 4], 0, 0)
    expected = {f"user_core={k}": slow_left(rows, k, 0) for k in (5, 10, 20)}
    expected |= {f"item_core={k}": slow_left(rows, 0, k) for k in (5, 10, 20)}
    assert found == expected | {f"user_core={k} item_core={k}": slow_left(rows, k, k) for k in (5, 10, 20)}


def test_without_ratings_no_filter_of_ratings_is_offered() -> None:
    data = Interactions(table([(1, 1, 1, 5)]).frame[[USER, ITEM]], "set.csv")
    assert all("min_rating" not in left["filter"] for left in possible_filters(data))


def test_the_configured_filters_are_counted_step_by_step() -> None:
    rows = [(user, item, 0, 5) for user in (1, 2) for item in (1, 2)] + [(3, 1, 0, 5), (4, 9, 0, 1)]
    filters = Filters(min_rating=4, user_core=2, item_core=2)
    kept, steps = apply_in_steps(table(rows), filters)
    assert [tuple(step.values()) for step in steps] == [
        ("none", 4, 3, 6),
        ("min_rating=4", 3, 2, 5),
        ("user_core=2 item_core=2", 2, 2, 4),
    ]
    assert kept.frame.equals(filters.apply(table(rows)).frame)
    assert [step["filter"] for step in apply_in_steps(table(rows), Filters())[1]] == ["none"]
    with pytest.raises(UserError, match="nothing is left"):
        apply_in_steps(table(rows), Filters(min_rating=6))


def drawable(name: str) -> Dataset:
    timed = make_dataset([[1, 2, 3], [4, 3, 2, 1, 1]], 4, timed=True)
    assert timed.times is not None
    times = {"none": None, "numbers": timed.times, "dates": timed.times * 10**8 + 10**9, "one": timed.times * 0}
    return Dataset(timed.items, timed.offsets, timed.user_ids, timed.item_ids, timed.item_categories, (), times[name])


@pytest.mark.parametrize("name", ["none", "numbers", "dates", "one"])
def test_the_picture_is_a_png(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
    statistics_picture.draw(drawable(name), "a set", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UserError, match=r"could not write .*gone"):
        statistics_picture.draw(drawable(name), "a set", tmp_path / "gone" / "picture.png")
