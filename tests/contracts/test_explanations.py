"""What is explained of a model over many people equals sums by hand, person by person and step by step."""

import itertools
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from all_models import CPU, MAX_LEN, M, every_model, perturbed_model, split, store
from small_data import make_dataset, make_targets

from sairlib.data.split import Part, Split
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.recommender import Recommender
from sairlib.models.sair import SAIR
from sairlib.run import explain_pictures, explain_text, explained, histories
from sairlib.run.finished import Run
from sairlib.run.interest_names import names

EXPLAINED = {"sair", "sair-full", "sair-label", "sasrec", "tisasrec"}


def run_of(model: Recommender) -> Run:
    evaluator = Evaluator(split(), store(), EvaluationSettings(n_candidates=2, ks=(1,), batch_size=3))
    return Run({}, split(), store(), model, evaluator, 1)


def sair_that_weighs_raw() -> SAIR:
    """Its strongest interest is mostly not the first of those kept."""
    model = perturbed_model("sair")
    assert isinstance(model, SAIR)
    model.retrieval.weigh_raw = True
    return model


def entropy(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in row if p > 0)


@pytest.mark.parametrize("name", ["sair", "sair-full", "sair-label", "raw"])
def test_interests_over_people_are_those_of_each_person_step_by_step(name: str) -> None:
    run = run_of(sair_that_weighs_raw() if name == "raw" else perturbed_model(name))
    people = histories.before(run.split, Part.TEST)
    found, _ = explained.over(run, people)
    assert found is not None
    size = len(found.share_L)
    before, after, even, changes, effective, weight = [], [], [], [], [], np.zeros(size)
    strongest_L, next_LM, weight_NL, people_N = np.zeros(size), np.zeros((size, M + 1)), np.zeros((MAX_LEN, size)), {}
    for row in range(len(people)):
        items = people.items[people.offsets[row] : people.offsets[row + 1]][-MAX_LEN:].tolist()
        one = run.model.explain(people.take(np.array([row]), MAX_LEN, CPU))
        assert one is not None
        own, strongest = np.zeros(size), []
        for step, (kept, weights) in enumerate(zip(one.kept_BNK[0].tolist(), one.weights_BNK[0].tolist(), strict=True)):
            strongest.append(kept[weights.index(max(weights))])
            people_N[step] = people_N.get(step, 0) + 1
            for interest, value in zip(kept, weights, strict=True):
                own[interest] += value
                weight_NL[step, interest] += value
            strongest_L[strongest[-1]] += 1
            if step + 1 < len(items):
                next_LM[strongest[-1], items[step + 1]] += 1
        assert len(strongest) == len(items)
        before.append(np.mean([entropy(p) for p in one.relevance_BNL[0].softmax(-1).tolist()]) / math.log(size))
        after.append(np.mean([entropy(p) for p in one.interacted_BNL[0].softmax(-1).tolist()]) / math.log(size))
        shapes = []
        for values_NL in (one.relevance_BNL[0].double(), one.interacted_BNL[0].double()):
            deviation_N1 = values_NL.std(1, unbiased=False, keepdim=True)
            shapes.append(np.mean([entropy(p) for p in (values_NL / deviation_N1).softmax(-1).tolist()]))
        even.append((shapes[1] - shapes[0]) / math.log(size))
        changes.append(np.mean([a != b for a, b in itertools.pairwise(strongest)]))
        effective.append(math.exp(entropy((own / len(items)).tolist())))
        weight += own
    assert (found.n_people, found.n_steps) == (len(people), strongest_L.sum())
    assert found.before.mean == pytest.approx(np.mean(before), rel=1e-5)
    assert found.after.mean == pytest.approx(np.mean(after), rel=1e-5)
    assert found.difference.mean == pytest.approx(np.mean(after) - np.mean(before), abs=1e-6)
    assert found.standardised.mean == pytest.approx(np.mean(even), abs=1e-6)
    assert found.difference.low <= found.difference.mean <= found.difference.high
    assert (found.difference.low < found.difference.high) == (name != "sair-full")
    assert found.changes is not None and found.changes.mean == pytest.approx(np.mean(changes))
    assert found.effective_of_one.mean == pytest.approx(np.mean(effective), rel=1e-5)
    np.testing.assert_allclose(found.share_L, weight / weight.sum(), rtol=1e-5)
    np.testing.assert_allclose(found.strongest_L, strongest_L / strongest_L.sum())
    np.testing.assert_array_equal(found.next_LM, next_LM)
    assert found.along.people_N.tolist() == [people_N[step] for step in range(MAX_LEN)]
    np.testing.assert_allclose(found.along.share_NL, weight_NL / found.along.people_N[:, None], rtol=1e-5)
    assert math.isnan(found.along.changes_N[0]) and not np.isnan(found.along.changes_N[1:]).any()


@pytest.mark.parametrize("name", ["sasrec", "sair"])
def test_attention_by_relative_position(name: str) -> None:
    run = run_of(perturbed_model(name))
    people = histories.before(run.split, Part.VALIDATION)
    size = explained.STEPS_BACK
    seen: dict[str, dict[tuple[int, int], list[float]]] = {}
    for row in range(len(people)):
        for title, weights_BHNN in run.model.attentions(people.take(np.array([row]), MAX_LEN, CPU)):
            n_steps = weights_BHNN.shape[-1]
            for query in range(n_steps):
                for key in range(query + 1):
                    place = (n_steps - 1 - query, query - key)
                    seen.setdefault(title, {}).setdefault(place, []).append(weights_BHNN[0, 0, query, key].item())
    _, found = explained.over(run, people)
    assert (
        [one.name for one in found] == list(seen) and "block 2" in seen and ("interaction" in seen) == (name == "sair")
    )
    for one in found:
        for (q, r), values in seen[one.name].items():
            assert one.mean_HQR[0, q, r] == pytest.approx(np.mean(values), rel=1e-4)
        assert np.isfinite(one.mean_HQR[0]).sum() == len(seen[one.name]) < size**2
        assert one.newest_HR.sum() == pytest.approx(1, rel=1e-4)  # all of MAX_LEN steps are that near


def test_histories_end_before_the_first_target_of_the_part() -> None:
    data = make_dataset([[1, 2, 3, 4], [5, 6], [7, 8, 1, 2, 3, 4]], 9)
    made = Split(data, np.array([2, 2, 3]), make_targets((0, 2)), make_targets((2, 5), (2, 4), (0, 3)))
    found = histories.before(made, Part.TEST)
    assert found.ids.tolist() == [0, 2] and found.users_B.tolist() == [0, 2]
    assert found.items.tolist() == [1, 2, 3, 7, 8, 1, 2] and found.offsets.tolist() == [0, 3, 7]
    asked = histories.before(made, Part.VALIDATION, [2, 1])  # without a target there: what trains
    assert asked.ids.tolist() == [2, 1] and asked.items.tolist() == [7, 8, 1, 5, 6]
    assert len(histories.before(made, Part.TEST, n=1)) == 1
    with pytest.raises(UserError, match="user=9: nobody"):
        histories.before(made, Part.TEST, 9)


def test_names_by_hand() -> None:
    model = perturbed_model("sair")
    assert isinstance(model, SAIR) and model.categories is not None
    with torch.no_grad():
        model.learned_pool_LD[0] = 2 * model.encoder.item_embedding.weight[5]
        model.learned_pool_LD[1] = 3 * model.categories.table.weight[2]
    run = run_of(model)
    found, _ = explained.over(run, histories.before(run.split, Part.TEST))
    assert found is not None
    counts_LM = np.zeros_like(found.next_LM)
    counts_LM[0, 3], counts_LM[0, 5], counts_LM[1, 5], counts_LM[2, 6] = 10, 12, 20, 4  # 4: too few to tell
    named = names(run, replace(found, next_LM=counts_LM), 4)
    data = run.split.dataset
    ids = [str(data.item_ids[m - 1]) for m in range(1, M + 1)]
    assert named[0].near_items[0].name == ids[4] and named[0].near_items[0].cosine == pytest.approx(1)
    assert named[1].near_categories[0].name == data.category_names[1]
    assert named[1].near_categories[0].cosine == pytest.approx(1)
    assert [tuple(one) for one in named[0].next_items] == [(ids[2], 10 / 22, pytest.approx(10 / 22 / (10 / 46)))]
    assert [tuple(one) for one in named[1].next_items] == [(ids[4], 1.0, pytest.approx(1 / (32 / 46)))]
    assert not named[2].next_items and named[3].short == "3"
    of_item = [set(row[row > 0].tolist()) for row in data.item_categories]
    for name, clicks in ((named[0], {3: 10, 5: 12}), (named[1], {5: 20})):
        expected = {}
        for number, category in enumerate(data.category_names, 1):
            n = sum(count for item, count in clicks.items() if number in of_item[item])
            share = n / sum(clicks.values())
            lift = share / (
                sum(count * (number in of_item[item]) for item, count in ((3, 10), (5, 32), (6, 4))) / 46 or 1
            )
            if n >= 5 and lift >= 1.1:
                expected[category] = (pytest.approx(share), pytest.approx(lift))
        assert expected and {one.name: (one.share, one.lift) for one in name.next_categories} == expected
        assert name.short == f"{name.number} {name.next_categories[0].name}"


@every_model
def test_only_models_with_interests_or_attention_are_explained(name: str) -> None:
    run = run_of(perturbed_model(name))
    if name in EXPLAINED:
        explained.require(run)
        return
    with pytest.raises(UserError, match=r"has neither interests nor causal attention: nothing to explain$"):
        explained.require(run)


@pytest.mark.parametrize("name", sorted(EXPLAINED))
def test_pictures_of_any_title(name: str) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
    run = run_of(perturbed_model(name))
    people = histories.before(run.split, Part.TEST)
    found, attentions = explained.over(run, people)
    one = explained.person(run, people, 3)
    hard = [r"$\nosuch{ 5$", "a\nb\tc", "千と千尋の神隠し", "x" * 300]
    one = replace(one, names=[hard[step % 4] for step in range(len(one.names))])
    labels = [] if found is None else [f"{number} {hard[number % 4]}" for number in range(len(found.share_L))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = [explain_pictures.person(one, labels), explain_pictures.person(one, newest=2)]
        pictures += [explain_pictures.attention(of_all) for of_all in attentions]
        pictures += [] if found is None else [explain_pictures.along(found, labels)]
    assert all(png.startswith(b"\x89PNG") for png in pictures)
    lines = explain_text.person(one, 2).splitlines()
    assert len(lines) == 4 and lines[-1].split()[0] == "0" and all(line.isprintable() for line in lines)
