"""Metrics against their definitions, with ties, and against known values."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sairlib.evaluation.metrics import all_metrics, hr, mrr, ndcg
from sairlib.evaluation.rankings import Ranks
from sairlib.evaluation.statistics import bootstrap_interval


def of_rank(rank: int, k: int) -> dict[str, float]:
    """HR, NDCG and MRR of one positive at ``rank``, by the textbook definitions."""
    return {"hr": float(rank <= k), "ndcg": 1 / math.log2(rank + 1) if rank <= k else 0.0, "mrr": 1 / rank}


@settings(max_examples=40, deadline=None)
@given(better=st.integers(0, 4), tied=st.integers(0, 4), worse=st.integers(0, 2), k=st.integers(1, 6))
def test_ties_count_as_the_mean_over_all_their_orders(better: int, tied: int, worse: int, k: int) -> None:
    """Sorts candidates with the positive among them, once for each permutation of those that score the same."""
    values: dict[str, list[float]] = {"hr": [], "ndcg": [], "mrr": []}
    for order in itertools.permutations(["positive", *("tie" for _ in range(tied))]):
        ranking = ["better"] * better + list(order) + ["worse"] * worse
        for name, value in of_rank(ranking.index("positive") + 1, k).items():
            values[name].append(value)
    b, t = np.array([better]), np.array([tied])
    assert hr(b, t, k)[0] == pytest.approx(np.mean(values["hr"]))
    assert ndcg(b, t, k)[0] == pytest.approx(np.mean(values["ndcg"]))
    assert mrr(b, t)[0] == pytest.approx(np.mean(values["mrr"]))


def test_golden_values() -> None:
    better, tied = np.array([0, 1, 2, 9, 10]), np.zeros(5, np.int64)
    metrics = all_metrics(better, tied, (1, 10))
    assert list(metrics) == ["hr@1", "hr@10", "ndcg@1", "ndcg@10", "mrr"]
    assert metrics["hr@1"].tolist() == [1, 0, 0, 0, 0]
    assert metrics["hr@10"].tolist() == [1, 1, 1, 1, 0]
    assert metrics["ndcg@1"].tolist() == [1, 0, 0, 0, 0]
    assert metrics["ndcg@10"] == pytest.approx([1, 0.6309297535714575, 0.5, 0.2890648263178879, 0])
    assert metrics["mrr"].tolist() == [1, 1 / 2, 1 / 3, 1 / 10, 1 / 11]


@pytest.mark.parametrize("metric", [lambda b, t: hr(b, t, 3), lambda b, t: ndcg(b, t, 3), mrr])
def test_a_user_s_figures_do_not_depend_on_other_users(metric: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    better, tied = rng.integers(0, 8, 50), rng.integers(0, 4, 50)
    alone = [metric(better[i : i + 1], tied[i : i + 1])[0] for i in range(50)]
    np.testing.assert_allclose(metric(better, tied), alone)
    assert len(metric(better[:0], tied[:0])) == 0


@pytest.mark.parametrize(("k", "n"), [(1, 100), (10, 100), (20, 7)])
def test_a_constant_scorer_gets_exactly_chance(k: int, n: int) -> None:
    better, tied = np.zeros(3, np.int64), np.full(3, n)
    chance = [of_rank(rank, k) for rank in range(1, n + 2)]
    assert hr(better, tied, k) == pytest.approx([min(k / (n + 1), 1)] * 3, rel=1e-14)
    assert ndcg(better, tied, k) == pytest.approx([np.mean([c["ndcg"] for c in chance])] * 3)
    assert mrr(better, tied) == pytest.approx([np.mean([c["mrr"] for c in chance])] * 3)


def test_the_interval_brackets_the_mean_and_repeats() -> None:
    values = np.random.default_rng(0).random((200, 3)) * [1, 10, 0]
    low, high = bootstrap_interval(values)
    mean = values.mean(0)
    assert (low[:2] < mean[:2]).all() and (mean[:2] < high[:2]).all()
    assert low[2] == high[2] == 0
    # A percentile interval of a mean is close to the normal one.
    sigma = values[:, :2].std(0) / math.sqrt(200)
    np.testing.assert_allclose((high - low)[:2], 2 * 1.96 * sigma, rtol=0.1)
    assert all(np.array_equal(a, b) for a, b in zip((low, high), bootstrap_interval(values), strict=True))
    assert not np.array_equal(low, bootstrap_interval(values, seed=1)[0])


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    draws = (rng.random((200, 100)) < 0.3).astype(float)  # 200 experiments with 100 users each
    intervals = [bootstrap_interval(draw[:, None], n_resamples=200, seed=i) for i, draw in enumerate(draws)]
    covered = np.mean([low[0] <= 0.3 <= high[0] for low, high in intervals])
    assert 0.88 <= covered <= 0.99


def test_every_user_is_drawn_and_as_often_as_any_other() -> None:
    """Of four users one differs, whichever: the intervals are alike, and reach from none of it to three quarters."""
    low, high = bootstrap_interval(np.eye(4))
    assert low.tolist() == [0.0] * 4 and high.tolist() == [0.75] * 4


def test_the_tie_share_counts_who_ties_with_anything() -> None:
    assert Ranks(np.array([3, 0, 0, 5]), np.array([0, 1, 2, 0])).tie_share == 0.5
