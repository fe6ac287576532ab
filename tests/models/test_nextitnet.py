"""NextItNet against its blocks, read plainly: one user, one step and one filter at a time, in double precision."""

from typing import Any

import model_helpers
import numpy as np
import pytest
import torch
from model_helpers import arrays, assert_scores_agree, randomised, read_by_rows
from numpy.typing import NDArray
from small_data import history
from torch import Tensor, nn

from sairlib.batch import PAD
from sairlib.errors import UserError
from sairlib.models.nextitnet import NextItNet

M, MAX_LEN = 11, 9
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8, 7, 1, 2], [10, 11], [4, 4, 2], [1, 2, 3, 4, 5, 6, 7]]
BASE: dict[str, Any] = {"d": 3, "dilations": (1, 2), "kernel_size": 3}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"dilations": (1,)},
    {"dilations": (2, 1, 3), "kernel_size": 2},
    {"kernel_size": 4},
    {"tied": True},
    {"output_relu": False},
    {"tied": True, "output_relu": False, "d": 5},
]

Vector = NDArray[np.float64]


def make_model(**options: Any) -> NextItNet:
    model = NextItNet(M, MAX_LEN, **{**BASE, **options})
    randomised(model)
    return model


def padded(width: int = MAX_LEN) -> Tensor:
    return model_helpers.padded(HISTORIES, width)


def convolved(xs: list[Vector], filters: Vector, bias: Vector, dilation: int) -> list[Vector]:
    """Step t: the sum over back = 0 .. k - 1 of F_back x_{t - back dilation}, without the steps that are not there."""
    outputs = []
    for t in range(len(xs)):
        out = bias.copy()
        for back in range(filters.shape[2]):
            if t - back * dilation >= 0:
                out = out + filters[:, :, filters.shape[2] - 1 - back] @ xs[t - back * dilation]
        outputs.append(out)
    return outputs


def normed(x: Vector, gain: Vector, bias: Vector) -> Vector:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return gain * (x - mean) / np.sqrt(variance + 1e-8) + bias


def plain(items: list[int], weights: dict[str, Vector], options: dict[str, Any]) -> list[list[float]]:
    """Scores of items 1..M at every step."""
    xs = [weights["item_embedding.weight"][item] for item in items]
    for number, dilation in enumerate(options["dilations"]):
        hidden = xs
        for part, times in (("first", 1), ("second", 2)):
            name = f"blocks.{number}.{part}"
            hidden = convolved(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], times * dilation)
            gain, bias = weights[f"{name}_norm.weight"], weights[f"{name}_norm.bias"]
            hidden = [np.maximum(normed(x, gain, bias), 0) for x in hidden]
        xs = [x + change for x, change in zip(xs, hidden, strict=True)]
    if options.get("output_relu", True):
        xs = [np.maximum(x, 0) for x in xs]
    out = weights["item_embedding.weight" if options.get("tied", False) else "output_embedding.weight"]
    return [[float(out[item] @ x + weights["output_bias.weight"][item, 0]) for item in range(1, M + 1)] for x in xs]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_formula_of_each_step(options: dict[str, Any]) -> None:
    model = make_model(**options)
    with torch.no_grad():
        states_BND = model.encode(history(padded()))
        newest_BM = model.head.score_all(model.newest(history(padded(MAX_LEN + 3)))).numpy()
    for user, row in enumerate(HISTORIES):
        expected = plain(row, arrays(model), {**BASE, **options})
        actual = model.head.score_all(states_BND[user, : len(row)])[:, 1:].detach().numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(newest_BM[user, 1:], expected[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("dilations", "kernel_size", "sees"),
    [((1, 4, 1, 4), 3, 61), ((1, 4) * 5, 3, 151), ((1, 2, 4, 8), 3, 91), ((1,), 2, 4), ((2, 1), 2, 10)],
    ids=str,
)
def test_a_state_sees_its_receptive_field_to_the_last_item(
    dilations: tuple[int, ...], kernel_size: int, sees: int
) -> None:
    """By gradient: from the newest state to the oldest item of the field, and to none before."""
    model = NextItNet(M, 200, 4, dilations, kernel_size)
    randomised(model, 0.3)
    assert model.memory == sees
    vectors_BND = torch.randn(1, 170, 4, dtype=torch.float64, requires_grad=True)
    (gradient_BND,) = torch.autograd.grad(model.blocks(vectors_BND)[0, -1].sum(), vectors_BND)
    seen = gradient_BND[0].any(-1)
    assert seen[-sees] and not seen[:-sees].any()


def test_a_field_as_long_as_the_window_is_no_memory() -> None:
    assert NextItNet(M, 61).memory is None and NextItNet(M, 62).memory == 61


def test_scores_agree() -> None:
    for options in ({}, {"tied": True}):
        assert_scores_agree(make_model(**options), padded())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    model = make_model(**options).train()
    model.head.score_all(model.encode(history(padded())).flatten(0, 1)).square().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_initial_values_are_those_of_the_authors() -> None:
    model = NextItNet(5000, 50)
    filters = [part for part in model.modules() if isinstance(part, nn.Conv1d)]
    assert [part.dilation[0] for part in filters] == [1, 2, 4, 8, 1, 2, 4, 8]
    assert model.output_embedding is not None
    for weight in (model.item_embedding.weight, model.output_embedding.weight, *(part.weight for part in filters)):
        assert weight.std().item() == pytest.approx(0.02 * 0.88, rel=0.02) and weight.abs().max() <= 0.04
    assert not model.output_bias.weight.any() and not any(part.bias.any() for part in filters if part.bias is not None)
    assert not model.item_embedding.weight[PAD].any() and not model.output_embedding.weight[PAD].any()


def test_all_its_tables_are_read_by_rows() -> None:
    assert len(read_by_rows(make_model())) == 3 and len(read_by_rows(make_model(tied=True))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "d=0: must be 1 or more"),
        ({"dilations": []}, r"dilations=\[\]: give one or more whole numbers from 1 to max_len=9"),
        ({"dilations": [1, 0]}, r"dilations=\[1, 0\]: give"),
        ({"dilations": [10]}, r"dilations=\[10\]: give"),
        ({"dilations": [1.5]}, r"dilations=\[1.5\]: give"),
        ({"kernel_size": 1}, "kernel_size=1: must be 2 or more"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        NextItNet(M, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
