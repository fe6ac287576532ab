"""The split in time and the one with several targets a user, against slow versions that go action by action."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sairlib.data.dataset import Dataset, index
from sairlib.data.interactions import ITEM, TIMESTAMP, USER, Interactions
from sairlib.data.split import Part, Split, leave_last, leave_one_out
from sairlib.data.temporal import TARGETS, temporal
from sairlib.errors import UserError
from sairlib.evaluation.statistics import bootstrap_interval


def data(rows: list[tuple[int, int, int]]) -> Dataset:
    return index(Interactions(pd.DataFrame(np.array(rows), columns=[USER, ITEM, TIMESTAMP]), "made up"))


def targets(split: Split, part: Part) -> list[tuple[int, int]]:
    found = split.targets(part)
    return list(zip(found.users_E.tolist(), found.positions_E.tolist(), strict=True))


actions = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 30)), min_size=20, max_size=60)


@settings(max_examples=60, deadline=None)
@given(actions, st.sampled_from(TARGETS), st.sampled_from([0.1, 0.25]))
def test_nothing_that_trains_is_later_than_a_target(rows: list[tuple[int, int, int]], kind: str, share: float) -> None:
    dataset = data(rows)
    assert dataset.times is not None
    try:
        split = temporal(dataset, share, share, kind)
    except UserError as error:
        assume("has no target whose user and item have training actions" not in str(error))
        raise
    ordered = sorted(time for _, _, time in rows)
    first, second = (ordered[int(round(len(rows) * (1 - later), 6))] for later in (2 * share, share))
    trains: set[int] = set()
    expected: dict[Part, list[tuple[int, int]]] = {Part.VALIDATION: [], Part.TEST: []}
    lists = [list(range(a, b)) for a, b in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)]
    for user, mine in enumerate(lists):
        own = [at for at in mine if dataset.times[at] < first]
        assert split.train_lengths[user] == len(own)
        trains |= {int(dataset.items[at]) for at in own}
    for user, mine in enumerate(lists):
        for part, low, high in ((Part.VALIDATION, first, second), (Part.TEST, second, 10**9)):
            later = [at for at in mine if low <= dataset.times[at] < high]
            chosen = later if kind == "all" else later[-1:] if kind == "last" else later[:1]
            if split.train_lengths[user]:
                expected[part] += [(user, at - mine[0]) for at in chosen if dataset.items[at] in trains]
    assert {part: targets(split, part) for part in Part} == expected
    assert len(split.notes) == 2 and f"test: {len(split.test):,} targets" in split.notes[1]


def test_the_kinds_of_targets_have_hashes_of_their_own() -> None:
    rows = [(user, (item + user) % 4, 10 * item + user) for user in range(4) for item in range(10)]
    splits = [temporal(data(rows), 0.2, 0.2, kind) for kind in TARGETS] + [temporal(data(rows), 0.2, 0.1)]
    assert len({split.sha256() for split in splits}) == 4


def test_intervals_are_over_users_and_not_over_their_targets() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(0, 1, 60)
    values, people = np.repeat(own, 10)[:, None], np.repeat(np.arange(60), 10)
    low, high = bootstrap_interval(values, people)
    alone_low, alone_high = bootstrap_interval(own[:, None])
    assert (low, high) == (pytest.approx(alone_low), pytest.approx(alone_high))
    pooled_low, pooled_high = bootstrap_interval(values)
    assert (pooled_high - pooled_low) < 0.5 * (high - low)
    once = rng.normal(0, 1, (50, 3))
    for one, two in zip(bootstrap_interval(once), bootstrap_interval(once, np.arange(50)), strict=True):
        assert (one == two).all()


def test_several_targets_a_user() -> None:
    rows = [(user, i, i) for user, n in enumerate([8, 5, 4]) for i in range(n)]
    split = leave_last(data(rows), 3)
    assert split.train_lengths.tolist() == [4, 1, 4]  # user 2 has too few: all of its actions train
    assert targets(split, Part.VALIDATION) == [(0, 4), (1, 1)]
    assert targets(split, Part.TEST) == [(0, 5), (0, 6), (0, 7), (1, 2), (1, 3), (1, 4)]
    assert leave_last(data(rows), 3, 6).eval_users.tolist() == [0]
    several = leave_last(data(rows), 2, n_validation=3)
    assert several.train_lengths.tolist() == [3, 5, 4]
    assert targets(several, Part.VALIDATION) == [(0, 3), (0, 4), (0, 5)]
    assert targets(several, Part.TEST) == [(0, 6), (0, 7)]
    one = leave_last(data(rows), 1)
    for part in Part:
        assert targets(one, part) == targets(leave_one_out(data(rows)), part)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda d: temporal(d, targets="some"), "split.targets=some: choose one of last, first, all"),
        (lambda d: temporal(d, 0.0), "split.test_share=0.0: must be between 0 and 1"),
        (lambda d: temporal(d, 0.6, 0.4), "nothing is left to train"),
        (lambda d: leave_last(d, 0), "split.n_targets=0: must be 1 or more"),
        (lambda d: leave_last(d, 3, 4), "split.min_actions=4: must be 5 or more"),
        (lambda d: leave_last(d, 3, 5, 2), "split.min_actions=5: must be 6 or more: 3 test, 2 validate, one trains"),
        (lambda d: leave_last(d, 3, n_validation=0), "split.n_validation=0: must be 1 or more"),
        (lambda d: leave_last(d, 30), "nobody to evaluate"),
    ],
)
def test_a_bad_setting_is_named(wrong: object, says: str) -> None:
    assert callable(wrong)
    with pytest.raises(UserError, match=says):
        wrong(data([(user, item, item) for user in range(3) for item in range(8)]))


def test_without_times_there_is_no_split_in_time() -> None:
    timeless = index(Interactions(pd.DataFrame({USER: [1, 1, 1], ITEM: [1, 2, 3]}), "made up"))
    with pytest.raises(UserError, match="needs times, and the data has none"):
        temporal(timeless)
