"""LightSANs against the plain reading of its equations, over both axes that its softmax may run over."""

from typing import Any

import model_helpers
import numpy as np
import pytest
import torch
from model_helpers import padded
from objective_helpers import next_item
from reference import Vector, Weights, gelu, layer_norm, linear, nothing, softmax
from small_data import history, make_split
from torch import Tensor

from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.models.lightsans import LightSANs, LowRankAttention
from sairlib.nn.layers import Dropout

M, MAX_LEN, D = 11, 6, 8
BASE: dict[str, Any] = {"d": D, "n_blocks": 2, "n_heads": 2, "k_interests": 3, "dropout": 0.3}
FLIPS: dict[str, Any] = {"n_blocks": 1, "n_heads": 4, "k_interests": 7, "softmax_dim": "queries"}
OPTIONS = [{}, *({name: value} for name, value in FLIPS.items()), {"softmax_dim": "queries", "n_blocks": 3}]
HISTORIES = [[3, 1, 4, 1, 5, 9], [9], [2, 6, 5, 3, 7], [10, 11], [8, 8, 4], [1, 2, 3, 4]]

both_axes = pytest.mark.parametrize("softmax_dim", ["keys", "queries"])


def make_model(**options: Any) -> LightSANs:
    model = LightSANs(M, MAX_LEN, **{**BASE, **options})
    model_helpers.randomised(model, scale=0.5)
    return model


def newest(model: LightSANs, rows: list[list[int]], width: int = MAX_LEN) -> Tensor:
    return model.newest(history(padded(rows, width)))


# The plain reading: one user, one step, one head and one interest at a time.


def pooled(vectors: list[Vector], theta: Vector) -> list[Vector]:
    """One vector for each interest: a softmax over the items says how much of each."""
    interests = []
    for k in range(theta.shape[1]):
        weigh = softmax([float(vector @ theta[:, k]) for vector in vectors])
        interests.append(sum(a * vector for a, vector in zip(weigh, vectors, strict=True)))
    return interests


def mix(queries: list[Vector], keys: list[Vector], values: list[Vector], n_heads: int, axis: str) -> list[list[Vector]]:
    """What each query gets of the values, head by head."""
    size = len(queries[0]) // n_heads
    out: list[list[Vector]] = [[] for _ in queries]
    for head in range(n_heads):
        part = slice(head * size, (head + 1) * size)
        table = [[float(query[part] @ key[part]) / np.sqrt(size) for key in keys] for query in queries]
        if axis == "keys":
            table = [softmax(row) for row in table]
        else:
            columns = [softmax([row[j] for row in table]) for j in range(len(keys))]
            table = [[column[i] for column in columns] for i in range(len(queries))]
        for i, row in enumerate(table):
            out[i].append(sum(a * value[part] for a, value in zip(row, values, strict=True)))
    return out


def encode(items: list[int], weights: Weights, options: dict[str, Any]) -> Vector:
    """The state at the newest of ``items``."""
    drop, n_heads, axis = options.get("drop", nothing), options["n_heads"], options.get("softmax_dim", "keys")
    n = len(items)
    xs = [drop(layer_norm(weights["item_embedding.weight"][item], weights, "input_norm")) for item in items]
    for block in range(options["n_blocks"]):
        name = f"blocks.{block}"
        queries, keys, values, place_queries, place_keys = ([], [], [], [], [])
        for t, x in enumerate(xs):
            kinds = np.split(linear(x, weights, f"{name}.attention.query_key_value"), 3)
            place = layer_norm(
                weights["position_embedding.weight"][n - 1 - t], weights, f"{name}.attention.position_norm"
            )
            kinds += np.split(linear(place, weights, f"{name}.attention.position_query_key"), 2)
            for part, kind in zip(kinds, (queries, keys, values, place_queries, place_keys), strict=True):
                kind.append(part)
        interest_keys = pooled(keys, weights[f"{name}.attention.theta_DK"])
        interest_values = pooled(values, weights[f"{name}.attention.value_theta_DK"])
        by_interest = mix(queries, interest_keys, interest_values, n_heads, axis)
        by_place = mix(place_queries, place_keys, values, n_heads, axis)
        for t, x in enumerate(xs):
            mixed = np.concatenate(by_interest[t]) + np.concatenate(by_place[t])
            x = layer_norm(x + drop(linear(mixed, weights, f"{name}.output")), weights, f"{name}.attention_norm")
            change = drop(linear(gelu(linear(x, weights, f"{name}.first")), weights, f"{name}.second"))
            xs[t] = layer_norm(x + change, weights, f"{name}.feed_forward_norm")
    return xs[-1]


@torch.no_grad()
def check_against_plain(model: LightSANs, options: dict[str, Any]) -> None:
    weights = model_helpers.arrays(model)
    states_BD = newest(model, HISTORIES)
    scores_BM = model.head.score_all(states_BD)
    for row, items in enumerate(HISTORIES):
        state = encode(items, weights, options)
        np.testing.assert_allclose(states_BD[row].numpy(), state, rtol=1e-9, atol=1e-9)
        expected = [float(state @ weights["item_embedding.weight"][item]) for item in range(1, M + 1)]
        np.testing.assert_allclose(scores_BM[row, 1:].numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_plain_equations(options: dict[str, Any]) -> None:
    check_against_plain(make_model(**options), {**BASE, **options})


@both_axes
def test_dropout_falls_where_the_equations_have_it(softmax_dim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine in the place of dropout, here and there: it commutes with nothing beside it."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x.cos())
    check_against_plain(make_model(softmax_dim=softmax_dim), {**BASE, "softmax_dim": softmax_dim, "drop": np.cos})


@pytest.mark.parametrize("name", FLIPS)
def test_every_option_changes_the_states(name: str) -> None:
    assert (newest(make_model(), HISTORIES) - newest(make_model(**{name: FLIPS[name]}), HISTORIES)).abs().max() > 1e-3


@both_axes
@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"attention_dropout": 0.5}], ids=str)
def test_dropouts_act_in_training_alone(softmax_dim: str, options: dict[str, float]) -> None:
    none = make_model(softmax_dim=softmax_dim, dropout=0.0)
    model = make_model(**{"softmax_dim": softmax_dim, "dropout": 0.0, **options})
    assert torch.equal(newest(none, HISTORIES), newest(model, HISTORIES))
    trained = newest(model.train(), HISTORIES)
    assert not torch.allclose(newest(none.train(), HISTORIES), trained)
    assert not torch.equal(trained, newest(model, HISTORIES)), "each pass draws its own"


# The axis, the positions, the padding.


def attention_and_inputs(softmax_dim: str) -> tuple[LowRankAttention, list[Tensor]]:
    """An attention whose every value is 1: what it mixes is the sum of its weights, over interests and over items."""
    torch.manual_seed(0)
    attention = LowRankAttention(4, 1, 3, 0.0, softmax_dim).double()
    with torch.no_grad():
        attention.query_key_value.weight.mul_(5)
        attention.position_query_key.weight.mul_(5)
        attention.query_key_value.weight[8:] = 0
        attention.query_key_value.bias[8:] = 1
    states_BND = torch.randn(2, 5, 4, dtype=torch.float64)
    real_BN = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    positions_BN = torch.tensor([[4, 3, 2, 1, 0], [2, 1, 0, 0, 0]])
    return attention, [states_BND, real_BN, positions_BN, torch.randn(6, 4, dtype=torch.float64)]


def test_over_keys_the_weights_of_every_query_add_up_to_1() -> None:
    attention, inputs = attention_and_inputs("keys")
    mixed_BND = attention(*inputs)
    torch.testing.assert_close(mixed_BND, torch.full_like(mixed_BND, 2))


def test_over_queries_the_weights_of_every_key_add_up_to_1() -> None:
    """So over the real steps all is 3 interests and as many items as there are, spread unevenly."""
    attention, inputs = attention_and_inputs("queries")
    mixed_BN = attention(*inputs)[..., 0]
    assert mixed_BN[0].sum().item() == pytest.approx(3 + 5)
    assert mixed_BN[1, :3].sum().item() == pytest.approx(3 + 3)
    assert mixed_BN.std() > 0.1 and (mixed_BN[0] - 2).abs().max() > 0.1


@both_axes
def test_a_single_step_equals_that_step_of_all(softmax_dim: str) -> None:
    attention, inputs = attention_and_inputs(softmax_dim)
    steps_B = torch.tensor([4, 1])
    torch.testing.assert_close(attention(*inputs, steps_B=steps_B)[:, 0], attention(*inputs)[range(2), steps_B])


@both_axes
@pytest.mark.parametrize("width", [4, 5, 9])
def test_neither_padding_nor_company_changes_a_state(softmax_dim: str, width: int) -> None:
    model = make_model(softmax_dim=softmax_dim)
    alone_D, among_D = newest(model, [[1, 2, 3, 4]], width)[0], newest(model, [[1, 2, 3, 4], *HISTORIES])[0]
    torch.testing.assert_close(alone_D, among_D)
    before_BD = newest(model, HISTORIES)
    with torch.no_grad():
        model.item_embedding.weight[0] = 1000 * torch.randn(D)
    assert torch.equal(newest(model, HISTORIES), before_BD)


@both_axes
def test_an_empty_history_is_finite_and_so_are_its_gradients(softmax_dim: str) -> None:
    model = make_model(softmax_dim=softmax_dim)
    states_BD = newest(model, [[], [3, 1]])
    states_BD.square().sum().backward()
    assert states_BD.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@both_axes
def test_order_is_known_by_the_positions_alone(softmax_dim: str) -> None:
    """Without them what came before the newest item is a set."""
    model, rows = make_model(softmax_dim=softmax_dim), [[1, 2, 3, 4], [3, 1, 2, 4]]
    assert (newest(model, rows)[0] - newest(model, rows)[1]).abs().max() > 1e-3
    with torch.no_grad():
        model.position_embedding.weight.zero_()
    torch.testing.assert_close(newest(model, rows)[0], newest(model, rows)[1])


def test_over_keys_a_repeated_item_is_one_item() -> None:
    """All averages are then of one vector, whatever their weights: the model cannot count."""
    torch.testing.assert_close(*newest(make_model(), [[7], [7, 7, 7]]))
    once_D, thrice_D = newest(make_model(softmax_dim="queries"), [[7], [7, 7, 7]])
    assert (once_D - thrice_D).abs().max() > 1e-3


def test_is_not_trained_at_every_step() -> None:
    split = make_split([[1, 2, 3, 4, 5], [6, 7, 8, 9]], M)
    objective = next_item(SequenceStore(split, MAX_LEN, torch.device("cpu")))
    with pytest.raises(UserError, match="LightSANs sees the whole sequence"):
        objective.check(make_model())


@both_axes
def test_every_parameter_learns(softmax_dim: str) -> None:
    model = make_model(softmax_dim=softmax_dim, attention_dropout=0.1).train()
    states_BD = newest(model, HISTORIES)
    model.head.score(states_BD, torch.randint(1, M + 1, (len(HISTORIES), 3))).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key


def test_theta_starts_at_unit_scale_and_the_rest_small() -> None:
    torch.manual_seed(0)
    model = LightSANs(300, 50, k_interests=20)
    for key, parameter in model.named_parameters():
        if "theta" in key:
            assert parameter.std().item() == pytest.approx(1, rel=0.1)
        elif key.endswith(".weight") and "norm" not in key:
            assert parameter.abs().max() <= 0.04
    assert not model.item_embedding.weight[0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"softmax_dim": "heads"}, "softmax_dim='heads': choose one of keys, queries"),
        ({"k_interests": 0}, "k_interests must be at least 1, not 0"),
        ({"n_heads": 3}, "n_heads=3 does not divide the width 8"),
        ({"n_blocks": 0}, "n_blocks must be at least 1, not 0"),
        ({"d": 0}, "d must be at least 1, not 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"attention_dropout": 1.5}, r"attention_dropout must be in \[0, 1\), not 1.5"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        LightSANs(M, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
