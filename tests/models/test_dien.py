"""DIEN against its formula, read plainly: one user, one candidate and one step at a time, in double precision."""

from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import arrays, has_user_table, padded, randomised, read_by_rows
from numpy.typing import NDArray
from reference import softmax
from small_data import history
from torch import Tensor

from sairlib.batch import PAD, Batch, History, map_state
from sairlib.errors import UserError
from sairlib.models.dien import DIEN
from sairlib.nn.kernels import parts

M, MAX_LEN = 11, 7
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8, 7], [10, 11], [4, 4, 2], [1, 2, 3, 4]]
USERS = len(HISTORIES)
T = 3
CATEGORIES = torch.tensor([[0]] + [[1 + item % T] for item in range(1, M + 1)])
BASE: dict[str, Any] = {"d": 2, "H": 5, "hidden_1": 4, "hidden_2": 3}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"H": 1},
    {"H": 50},
    {"use_category": False, "d": 3},
    {"user_embedding": True},
    {"activation": "sigmoid"},
]

Array = NDArray[np.float64]


def make_model(**options: Any) -> DIEN:
    torch.manual_seed(0)
    model = DIEN(M, USERS, MAX_LEN, CATEGORIES, T, **{**BASE, **options})
    randomised(model)
    return model


def shown(rows: list[list[int]] = HISTORIES, width: int = MAX_LEN) -> History:
    return history(padded(rows, width))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def vector(item: int, weights: dict[str, Array]) -> Array:
    own, categories = weights["vectors.items.weight"][item], weights.get("vectors.categories.table.weight")
    return own if categories is None else np.concatenate([own, categories[int(CATEGORIES[item, 0])]])


def extracted(items: list[int], weights: dict[str, Array]) -> list[Array]:
    """h_1 .. h_T by PyTorch's names: the gates are r, z, n, and z weighs the old state."""
    w, u, b, b_u = (weights[f"extractor.0.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = np.zeros(u.shape[1])
    states = []
    for item in items:
        (r, z, n), (r_h, z_h, n_h) = np.split(w @ vector(item, weights) + b, 3), np.split(u @ h + b_u, 3)
        r, z = sigmoid(r + r_h), sigmoid(z + z_h)
        h = (1 - z) * np.tanh(n + r * n_h) + z * h
        states.append(h)
    return states


def evolved(states: list[Array], candidate: Array, weights: dict[str, Array]) -> Array:
    """h'_T, by the paper's equations of the AUGRU."""
    h = np.zeros(len(candidate))
    attention = softmax([float(candidate @ (weights["relation.weight"] @ state)) for state in states]) if states else []
    w_u, w_r, w_h = np.split(weights["of_input.weight"], 3)
    b_u, b_r, b_h = np.split(weights["of_input.bias"], 3)
    u_u, u_r, u_h = np.split(weights["of_state.weight"], 3)
    for a, i in zip(attention, states, strict=True):
        update = sigmoid(w_u @ i + u_u @ h + b_u)
        reset = sigmoid(w_r @ i + u_r @ h + b_r)
        content = np.tanh(w_h @ i + reset * (u_h @ h) + b_h)
        scaled = a * update
        h = (1 - scaled) * h + scaled * content
    return h


def network(x: Array, weights: dict[str, Array], activation: str) -> float:
    x = weights["scorer.first.weight"] @ x + weights["scorer.first.bias"]
    for number in (0, 1):
        if activation == "sigmoid":
            x = sigmoid(x)
        else:
            slopes = weights[f"scorer.slopes.{number}"]
            x = np.array([value if value > 0 else slope * value for value, slope in zip(x, slopes, strict=True)])
        x = weights[f"scorer.layers.{number}.weight"] @ x + weights[f"scorer.layers.{number}.bias"]
    return float(x[0])


def plain(items: list[int], user: int, weights: dict[str, Array], options: dict[str, Any]) -> list[float]:
    """Scores of items 1..M."""
    states = extracted(items[-options["H"] :], weights)
    who = [weights["user_embedding.weight"][user]] if options.get("user_embedding") else []
    scores = []
    for item in range(1, M + 1):
        candidate = vector(item, weights)
        inputs = np.concatenate([*who, evolved(states, candidate, weights), candidate])
        scores.append(network(inputs, weights, options.get("activation", "prelu")))
    return scores


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("width", [MAX_LEN, MAX_LEN + 3])
def test_equals_the_formula(options: dict[str, Any], width: int) -> None:
    """By each of the three ways to score."""
    model = make_model(**options)
    states, every_M = model.newest(shown([*HISTORIES[:-1], []], width)), torch.arange(M + 1)
    ways = model.head.score(states, every_M.expand(USERS, -1)), model.head.score_shared(states, every_M)
    for scores in (*ways, model.head.score_all(states)):
        for user, row in enumerate([*HISTORIES[:-1], []]):
            expected = plain(row, user, arrays(model), {**BASE, **options})
            np.testing.assert_allclose(scores[user, 1:].detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("H", [3, 50])
def test_the_auxiliary_loss_equals_its_formula(H: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over the steps with a next one, then over users; a user with one item adds nothing."""
    model = make_model(H=H, aux_weight=0.5)
    monkeypatch.setattr(model, "_others", lambda items: items % M + 1)
    history_ = shown()
    found = model.auxiliary(Batch(history_, torch.ones(USERS, 1, 1), None), model.newest(history_))["auxiliary"]
    weights, total = arrays(model), 0.0
    for row in HISTORIES:
        items = row[-H:]
        states = extracted(items, weights)
        costs = []
        for t in range(len(items) - 1):
            done, other = (float(states[t] @ vector(item, weights)) for item in (items[t + 1], items[t + 1] % M + 1))
            costs.append(-np.log(sigmoid(np.array(done))) - np.log(1 - sigmoid(np.array(other))))
        total += sum(costs) / max(1, len(costs))
    assert found.item() == pytest.approx(0.5 * total / USERS)
    assert (
        make_model(aux_weight=0.0).auxiliary(Batch(history_, torch.ones(USERS, 1, 1), None), model.newest(history_))
        == {}
    )


def test_the_items_not_done_are_drawn_uniformly_from_all_others() -> None:
    torch.manual_seed(0)
    items = torch.tensor([1, 6, M]).repeat(11_000, 1)
    others = make_model()._others(items)
    for column, item in enumerate((1, 6, M)):
        counts = torch.bincount(others[:, column], minlength=M + 1)
        assert counts[0] == counts[item] == 0 and len(counts) == M + 1
        expected = [number for number in range(1, M + 1) if number != item]
        assert counts[expected].min() > 950 and counts[expected].max() < 1250


@pytest.mark.parametrize("options", [{}, {"user_embedding": True}], ids=str)
def test_blocks_of_any_size_give_the_same_scores_and_gradients(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for at_once in (2**20, 300, 1):
        monkeypatch.setattr(parts, "SCORES_IN_CACHE", at_once)
        model = make_model(**options)
        states = model.newest(shown())
        chosen = torch.randint(1, M + 1, (USERS, 3), generator=torch.Generator().manual_seed(0))
        scores = model.head.score(states, chosen), model.head.score_shared(states, torch.tensor([3, 1, 7]))
        torch.stack([part.sin().sum() for part in scores]).sum().backward()
        outcomes.append((scores, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(outcomes[0], outcomes[1])
    torch.testing.assert_close(outcomes[0], outcomes[2])


def test_memory_is_bounded_whatever_the_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", 1000)
    model = make_model()
    sizes: list[int] = []
    scorer = model.scorer.forward
    monkeypatch.setattr(model.scorer, "forward", lambda x: sizes.append(x.shape[:-1].numel()) or scorer(x))
    with torch.no_grad():
        states = map_state(lambda part: part[torch.arange(100) % USERS], model.newest(shown()))
        model.head.score_all(states)
        model.head.score(states, torch.ones(100, 2, dtype=torch.long))
    assert len(sizes) > 4 and max(sizes) <= 1000 // (6 * model.vectors.width)


def test_what_is_older_than_h_items_changes_nothing_and_the_order_does() -> None:
    model = make_model(H=3)
    rows = [[1, 2, 3, 4, 5, 6], [9, 8, 7, 4, 5, 6], [1, 2, 3, 5, 4, 6]]
    scores_BM = model.head.score_all(model.newest(shown(rows)))[:, 1:]
    torch.testing.assert_close(scores_BM[0], scores_BM[1])
    assert not torch.allclose(scores_BM[0], scores_BM[2])


def test_an_empty_history_has_finite_scores_and_gradients() -> None:
    model, nothing = make_model(), history(torch.full((2, 3), PAD))
    states = model.newest(nothing)
    extra: Tensor = model.auxiliary(Batch(nothing, torch.ones(2, 1, 1), None), states)["auxiliary"]
    assert extra.item() == 0
    (model.head.score_all(states).sum() + extra).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", VARIANTS[2:], ids=str)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    """By the scores alone, without the auxiliary loss."""
    model = make_model(**options).train()
    model.head.score(model.newest(shown()), torch.randint(1, M + 1, (USERS, 6))).sin().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_tables_of_items_and_users_are_read_by_rows() -> None:
    model = make_model(user_embedding=True)
    assert {id(table) for table in read_by_rows(model)} == {id(model.vectors.items), id(model.user_embedding)}
    assert has_user_table(model) and not has_user_table(make_model())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "d=0: must be 1 or more"),
        ({"H": 0}, "H=0: must be 1 or more"),
        ({"hidden_1": 0}, "hidden_1=0: must be 1 or more"),
        ({"aux_weight": -1.0}, "aux_weight=-1.0: must be 0 or more"),
        ({"activation": "dice"}, "activation=dice: choose one of prelu, sigmoid"),
        ({"category_pooling": "max"}, "category_pooling='max': choose one of mean, sum, first"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        DIEN(M, USERS, MAX_LEN, CATEGORIES, T, **{**BASE, **options})
    assert "\n" not in str(caught.value)
