"""Caser against the per-window formula, read plainly: one user, one step, one filter at a time, in double precision."""

from typing import Any

import model_helpers
import numpy as np
import pytest
import torch
from model_helpers import arrays, assert_scores_agree, has_user_table, randomised, read_by_rows
from numpy.typing import NDArray
from small_data import history
from torch import Tensor

from sairlib.batch import PAD, History
from sairlib.errors import UserError
from sairlib.models.caser import Caser
from sairlib.nn.layers import Dropout

M, MAX_LEN = 11, 7
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8, 7], [10, 11], [4, 4, 2], [1, 2, 3, 4], [11, 9, 7, 5, 3, 1]]
USERS = len(HISTORIES)
BASE: dict[str, Any] = {"d": 3, "L": 4, "n_h": 2, "n_v": 3, "dropout": 0.5}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"L": 1},
    {"L": 2},
    {"L": 5, "n_h": 1},
    {"L": MAX_LEN, "n_v": 1},
    {"n_h": 0},
    {"n_v": 0},
    {"user_embedding": False},
    {"user_embedding": False, "n_v": 0, "L": 1, "d": 5},
]

Array = NDArray[np.float64]


def make_model(**options: Any) -> Caser:
    model = Caser(M, USERS, MAX_LEN, **{**BASE, **options})
    randomised(model)
    return model


def padded(width: int = MAX_LEN) -> Tensor:
    return model_helpers.padded(HISTORIES, width)


def plain(items: list[int], user: int, weights: dict[str, Array], options: dict[str, Any]) -> list[list[float]]:
    """Scores of items 1..M at every step. The image of a step is cut out of the history, with rows of 0 before it."""
    d, length, n_h, n_v = (options[name] for name in ("d", "L", "n_h", "n_v"))
    drop = options.get("drop", lambda x: x)
    scores = []
    for t in range(len(items)):
        image = np.zeros((length, d))
        for row in range(length):
            at = t - (length - 1) + row
            if at >= 0:
                image[row] = weights["item_embedding.weight"][items[at]]
        features: list[float] = []
        for k in range(n_v):
            for column in range(d):
                features.append(sum(weights["vertical"][k, row] * image[row, column] for row in range(length)))
        for height in range(1, length + 1):
            for k in range(n_h):
                filter_, bias = (weights[f"horizontal.{height - 1}.{part}"][k] for part in ("weight", "bias"))
                values = []
                for i in range(length - height + 1):
                    product = sum(
                        filter_[column, row] * image[i + row, column] for row in range(height) for column in range(d)
                    )
                    values.append(max(product + bias, 0.0))
                features.append(max(values))
        linear = weights["fully_connected.weight"] @ drop(np.array(features)) + weights["fully_connected.bias"]
        state = np.maximum(linear, 0)
        if options.get("user_embedding", True):
            state = np.concatenate([state, weights["user_embedding.weight"][user]])
        out, bias = weights["output_embedding.weight"], weights["output_bias.weight"]
        scores.append([float(out[item] @ state + bias[item, 0]) for item in range(1, M + 1)])
    return scores


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_formula_of_each_window(options: dict[str, Any]) -> None:
    """Histories of every length: windows that end at, and reach before, the first item."""
    model = make_model(**options)
    with torch.no_grad():
        states_BND = model.encode(history(padded()))
    for user, row in enumerate(HISTORIES):
        expected = plain(row, user, arrays(model), {**BASE, **options})
        actual = model.head.score_all(states_BND[user, : len(row)])[:, 1:].detach().numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("width", [MAX_LEN, MAX_LEN + 5])
def test_the_newest_state_is_the_last_window(options: dict[str, Any], width: int) -> None:
    model = make_model(**options)
    with torch.no_grad():
        actual = model.head.score_all(model.newest(history(padded(width))))[:, 1:].numpy()
    for user, row in enumerate(HISTORIES):
        np.testing.assert_allclose(actual[user], plain(row, user, arrays(model), {**BASE, **options})[-1], rtol=1e-9)


def test_dropout_falls_on_what_the_filters_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine in the place of dropout, here and there: it commutes with nothing beside it."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x.cos())
    model = make_model()
    with torch.no_grad():
        actual = model.head.score_all(model.newest(history(padded())))[:, 1:].numpy()
    for user, row in enumerate(HISTORIES):
        expected = plain(row, user, arrays(model), {**BASE, "drop": np.cos})[-1]
        np.testing.assert_allclose(actual[user], expected, rtol=1e-9)


def test_dropout_acts_in_training_alone() -> None:
    model, items_BN, users_B = make_model(), padded(), torch.arange(USERS)
    assert torch.equal(
        model.encode(History(users_B, items_BN)), make_model(dropout=0.0).encode(History(users_B, items_BN))
    )
    model.train()
    assert not torch.equal(model.encode(History(users_B, items_BN)), model.encode(History(users_B, items_BN)))


def test_a_state_remembers_l_items_and_the_user_alone() -> None:
    model = make_model(L=3)
    items_BN = torch.tensor([[1, 2, 3, 4, 5, 6], [9, 8, 3, 4, 5, 6], [9, 8, 7, 4, 5, 6], [1, 2, 3, 5, 4, 6]])
    states_BND = model.encode(History(torch.zeros(4, dtype=torch.long), items_BN))
    torch.testing.assert_close(states_BND[0, 4:], states_BND[1, 4:], rtol=0, atol=1e-12)
    assert not torch.allclose(states_BND[0, 4], states_BND[2, 4]), "the oldest of 3"
    assert not torch.allclose(states_BND[0, 5], states_BND[3, 5]), "their order"
    other_BND = model.encode(History(torch.ones(4, dtype=torch.long), items_BN))
    assert torch.equal(other_BND[..., :3], states_BND[..., :3]) and not torch.equal(other_BND, states_BND)


def test_an_empty_history_is_an_image_of_zeros() -> None:
    model = make_model(user_embedding=False)
    state_D = model.newest(History(torch.zeros(1, dtype=torch.long), torch.zeros(1, MAX_LEN, dtype=torch.long)))[0]
    biases = [model.horizontal[h].bias for h in range(4)]
    features = torch.cat([torch.zeros(3 * 3), *biases]).double().relu()
    torch.testing.assert_close(state_D, model.fully_connected(features).relu())


@pytest.mark.parametrize("options", [{}, {"user_embedding": False}], ids=str)
def test_scores_agree(options: dict[str, Any]) -> None:
    assert_scores_agree(make_model(**options), padded())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = make_model(**options).train()
    model.head.score_all(model.encode(history(padded())).flatten(0, 1)).square().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_initial_values_are_those_of_the_authors() -> None:
    model = Caser(5000, 4000, 50)
    for table, width in ((model.item_embedding, 50), (model.user_embedding, 50), (model.output_embedding, 100)):
        assert table is not None and table.weight.shape[1] == width
        assert table.weight.std().item() == pytest.approx(1 / width, rel=0.02)
    assert not model.output_bias.weight.any()
    assert not model.item_embedding.weight[PAD].any() and not model.output_embedding.weight[PAD].any()
    assert model.user_embedding is not None and model.user_embedding.weight[0].any()
    assert model.fully_connected.in_features == 4 * 50 + 16 * 5


def test_all_its_tables_are_read_by_rows() -> None:
    model = make_model()
    assert {id(table) for table in read_by_rows(model)} == {
        id(module) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    assert len(read_by_rows(make_model(user_embedding=False))) == 3


def test_unknown_users_are_refused_by_a_model_with_a_user_table() -> None:
    items_BN, users_B = torch.ones(2, 3, dtype=torch.long), torch.tensor([0, USERS])
    for find in (make_model().encode, make_model().newest):
        with pytest.raises(UserError, match=r"user number .* is unknown"):
            find(History(users_B, items_BN))
    assert has_user_table(make_model()) and not has_user_table(make_model(user_embedding=False))
    assert make_model(user_embedding=False).encode(History(users_B, items_BN)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "d=0: must be 1 or more"),
        ({"L": 0}, "L=0: must be between 1 and max_len=7"),
        ({"L": 8}, "L=8: must be between 1 and max_len=7"),
        ({"n_h": 0, "n_v": 0}, "n_h=0, n_v=0: must be 0 or more, and not both 0"),
        ({"n_h": -1}, "n_h=-1, n_v=3"),
        ({"n_v": -1}, "n_h=2, n_v=-1"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Caser(M, USERS, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
