"""Other orders of the same actions: what is permuted, and what is not."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import make_dataset

from sairlib import build, make
from sairlib.data.dataset import Dataset
from sairlib.data.order import Order, shuffled_ties
from sairlib.data.split import Split, leave_last, leave_one_out
from sairlib.errors import UserError

SEQUENCES = st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=3, max_size=12), min_size=1)


def timed(users: list[list[tuple[int, int]]]) -> Dataset:
    """Users with these (item, time) pairs, sorted by time."""
    users = [sorted(pairs, key=lambda pair: pair[1]) for pairs in users]
    data = make_dataset([[item for item, _ in pairs] for pairs in users], 9)
    return replace(data, times=np.array([time for pairs in users for _, time in pairs]))


def actions(data: Dataset) -> list[list[tuple[int, int]]]:
    assert data.times is not None
    both = list(zip(data.items.tolist(), data.times.tolist(), strict=True))
    return [both[start:end] for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True)]


@given(SEQUENCES, st.integers(0, 5))
def test_shuffled_ties_are_the_same_actions_in_order_of_time(users: list[list[tuple[int, int]]], seed: int) -> None:
    data = timed(users)
    shuffled = shuffled_ties(data, seed)
    for before, after in zip(actions(data), actions(shuffled), strict=True):
        assert Counter(before) == Counter(after), "items leave neither their user nor their time"
        assert [time for _, time in after] == sorted(time for _, time in before)
    assert np.array_equal(shuffled.items, shuffled_ties(data, seed).items)


def test_all_orders_of_a_tie_are_drawn_equally_often() -> None:
    data = timed([[(1, 0), (2, 7), (3, 7), (4, 7), (5, 8)], [(6, 8), (7, 9), (8, 9)]])
    drawn = Counter(tuple(shuffled_ties(data, seed).items.tolist()) for seed in range(1200))
    assert len(drawn) == 12 and min(drawn.values()) > 60  # 100 each; a deviation is 10
    assert all(items[0] == 1 and items[4:6] == (5, 6) for items in drawn)


@given(SEQUENCES, st.integers(0, 5))
def test_shuffled_training_holds_out_the_same_items(users: list[list[tuple[int, int]]], seed: int) -> None:
    data = timed(users)
    plain, shuffled = (
        Order(train=train, train_seed=seed).applied(leave_one_out, data) for train in ("time", "shuffled")
    )
    assert plain.sha256() == leave_one_out(data).sha256() != shuffled.sha256()
    assert np.array_equal(plain.train_lengths, shuffled.train_lengths)
    for user, length in enumerate(plain.train_lengths.tolist()):
        start, end = data.offsets[user : user + 2].tolist()
        before, after = plain.dataset.items[start:end].tolist(), shuffled.dataset.items[start:end].tolist()
        assert before[length:] == after[length:] and Counter(before) == Counter(after)


def test_shuffled_training_is_shuffled_and_other_seeds_differ() -> None:
    data = make_dataset([list(range(1, 10)), list(range(9, 0, -1))], 9)
    hashes = {Order(train="shuffled", train_seed=seed).applied(leave_one_out, data).sha256() for seed in range(5)}
    assert len(hashes) == 5
    shuffled = Order(train="shuffled").applied(leave_one_out, data).dataset.items
    assert not np.array_equal(shuffled[:7], data.items[:7]) and not np.array_equal(shuffled[9:16], data.items[9:16])


def test_both_may_be_shuffled() -> None:
    data = timed([[(item, item // 2) for item in range(1, 10)]])
    both = Order(ties="shuffled", train="shuffled").applied(leave_one_out, data)
    ties = Order(ties="shuffled").applied(leave_one_out, data)
    assert both.dataset.items[-2:].tolist() == ties.dataset.items[-2:].tolist()
    assert both.name == "leave-one-out 1, ties shuffled 1, training shuffled 1" and len(both.dataset.notes) == 2


def test_the_settings_reach_the_split() -> None:
    def split(*words: str) -> Split:
        return make.split_rule(build.compose(["split=leave-last", "split.n_targets=2", *words]), "split")(data)

    data = timed([[(item, 5) for item in range(1, 10)]])
    assert split().sha256() == leave_last(data, 2).sha256()
    assert (
        len({split(*words).sha256() for words in ((), ("split.order.ties=shuffled",), ("split.order.train=shuffled",))})
        == 3
    )
    config = build.compose(["split=leave-last"])
    del config.split.order  # a split of one's own, or a run of an earlier version
    make.split_rule(config, "split")


def test_mistakes_are_refused() -> None:
    for wrong in ({"ties": "time"}, {"train": "file"}, {"ties_seed": -1}, {"train_seed": -1}):
        (name,) = wrong
        with pytest.raises(UserError, match=rf"split\.order\.{name}="):
            Order(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="needs times"):
        shuffled_ties(make_dataset([[1, 2, 3]], 9), 1)
