"""GRU4Rec against the gates' equations, read plainly: one user, one step, one layer at a time, in double precision."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from model_helpers import HISTORIES, USERS, M, arrays, assert_scores_agree, padded, randomised, read_by_rows
from numpy.typing import NDArray
from small_data import history

from sairlib.batch import PAD, History
from sairlib.errors import UserError
from sairlib.models.gru4rec import GRU4Rec
from sairlib.nn.layers import Dropout

CONF = Path(__file__).resolve().parents[2] / "conf"
BASE: dict[str, Any] = {"d": 4, "d_hidden": 4, "embedding_dropout": 0.3, "hidden_dropout": 0.2}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"n_layers": 2},
    {"n_layers": 3, "d_hidden": 5},
    {"d_hidden": 3},
    {"tied": False},
    {"tied": False, "d_hidden": 6, "n_layers": 2},
    {"d": 1, "d_hidden": 1},
]

Array = NDArray[np.float64]


def make_model(**options: Any) -> GRU4Rec:
    model = GRU4Rec(M, **{**BASE, **options})
    randomised(model)
    return model


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def plain(items: list[int], weights: dict[str, Array], options: dict[str, Any]) -> list[list[float]]:
    """Scores of items 1..M at every step. PyTorch stacks the weights of r, z and c; its z is the paper's 1 - z."""
    drop = options.get("drop", lambda x: x)
    n_layers, width = options.get("n_layers", 1), options["d_hidden"]
    hidden = [np.zeros(width) for _ in range(n_layers)]
    out = weights["item_embedding.weight" if options.get("tied", True) else "output_embedding.weight"]
    scores = []
    for item in items:
        x = drop(weights["item_embedding.weight"][item])
        for layer in range(n_layers):
            name = f"layers.{layer}"
            w_r, w_z, w = np.split(weights[f"{name}.weight_ih_l0"], 3)
            u_r, u_z, u = np.split(weights[f"{name}.weight_hh_l0"], 3)
            a_r, a_z, a = np.split(weights[f"{name}.bias_ih_l0"], 3)
            c_r, c_z, c = np.split(weights[f"{name}.bias_hh_l0"], 3)
            h = hidden[layer]
            r = sigmoid(w_r @ x + a_r + u_r @ h + c_r)
            z = 1 - sigmoid(w_z @ x + a_z + u_z @ h + c_z)
            candidate = np.tanh(w @ x + a + r * (u @ h + c))
            hidden[layer] = (1 - z) * h + z * candidate
            x = drop(hidden[layer])
        if "dense.weight" in weights:
            x = weights["dense.weight"] @ x + weights["dense.bias"]
        scores.append([float(out[i] @ x + weights["output_bias.weight"][i, 0]) for i in range(1, M + 1)])
    return scores


def check(model: GRU4Rec, options: dict[str, Any]) -> None:
    with torch.no_grad():
        states_BND = model.encode(history(padded()))
        newest_BM = model.head.score_all(model.newest(history(padded())))[:, 1:].numpy()
    for user, row in enumerate(HISTORIES):
        expected = plain(row, arrays(model), {**BASE, **options})
        actual = model.head.score_all(states_BND[user, : len(row)])[:, 1:].detach().numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(newest_BM[user], expected[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_gates_equations(options: dict[str, Any]) -> None:
    check(make_model(**options), options)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_dropout_falls_on_vectors_and_after_each_layer(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cosine in the place of dropout, here and there; the state that goes on to the next step is spared."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x.cos())
    check(make_model(**options), {**options, "drop": np.cos})


@pytest.mark.parametrize("name", ["embedding_dropout", "hidden_dropout"])
def test_dropouts_act_in_training_alone(name: str) -> None:
    none, model = (make_model(**{"embedding_dropout": 0.0, "hidden_dropout": 0.0, name: p}) for p in (0.0, 0.5))
    items_BN, users_B = padded(), torch.arange(USERS)
    assert torch.equal(none.encode(History(users_B, items_BN)), model.encode(History(users_B, items_BN)))
    assert torch.equal(none.train().encode(History(users_B, items_BN)), none.encode(History(users_B, items_BN)))
    assert not torch.equal(model.train().encode(History(users_B, items_BN)), model.encode(History(users_B, items_BN)))


def test_a_step_passes_on_what_dropout_left_of_the_outputs() -> None:
    model = make_model(n_layers=2, hidden_dropout=0.5).train()
    states_B1D, (_, last_BD) = model.step(History(torch.arange(USERS), padded()[:, :1]), model.start(USERS))
    assert torch.equal(states_B1D[:, 0], last_BD) and not last_BD.all()


def test_tied_is_one_table_and_a_dense_layer_where_the_widths_differ() -> None:
    names = {key.split(".")[0] for key in make_model().state_dict()}
    assert names == {"item_embedding", "layers", "output_bias"}
    assert {key.split(".")[0] for key in make_model(d_hidden=3).state_dict()} == names | {"dense"}
    assert {key.split(".")[0] for key in make_model(d_hidden=3, tied=False).state_dict()} == names | {
        "output_embedding"
    }
    model = make_model(d_hidden=3, tied=False)
    assert model.output_embedding is not None and model.output_embedding.weight.shape == (M + 1, 3)
    for options in ({}, {"tied": False}):
        model = make_model(**options)
        assert {id(table) for table in read_by_rows(model)} == {
            id(module) for module in model.modules() if isinstance(module, torch.nn.Embedding)
        }


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_scores_agree(options: dict[str, Any]) -> None:
    assert_scores_agree(make_model(**options), padded())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    model = make_model(**options).train()
    model.head.score_all(model.encode(history(padded())).flatten(0, 1)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        parts = parameter.grad.chunk(3) if key.startswith("layers") else (parameter.grad,)
        assert all(part.any() for part in parts), key


def test_gates_start_xavier_uniform_each_by_itself() -> None:
    model = GRU4Rec(20, d=40, d_hidden=80)
    layer = model.layers[0]
    for matrix, fan_in in ((layer.weight_ih_l0, 40), (layer.weight_hh_l0, 80)):
        bound = (6 / (fan_in + 80)) ** 0.5
        for gate in matrix.chunk(3):
            assert 0.95 * bound < gate.abs().max().item() <= bound
    assert not layer.bias_ih_l0.any() and not layer.bias_hh_l0.any()
    assert not any(table.weight[PAD].any() for table in read_by_rows(model))


@pytest.mark.parametrize(("name", "loss"), [("gru4rec", "BPR"), ("gru4rec-plus", "BPRMax")])
def test_each_name_has_the_loss_of_its_paper_and_may_be_given_another(name: str, loss: str) -> None:
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        assert compose("train", overrides=[f"model={name}"]).loss._target_ == f"sairlib.training.pairwise_losses.{loss}"
        experiment = compose("train", overrides=[f"experiment=sasrec-table3/{name}-ml-1m-sasrec"])
        assert experiment.loss._target_ == f"sairlib.training.pairwise_losses.{loss}"
        assert experiment.negatives._target_ == "sairlib.training.shared_negatives.Popular"
        other = compose("train", overrides=[f"model={name}", "loss=softmax"])
        assert other.loss._target_ == "sairlib.training.softmax_losses.Softmax"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "d=0: must be 1 or more"),
        ({"d_hidden": 0}, "d_hidden=0: must be 1 or more"),
        ({"n_layers": 0}, "n_layers=0: must be 1 or more"),
        ({"embedding_dropout": 1.0}, "dropout must be in"),
        ({"hidden_dropout": -0.1}, "dropout must be in"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        GRU4Rec(M, **{**BASE, **options})
    assert "\n" not in str(caught.value)
