"""Parts that score: in every model that takes one, its scores are those of the part's formula."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import HISTORIES, MAX_LEN, USERS, D, M, padded, plain_score, randomised
from small_data import history

from sairlib import build
from sairlib.errors import UserError
from sairlib.models.caser import Caser
from sairlib.models.gru4rec import GRU4Rec
from sairlib.models.heads import ByCosines, ByDistances, ByProducts, HeadPart
from sairlib.models.recommender import StepModel
from sairlib.models.sair import SAIR
from sairlib.models.sasrec import SASRec

CATEGORIES = torch.tensor([[0], *([1 + item % 3] for item in range(M))])
SINGLE = 1e-5
"""Distances to all items are in single precision."""
MODELS: dict[str, Callable[..., StepModel]] = {
    "sasrec": lambda **options: SASRec(M, USERS, MAX_LEN, D, **options),
    "sasrec, users": lambda **options: SASRec(M, USERS, MAX_LEN, D, user_embedding=True, **options),
    "sair": lambda **options: SAIR(M, MAX_LEN, CATEGORIES, 3, 5, 2, D, **options),
    "sair, categories": lambda **options: SAIR(M, MAX_LEN, CATEGORIES, 3, 5, 2, D, score_with_category=True, **options),
    "caser": lambda **options: Caser(M, USERS, MAX_LEN, D, 3, 2, 1, **options),
    "gru4rec": lambda **options: GRU4Rec(M, D, 6, **options),
}
PARTS = [ByProducts(), ByCosines(0.3), ByDistances(), ByDistances("l1")]


def make(name: str, **options: Any) -> StepModel:
    torch.manual_seed(0)
    model = MODELS[name](**options)
    randomised(model, 0.5)
    return model


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{type(part).__name__} {getattr(part, 'kind', '')}")
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_scores_are_those_of_the_formula(name: str, part: HeadPart) -> None:
    plain, model = make(name), make(name, head=part)
    shown = history(padded())
    # Of the model without a part, whose scores are products, the states and what they are multiplied by.
    states_BND, newest_BD = plain.encode(shown), plain.newest(shown)
    vectors, biases = plain.head.of(None)  # type: ignore[attr-defined]
    biases = torch.zeros(M + 1) if biases is None else biases
    few, many = torch.arange(1, 4).expand(USERS, -1), torch.arange(1, M + 1).expand(USERS, MAX_LEN, -1)
    newest_B3, newest_BM = model.head.score(model.newest(shown), few), model.head.score_all(model.newest(shown))
    each_BNM = model.head.score(model.encode(shown), many)
    for user, items in enumerate(HISTORIES):
        for item in range(1, M + 1):
            vector, bias = vectors[item].numpy(), float(biases[item])
            expected = plain_score(part, newest_BD[user].numpy(), vector, bias)
            assert newest_BM[user, item].item() == pytest.approx(expected, rel=SINGLE)
            if item <= few.shape[1]:
                assert newest_B3[user, item - 1].item() == pytest.approx(expected, rel=SINGLE)
            for step in range(len(items)):
                expected = plain_score(part, states_BND[user, step].numpy(), vector, bias)
                assert each_BNM[user, step, item - 1].item() == pytest.approx(expected, rel=SINGLE)


@pytest.mark.parametrize("skip", [False, True])
def test_the_parts_of_an_explanation_sum_to_the_state_that_is_scored(skip: bool) -> None:
    model, shown = make("sair", head=ByCosines(0.3), aggregator_skip=skip), history(padded())
    explained = model.explain(shown)
    assert explained is not None
    torch.testing.assert_close(explained.parts_BKD.sum(1) + explained.rest_BD, model.newest(shown))


def test_the_gradient_is_that_of_the_formula_for_few_items_and_for_many() -> None:
    """Many items are looked up among all vectors, scaled before."""
    model = make("gru4rec", head=ByCosines(0.3))
    for items in (torch.tensor([[1, 2], [2, 2]]), torch.randint(1, M + 1, (2, 40))):
        states = torch.randn(2, D, dtype=torch.float64)
        weight = model.item_embedding.weight
        vectors = weight[items]
        cosines = torch.cosine_similarity(states[:, None], vectors, dim=-1) / 0.3
        bias = model.output_bias.weight[items].squeeze(-1)
        upstream = torch.randn_like(cosines)
        (expected,) = torch.autograd.grad(cosines + bias, weight, upstream)
        scored = model.head.score(model.scoring.states(states), items)
        torch.testing.assert_close(scored, cosines + bias)
        torch.testing.assert_close(torch.autograd.grad(scored, weight, upstream)[0], expected)


def test_parts_are_chosen_by_name_and_bad_ones_are_refused() -> None:
    for name in ("sair", "sasrec", "caser", "gru4rec-plus", "hstu", "fuxi-alpha"):
        config = build.compose([f"model={name}", "model/head=cosines", "model.head.temperature=0.5"])
        assert config.model.head.temperature == 0.5
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="temperature"):
            ByCosines(temperature)
    with pytest.raises(UserError, match=r"head.kind='l2': choose one of squared_l2, l1"):
        ByDistances("l2")
    assert np.isfinite(ByCosines().states(torch.zeros(2, 3)).numpy()).all()
