"""SHAN against its two attentions, computed for one user and one prefix at a time, in double precision."""

from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import arrays, assert_scores_agree, has_user_table, randomised, read_by_rows, regularisers
from numpy.typing import NDArray
from reference import softmax
from small_data import history
from torch import Tensor

from sairlib.batch import PAD, History
from sairlib.errors import UserError
from sairlib.models.shan import SHAN

M, MAX_LEN = 11, 80
LONG = (np.random.default_rng(0).permutation(500) % M + 1).tolist()
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8], [10, 11], LONG[:75], LONG[100:140]]
USERS = len(HISTORIES)
BASE: dict[str, Any] = {"d": 4, "n_short": 2, "l2_uv": 0.0, "l2_a": 0.0}
VARIANTS: list[dict[str, Any]] = [{}, {"n_short": 1}, {"n_short": 5}, {"d": 1}]

Vector = NDArray[np.float64]


def make_model(**options: Any) -> SHAN:
    model = SHAN(M, USERS, MAX_LEN, **{**BASE, **options})
    randomised(model)
    return model


def padded(rows: list[list[int]] = HISTORIES, width: int = MAX_LEN) -> Tensor:
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def attended(members: list[Vector], user: Vector, weights: dict[str, Vector], name: str) -> Vector:
    """The members' mean by the softmax of u . ReLU(W x + b)."""
    hidden = [np.maximum(weights[f"{name}.weight"] @ x + weights[f"{name}.bias"], 0) for x in members]
    shares = softmax([float(user @ h) for h in hidden])
    return sum((share * x for share, x in zip(shares, members, strict=True)), np.zeros(len(user)))


def hybrid(items: list[int], user: int, weights: dict[str, Vector], n_short: int) -> Vector:
    """u_hyb after ``items``."""
    table, u = weights["item_embedding.weight"], weights["user_embedding.weight"][user]
    long, short = [table[item] for item in items[:-n_short]], [table[item] for item in items[-n_short:]]
    return attended([attended(long, u, weights, "long"), *short] if long else short, u, weights, "hybrid")


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_step_is_the_paper_s_computation_on_its_own_prefix(options: dict[str, Any]) -> None:
    model = make_model(**options)
    with torch.no_grad():
        states_BND = model.encode(history(padded()))
        newest_BM = model.head.score_all(model.newest(history(padded(width=MAX_LEN + 3)))).numpy()
    weights, n_short = arrays(model), {**BASE, **options}["n_short"]
    for user, row in enumerate(HISTORIES):
        expected = [hybrid(row[: t + 1], user, weights, n_short) for t in range(len(row))]
        np.testing.assert_allclose(states_BND[user, : len(row)], expected, rtol=1e-9, atol=1e-11)
        scores = [float(expected[-1] @ weights["item_embedding.weight"][item]) for item in range(1, M + 1)]
        np.testing.assert_allclose(newest_BM[user, 1:], scores, rtol=1e-9, atol=1e-11)


def test_both_sets_have_no_order_and_the_border_between_them_matters() -> None:
    model, users_B = make_model(), torch.zeros(4, dtype=torch.long)
    items_BN = torch.tensor([[1, 2, 3, 4, 5], [3, 1, 2, 4, 5], [1, 2, 3, 5, 4], [1, 2, 4, 3, 5]])
    first, *same, other = model.newest(History(users_B, items_BN))
    for state in same:
        torch.testing.assert_close(state, first, rtol=1e-12, atol=0)
    assert not torch.allclose(first, other)


def test_the_user_asks_and_users_without_vectors_are_refused() -> None:
    model, items_BN = make_model(), torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]])
    one, other = model.newest(History(torch.tensor([0, 1]), items_BN))
    assert not torch.allclose(one, other) and has_user_table(model)
    with pytest.raises(UserError, match="user number 6 is unknown"):
        model.newest(History(torch.tensor([0, USERS]), items_BN))


def test_the_penalties_are_the_squares_of_what_they_name() -> None:
    weights = arrays(make_model())
    tables = sum((weights[f"{name}_embedding.weight"] ** 2).sum() for name in ("user", "item"))
    matrices = sum((weights[f"{name}.weight"] ** 2).sum() for name in ("long", "hybrid"))
    both = {name: value.item() for name, value in regularisers(make_model(l2_uv=0.3, l2_a=0.2)).items()}
    assert both == {"l2_uv": pytest.approx(0.3 * tables), "l2_a": pytest.approx(0.2 * matrices)}
    assert not regularisers(make_model())


def test_tables_are_read_by_rows_unless_they_are_penalised() -> None:
    assert len(read_by_rows(make_model(l2_a=0.1))) == 2 and not read_by_rows(make_model(l2_uv=0.1))


def test_scores_agree() -> None:
    assert_scores_agree(make_model(), padded())


@pytest.mark.parametrize("options", [*VARIANTS[:3], {"l2_uv": 0.1, "l2_a": 0.1}], ids=str)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    model = make_model(**options).train()
    model.head.score_all(model.encode(history(padded())).flatten(0, 1)).square().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_initial_values() -> None:
    model = SHAN(4000, 3000, 50)
    for table in (model.item_embedding, model.user_embedding):
        assert table.weight.std().item() == pytest.approx(0.01, rel=0.02)
    for weight in (model.long.weight, model.hybrid.weight):
        assert 0.99 * 0.03**0.5 < weight.abs().max() <= 0.03**0.5 and weight.std().item() == pytest.approx(
            0.1, rel=0.03
        )
    assert not model.item_embedding.weight[PAD].any() and model.user_embedding.weight[0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "d=0: must be 1 or more"),
        ({"n_short": 0}, "n_short=0: must be at least 1 and less than max_len=80"),
        ({"n_short": 80}, "n_short=80: must be at least 1 and less"),
        ({"l2_uv": -0.1}, "l2_uv=-0.1: must be 0 or more"),
        ({"l2_a": float("nan")}, "l2_a=nan: must be 0 or more"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SHAN(M, USERS, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
