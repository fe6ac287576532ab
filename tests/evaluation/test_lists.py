"""Metrics of lists against slow, plain versions of their definitions; lists against a slow ranking."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import make_split

from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.lists import diversity, list_metrics, novelty
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.bpr_mf import BPRMF

N_ITEMS = 6
lists = st.lists(st.permutations(range(1, N_ITEMS + 1)).map(lambda items: items[:4]), min_size=1, max_size=8)


def padded(rows: list[list[int]], cut: list[int]) -> np.ndarray:
    """Lists of 4 items, some of them cut short."""
    items_BK = np.array(rows)
    for row, length in enumerate(cut[: len(rows)]):
        items_BK[row, length:] = 0
    return items_BK


@given(
    lists,
    st.lists(st.integers(0, 4), max_size=8),
    st.lists(st.integers(0, 9), min_size=N_ITEMS, max_size=N_ITEMS),
    st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=N_ITEMS, max_size=N_ITEMS),
)
def test_metrics_equal_their_definitions(
    rows: list[list[int]], cut: list[int], users: list[int], categories: list[list[int]]
) -> None:
    items_BK = padded(rows, cut)
    item_categories = np.zeros((N_ITEMS + 1, 3), np.int64)
    for item, of_it in enumerate(categories, start=1):
        item_categories[item, : len(of_it)] = of_it
    found = list_metrics(items_BK, np.array([0, *users]), 9, item_categories)
    recommended = [int(item) for item in items_BK.ravel() if item]
    n = max(1, len(recommended))
    assert found["coverage"] == len(set(recommended)) / N_ITEMS
    bits = [-math.log2(max(1, users[item - 1]) / 9) for item in recommended]
    assert found["novelty"] == pytest.approx(sum(bits) / n)
    popular = sorted(range(1, N_ITEMS + 1), key=lambda item: (-users[item - 1], item))[:2]  # 0.2 * 6, rounded up
    assert found["popular_share"] == pytest.approx(sum(item in popular for item in recommended) / n)
    means = []
    for row in items_BK:
        sets = [{*categories[item - 1]} - {0} for item in row if item]
        pairs = [1 - (len(a & b) / len(a | b) if a | b else 1) for a, b in combinations(sets, 2)]
        means += [sum(pairs) / len(pairs)] if pairs else []
    assert found["diversity"] == pytest.approx(sum(means) / len(means) if means else 0, abs=1e-6)


def test_lists_that_are_all_alike_and_all_different() -> None:
    no_categories = np.zeros((7, 0), np.int64)
    users_M, one_category = np.array([0, 1, 2, 4, 8, 8, 0]), np.eye(7, dtype=np.int64)[:, :1] * 0 + 1
    alike = list_metrics(np.full((5, 1), 5), users_M, 8, no_categories)
    assert alike == {"coverage": 1 / 6, "gini": pytest.approx(5 / 6), "novelty": 0, "popular_share": 1}
    each = list_metrics(np.arange(1, 7).reshape(3, 2), users_M, 8, no_categories)
    assert (each["coverage"], each["gini"]) == (1, pytest.approx(0))
    assert novelty(np.array([1]), np.array([0]), 8) == 3  # that nobody has had it counts as one user
    pairs = np.array([[1, 2], [3, 4]])
    assert diversity(pairs, one_category) == 0 and diversity(pairs, np.arange(7)[:, None]) == 1


def test_training_users_are_counted_once_each() -> None:
    split = make_split([[1, 1, 2, 1, 3, 4], [2, 1, 4], [5, 5]], 5)
    store = SequenceStore(split, max_len=2, device=torch.device("cpu"))
    # [1, 1, 2, 1], [2], and [5, 5], who is not evaluated
    assert store.unseen.users_of_items().tolist() == [0, 1, 2, 0, 0, 1]


@pytest.mark.parametrize("batch_size", [1, 256])
def test_the_lists_are_the_best_unseen_items_before_each_test_item(batch_size: int) -> None:
    sequences = [[1, 2, 3, 4], [5, 6, 1], [2, 2, 7, 3, 1, 5], [4, 4]]
    split = make_split(sequences, 7)
    store = SequenceStore(split, max_len=2, device=torch.device("cpu"))
    torch.manual_seed(0)
    model = BPRMF(n_items=7, n_users=4, d=4)
    settings = EvaluationSettings(n_candidates=0, batch_size=batch_size, lists=5)
    evaluator = Evaluator(split, store, settings)
    items_EK = evaluator.recommend(model, Part.TEST, 5)
    with torch.no_grad():
        scores = model.head.score_all(model.newest(store.history(torch.arange(4), store.lengths, 2)))
    for row, (user, sequence) in zip(items_EK.tolist(), enumerate(sequences[:3]), strict=True):
        unseen = [item for item in range(1, 8) if item not in sequence[:-1]]
        best = sorted(unseen, key=lambda item: -float(scores[user, item]))[:5]
        assert row == best + [0] * (5 - len(best))
    assert evaluator.list_metrics(model)["coverage"] == len(set(items_EK.flatten().tolist()) - {0}) / 7
    assert evaluator.recommend(model, Part.TEST, 100).shape == (3, 7)
