"""DIN against its formula, read plainly: one user, one step, one candidate and one past item at a time, in double
precision."""

from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import arrays, has_user_table, padded, randomised, read_by_rows
from numpy.typing import NDArray
from reference import softmax
from small_data import history
from torch import Tensor

from sairlib.batch import PAD, History, as_rows, map_state
from sairlib.errors import UserError
from sairlib.models.din import DIN
from sairlib.nn.kernels import parts
from sairlib.nn.layers import Table

M, MAX_LEN = 11, 7
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8, 7], [10, 11], [4, 4, 2], [1, 2, 3, 4]]
USERS = len(HISTORIES)
T = 3
CATEGORIES = torch.tensor(
    [[0, 0]] + [[1 + item % T, (2 + item) % T + 1 if item % 2 else 0] for item in range(1, M + 1)]
)
BASE: dict[str, Any] = {"d": 3, "H": 4, "attention_1": 5, "hidden_1": 4, "hidden_2": 3}
AUTHORS: dict[str, Any] = {"activation": "sigmoid", "attention_2": 4, "softmax": True, "item_bias": True}
VARIANTS: list[dict[str, Any]] = [
    {},
    AUTHORS,
    {"H": 1},
    {"H": 50},
    {"attention_2": 2},
    {"softmax": True},
    {"use_category": False},
    {"category_pooling": "first"},
    {"user_embedding": True},
    {"user_embedding": True, "use_category": False, "item_bias": True, "d": 1},
]

Array = NDArray[np.float64]


def make_model(**options: Any) -> DIN:
    torch.manual_seed(0)
    model = DIN(M, USERS, MAX_LEN, CATEGORIES, T, **{**BASE, **options})
    randomised(model)
    return model


def items_BN() -> Tensor:
    return padded(HISTORIES, MAX_LEN)


def vector(item: int, weights: dict[str, Array], options: dict[str, Any]) -> Array:
    own = weights["vectors.items.weight"][item]
    if not options.get("use_category", True):
        return own
    of_item = [category for category in CATEGORIES[item].tolist() if category]
    pooled = of_item[:1] if options.get("category_pooling") == "first" else of_item
    table = weights["vectors.categories.table.weight"]
    return np.concatenate([own, sum((table[category] for category in pooled), np.zeros(len(own))) / len(pooled)])


def network(x: Array, weights: dict[str, Array], name: str, options: dict[str, Any]) -> float:
    """The layers one after the other, with the activation of the paper between them."""
    x, number = weights[f"{name}.first.weight"] @ x + weights[f"{name}.first.bias"], 0
    while f"{name}.layers.{number}.weight" in weights:
        if options.get("activation") == "sigmoid":
            x = 1 / (1 + np.exp(-x))
        else:
            slopes = weights[f"{name}.slopes.{number}"]
            x = np.array([value if value > 0 else slope * value for value, slope in zip(x, slopes, strict=True)])
        x = weights[f"{name}.layers.{number}.weight"] @ x + weights[f"{name}.layers.{number}.bias"]
        number += 1
    [value] = x
    return float(value)


def plain(items: list[int], user: int, weights: dict[str, Array], options: dict[str, Any]) -> list[list[float]]:
    """Scores of items 1..M at every step."""
    scores = []
    for t in range(len(items)):
        past = [vector(item, weights, options) for item in items[max(0, t + 1 - options["H"]) : t + 1]]
        row = []
        for item in range(1, M + 1):
            v = vector(item, weights, options)
            activations = [network(np.concatenate([e, v, e - v, e * v]), weights, "attention", options) for e in past]
            if options.get("softmax"):
                activations = softmax([a / len(v) ** 0.5 for a in activations])
            interest = sum((a * e for a, e in zip(activations, past, strict=True)), np.zeros(len(v)))
            who = [weights["user_embedding.weight"][user]] if options.get("user_embedding") else []
            score = network(np.concatenate([*who, interest, v]), weights, "scorer", options)
            row.append(score + (weights["output_bias.weight"][item, 0] if options.get("item_bias") else 0.0))
        scores.append(row)
    return scores


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_formula_at_every_step(options: dict[str, Any]) -> None:
    """By each of the three ways to score."""
    model = make_model(**options)
    states, every_M = model.encode(history(items_BN())), torch.arange(M + 1)
    own_BNM = model.head.score(states, every_M.expand(USERS, MAX_LEN, -1)).detach()
    shared_BNM = model.head.score_shared(states, every_M).detach()
    newest_BM = model.head.score_all(model.newest(history(items_BN()))).detach()
    for user, row in enumerate(HISTORIES):
        expected = plain(row, user, arrays(model), {**BASE, **options})
        for scores in (own_BNM[user, : len(row)], shared_BNM[user, : len(row)]):
            np.testing.assert_allclose(scores[:, 1:].numpy(), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(newest_BM[user, 1:].numpy(), expected[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, AUTHORS, {"user_embedding": True}], ids=str)
def test_blocks_of_any_size_give_the_same_scores_and_gradients(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for at_once in (2**20, 500, 1):
        monkeypatch.setattr(parts, "SCORES_IN_CACHE", at_once)
        model = make_model(**options)
        states = model.encode(history(items_BN()))
        chosen = torch.randint(1, M + 1, (USERS, MAX_LEN, 3), generator=torch.Generator().manual_seed(0))
        scores = model.head.score(states, chosen), model.head.score_shared(states, torch.tensor([3, 1, 7]))
        torch.stack([part.sin().sum() for part in scores]).sum().backward()
        outcomes.append((scores, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(outcomes[0], outcomes[1])
    torch.testing.assert_close(outcomes[0], outcomes[2])


def test_memory_is_bounded_whatever_the_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """No block is larger than allowed: a full ranking sees few histories and few candidates at a time."""
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", 1000)
    model = make_model(attention_1=6, hidden_1=2, H=5)  # 30 numbers a pair
    sizes: list[int] = []
    rest = model.attention.rest
    monkeypatch.setattr(model.attention, "rest", lambda x: sizes.append(x.numel()) or rest(x), raising=False)
    with torch.no_grad():
        rows = torch.arange(100) % USERS
        model.head.score_all(map_state(lambda part: part[rows], model.newest(history(items_BN()))))
        model.head.score(map_state(lambda part: part[rows], model.newest(history(items_BN()))), rows[:, None] + 1)
    assert len(sizes) > 4 and max(sizes) <= 1000


def test_twice_the_history_counts_twice_without_softmax_and_once_with_it() -> None:
    """Section 4.3: the sum of the weights says how strongly the history speaks for the candidate."""
    shown = [history(torch.tensor([row])) for row in ([PAD] * 4, [3, 5, PAD, PAD], [3, 5, 3, 5])]
    for normalised in (False, True):
        model = make_model(softmax=normalised)
        inputs: list[Tensor] = []  # of the second network's activations: linear in the interest
        rest = model.scorer.rest
        model.scorer.rest = lambda x, inputs=inputs, rest=rest: inputs.append(x) or rest(x)  # type: ignore[method-assign, func-returns-value, misc]
        for one in shown:
            model.head.score_all(model.newest(one))
        nothing, once, twice = (x[0, 1:] for x in inputs)
        torch.testing.assert_close(twice - nothing, (1 if normalised else 2) * (once - nothing))
        assert (once - nothing).abs().min(1).values.max() > 1e-6


def test_a_state_is_of_the_newest_h_items_alone_in_any_order() -> None:
    model = make_model(H=3)
    assert model.memory == 3 and make_model(H=50).memory == MAX_LEN
    rows = torch.tensor([[1, 2, 3, 4, 5, 6], [9, 8, 7, 5, 4, 6], [1, 2, 3, 9, 5, 6]])
    scores_BM = model.head.score_all(model.newest(history(rows)))[:, 1:]
    torch.testing.assert_close(scores_BM[0], scores_BM[1])
    assert not torch.allclose(scores_BM[0], scores_BM[2])


def test_without_categories_a_vector_is_the_item_s_alone() -> None:
    model = DIN(M, USERS, MAX_LEN, torch.zeros(M + 1, 0, dtype=torch.long), 0, **BASE)
    assert model.vectors.categories is None and model.newest(history(items_BN()))[0].shape == (USERS, 4, 3)
    assert make_model().newest(history(items_BN()))[0].shape == (USERS, 4, 6)


@pytest.mark.parametrize("softmax", [True, False])
def test_an_empty_history_has_finite_scores_and_gradients(softmax: bool) -> None:
    model = make_model(softmax=softmax)
    scores = model.head.score_all(model.newest(history(torch.zeros(2, 3, dtype=torch.long))))
    scores.sum().backward()
    assert scores.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_vector_of_padding_is_not_seen_even_in_an_empty_history() -> None:
    model, shown = make_model(), history(torch.tensor([[PAD, PAD], [4, PAD]]))
    before_BM = model.head.score_all(model.newest(shown))[:, 1:].detach()
    with torch.no_grad():
        model.vectors.items.weight[PAD] = 1e6
    assert torch.equal(model.head.score_all(model.newest(shown))[:, 1:], before_BM)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    model = make_model(**options).train()
    states = model.encode(history(items_BN()))
    model.head.score(states, torch.randint(1, M + 1, (USERS, MAX_LEN, 6))).sin().sum().backward()
    idle = {key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # A softmax does not see a number that is added to all its inputs, and that of a single one is always 1.
    assert idle == (
        {f"attention.layers.{len(model.attention.layers) - 1}.bias"} & idle if options.get("softmax") else set()
    )


def test_tables_of_items_and_users_are_read_by_rows() -> None:
    model = make_model(user_embedding=True, item_bias=True)
    assert isinstance(model.output_bias, Table) and isinstance(model.user_embedding, Table)
    by_rows = {id(table) for table in read_by_rows(model)}
    assert by_rows == {id(model.vectors.items), id(model.user_embedding), id(model.output_bias)}


def test_unknown_users_are_refused_by_a_model_with_a_user_table() -> None:
    shown = History(torch.tensor([0, USERS]), torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(UserError, match=r"user number .* is unknown"):
        make_model(user_embedding=True).newest(shown)
    assert has_user_table(make_model(user_embedding=True)) and not has_user_table(make_model())
    assert all(part.isfinite().all() for part in as_rows(make_model().newest(shown)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "d=0: must be 1 or more"),
        ({"H": 0}, "H=0: must be 1 or more"),
        ({"attention_1": 0}, "attention_1=0: must be 1 or more"),
        ({"attention_2": 0}, "attention_2=0: must be 1 or more"),
        ({"hidden_1": 0}, "hidden_1=0: must be 1 or more"),
        ({"hidden_2": -1}, "hidden_2=-1: must be 1 or more"),
        ({"activation": "dice"}, "activation=dice: choose one of prelu, sigmoid"),
        ({"category_pooling": "max"}, "category_pooling='max': choose one of mean, sum, first"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        DIN(M, USERS, MAX_LEN, CATEGORIES, T, **{**BASE, **options})
    assert "\n" not in str(caught.value)
