"""Every model recommends: the best items by its own scores, for people in the data and for strangers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from all_models import CPU, MAX_LEN, MODELS, M, every_model, perturbed_model, split, store

from sairlib.batch import PAD, STRANGER
from sairlib.data.ids import Ints
from sairlib.data.interactions import ITEM, TIMESTAMP, USER
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.recommender import Products, Recommender
from sairlib.run.finished import Run
from sairlib.run.histories import Histories, of_people, of_users
from sairlib.run.recommendations import Asked, Recommendations

WITH_INTERESTS = {"sair", "sair-full", "sair-label"}


def ranked(model: Recommender, batch_size: int = 3) -> Recommendations:
    return Recommendations(split().dataset, store(), model, batch_size)


def plainly(model: Recommender, histories: Histories, row: int, asked: Asked) -> list[tuple[int, float]]:
    """The item numbers and scores of one person, by one forward pass and a sorted list."""
    seen = histories.items[histories.offsets[row] : histories.offsets[row + 1]].tolist()
    with torch.no_grad():
        scores = model.head.score_all(model.newest(histories.take(np.array([row]), MAX_LEN, CPU)))[0].tolist()
    choice = range(1, M + 1) if asked.allowed_C is None else asked.allowed_C.tolist()
    left = [(item, scores[item]) for item in choice if not (asked.exclude_seen and item in seen)]
    return sorted(left, key=lambda pair: -pair[1])[: asked.k]


def timed(people: dict[Any, list[int]]) -> pd.DataFrame:
    """Their histories with the times 100, 200, ..."""
    rows = [(person, item, 100 * t) for person, items in people.items() for t, item in enumerate(items, 1)]
    return pd.DataFrame(rows, columns=[USER, ITEM, TIMESTAMP])


@every_model
@pytest.mark.parametrize("allowed", [None, np.arange(2, M, 3)], ids=["all", "some"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_best_items_by_the_model_s_scores(name: str, allowed: Ints | None, exclude_seen: bool) -> None:
    model, data = perturbed_model(name), split().dataset
    asked = Asked(4, exclude_seen, allowed)
    listed = [data.item_ids[data.items[start:end] - 1].tolist() for start, end in zip(data.offsets, data.offsets[1:])]  # noqa: B905
    for histories in (of_users(data), of_people(data, timed(dict(enumerate(listed))))):
        [frame] = list(ranked(model).stream(histories, asked))
        assert set(frame["by"]) == {"model"}
        for row, person in enumerate(histories.ids):
            expected = plainly(model, histories, row, asked)
            own = frame[frame.user == person]
            assert own["rank"].tolist() == list(range(1, len(expected) + 1))
            np.testing.assert_allclose(own.score, [score for _, score in expected], rtol=1e-4, atol=1e-5)
            if len({round(score, 4) for _, score in expected}) == len(expected):  # no ties
                assert (data.item_numbers(own.item)).tolist() == [item for item, _ in expected]


@every_model
def test_strangers_get_finite_scores_that_do_not_depend_on_who_else_asks(name: str) -> None:
    model, data = perturbed_model(name), split().dataset
    alone, two = (of_people(data, timed(people)) for people in ({"a": [3, 5, 7]}, {"a": [3, 5, 7], "b": [9]}))
    assert alone.users_B.tolist() == [STRANGER]
    items = np.arange(1, M + 1)
    first, both = ranked(model).score(alone, items), ranked(model).score(two, items)
    assert torch.isfinite(both).all()
    torch.testing.assert_close(first[0], both[0])


@pytest.mark.parametrize("name", sorted(WITH_INTERESTS))
def test_the_interests_parts_sum_to_the_state_and_to_the_score(name: str) -> None:
    model, data = perturbed_model(name), split().dataset
    histories = of_people(data, [[3, 5, 7, 1], [9, 2]])
    history = histories.take(np.arange(2), MAX_LEN, CPU)
    explained = model.explain(history)
    assert explained is not None
    torch.testing.assert_close(explained.parts_BKD.sum(1) + explained.rest_BD, model.newest(history))
    torch.testing.assert_close(explained.weights_BNK.sum(2), torch.ones(2, 4))
    for of_all, newest in ((explained.kept_BNK, explained.kept_BK), (explained.weights_BNK, explained.weights_BK)):
        assert torch.equal(torch.stack([of_all[0, 3], of_all[1, 1]]), newest)
    [frame] = list(ranked(model).stream(histories, Asked(3, interests=True)))
    for row in frame.itertuples():
        added = [float(part.split(":")[1]) for part in row.interests.split()]
        assert sum(added) == pytest.approx(row.score, abs=0.01)


@every_model
def test_a_model_that_needs_times_refuses_people_without(name: str) -> None:
    model, lists = perturbed_model(name), of_people(split().dataset, [[3, 5, 7]])
    if model.needs_times:
        with pytest.raises(UserError, match="give a timestamp for each action"):
            list(ranked(model).stream(lists, Asked(3)))
    else:
        assert len(next(iter(ranked(model).stream(lists, Asked(3))))) == 3


def test_only_models_with_interests_explain_by_them() -> None:
    histories = of_people(split().dataset, [[3]])
    for name in set(MODELS) - WITH_INTERESTS:
        with pytest.raises(UserError, match="has no interests"):
            list(ranked(perturbed_model(name)).stream(histories, Asked(interests=True)))


@every_model
def test_what_explains_a_model_fits_together(name: str) -> None:
    model = perturbed_model(name)
    lists = timed({"a": [3, 5, 7, 1], "b": [9, 2], "c": [999]})  # an item that nobody knows: an empty history
    history = of_people(split().dataset, lists).take(np.arange(3), MAX_LEN, CPU)
    explained, interests = model.explain(history), model.interests()
    assert (explained is None) == (interests is None) == (name not in WITH_INTERESTS)
    if explained is not None and interests is not None:
        assert len(interests.pool_LD) == explained.relevance_BNL.shape[-1]
        assert interests.items_MD.shape == (M + 1, interests.pool_LD.shape[1])
        assert interests.categories_TD is not None and len(interests.categories_TD) == split().dataset.n_categories
    names = [name for name, _ in model.attentions(history)]
    assert len(set(names)) == len(names) and bool(names) == (name in WITH_INTERESTS | {"sasrec", "tisasrec"})
    for _, weights_BHNN in model.attentions(history):
        assert weights_BHNN.shape[0] == 3 and not weights_BHNN.triu(1).any()
        torch.testing.assert_close(weights_BHNN.sum(-1), torch.ones(weights_BHNN.shape[:-1]))
        assert not weights_BHNN.requires_grad


def test_without_a_known_item_popularity_speaks_and_never_pad() -> None:
    data, model = split().dataset, perturbed_model("sasrec")
    histories = of_people(data, {"nothing": [], "unknown": [999, "x"], "some": [3, 999]})
    assert histories.n_unknown.tolist() == [0, 2, 1]
    [frame] = list(ranked(model).stream(histories, Asked(5)))
    assert frame.groupby("user", sort=False)["by"].first().tolist() == ["popularity", "popularity", "model"]
    counts = store().counts_M.tolist()
    best = sorted(counts[1:], reverse=True)[:5]
    for person in ("nothing", "unknown"):
        own = frame[frame.user == person]
        assert own.score.tolist() == best
        assert [counts[number] for number in data.item_numbers(own.item)] == best
    few = np.array([1, 2])
    [frame] = list(ranked(model).stream(histories, Asked(5, allowed_C=few)))
    assert set(data.item_numbers(frame.item)) <= {1, 2}


def test_a_person_who_had_all_items_gets_none_and_one_who_had_most_gets_the_rest() -> None:
    data, model = split().dataset, perturbed_model("sasrec")
    everything = data.item_ids.tolist()
    histories = of_people(data, {"all": everything, "most": everything[:-2]})
    [frame] = list(ranked(model).stream(histories, Asked(10)))
    assert frame.user.tolist() == ["most", "most"] and set(frame.item) == set(everything[-2:])


def run_of(name: str) -> Run:
    evaluator = Evaluator(split(), store(), EvaluationSettings(n_candidates=2, ks=(1,), batch_size=4))
    return Run({}, split(), store(), perturbed_model(name), evaluator, 1)


def test_lists_mappings_and_frames_ask_the_same() -> None:
    run = run_of("sasrec")
    lists = run.recommend([[3, 5], [7]], k=2)
    named = run.recommend({0: [3, 5], 1: [7]}, k=2)
    frame = pd.DataFrame({"user": [1, 0, 0], "item": [7, 5, 3], "timestamp": [1, 9, 2]})
    framed = run.recommend(frame, k=2)
    pd.testing.assert_frame_equal(lists, named)
    pd.testing.assert_frame_equal(lists, framed.sort_values(["user", "rank"], ignore_index=True))
    text = run.recommend([["3", "5"], ["7"]], k=2)
    pd.testing.assert_frame_equal(lists, text)


def test_scores_states_and_vectors_agree() -> None:
    run = run_of("sair")
    states, (vectors_MD, bias) = run.states([[3, 5], [7]]), run.item_vectors()
    assert isinstance(states, torch.Tensor) and bias is None
    scores = run.score([[3, 5], [7]], run.split.dataset.item_ids.tolist())
    np.testing.assert_allclose(scores.to_numpy(), (states @ vectors_MD.T).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert isinstance(run.model.head, Products)


@pytest.mark.parametrize(
    ("name", "ask", "says"),
    [
        ("sasrec", lambda run: run.recommend(users=[77]), "user=77: nobody in the data has this id"),
        ("sasrec", lambda run: run.recommend([[3]], users=[1]), "give histories or users, not both"),
        ("sasrec", lambda run: run.recommend([[3]], k=0), "k=0: must be 1 or more"),
        ("sasrec", lambda run: run.recommend([[3]], candidates=["x"]), "no item of the model is among the candidates"),
        ("sasrec", lambda run: run.recommend([[3]], category="nosuch"), "category=nosuch: the data has no such"),
        ("sasrec", lambda run: run.recommend(["abc"]), "the history of 0 is 'abc'"),
        ("sasrec", lambda run: run.recommend(pd.DataFrame({"x": [1]})), "no column 'item'"),
        ("sasrec", lambda run: run.score([[3]], [3, "x"]), "the model has no item 'x'"),
        ("transrec", lambda run: run.item_vectors(), "scores by Distances, not by products"),
    ],
)
def test_a_mistake_gets_one_line(name: str, ask: object, says: str) -> None:
    assert callable(ask)
    with pytest.raises(UserError, match=says) as error:
        ask(run_of(name))
    assert "\n" not in str(error.value)


def test_an_item_of_a_category_and_among_the_candidates() -> None:
    run, data = run_of("sasrec"), split().dataset
    of_it = {int(data.item_ids[m - 1]) for m in range(1, M + 1) if 1 in data.item_categories[m]}
    everything = run.recommend([[3]], k=M, exclude_seen=False, category=data.category_names[0])
    assert set(everything.item) == of_it and PAD not in data.item_numbers(everything.item)
    both = run.recommend([[3]], k=M, exclude_seen=False, category=data.category_names[0], candidates=range(8))
    assert set(both.item) == of_it & set(range(8))
