"""Costs of very many scores: computed in parts of any size, they equal those computed at once."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from sairlib.batch import PAD
from sairlib.nn.kernels import parts
from sairlib.nn.kernels.softmax import softmax, softmax_of_products


@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_softmax_equals_loops_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", at_once)
    table, _, states, targets, has_target = softmax_inputs()
    sizes = []

    def cost(states: Tensor, targets: Tensor) -> Tensor:
        sizes.append(len(states))
        return softmax((states @ table.T)[:, 1:], targets)

    costs = parts.in_parts(cost, 1, has_target, states, targets)
    # Row 2 has no target: when there are several parts, none contains it.
    assert sizes == ([70] if at_once == 10**6 else [50, 19] if at_once == 50 else [32, 32, 5])
    for row, pair, values in zip((states @ table.T).tolist(), targets.tolist(), costs.tolist(), strict=True):
        whole = sum(math.exp(s) for s in row[1:])  # PAD is no item
        for target, value in zip(pair, values, strict=True):
            assert target == PAD or value == pytest.approx(-math.log(math.exp(row[target]) / whole), rel=1e-5)
    to_table, to_states = gradients(costs, targets, table, states)
    torch.testing.assert_close((to_table, to_states), gradients(cost(states, targets), targets, table, states))
    assert not to_table[PAD].any() and not to_states[2].any() and to_states[0].any()


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_softmax_of_products_equals_softmax(
    monkeypatch: pytest.MonkeyPatch, at_once: int, with_bias: bool, alike: bool
) -> None:
    table, bias, states, targets, _ = softmax_inputs()
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", at_once * len(table))
    learned = (table, states, bias) if with_bias else (table, states)
    costs = softmax_of_products(states, table, bias if with_bias else None, targets)
    scores = linear(states, table, bias if with_bias else None)
    whole = -log_softmax(scores[:, 1:], 1).gather(1, (targets - 1).clamp_min(0))
    torch.testing.assert_close(costs[targets != PAD], whole[targets != PAD])
    torch.testing.assert_close(
        gradients(costs, targets, *learned, alike=alike), gradients(whole, targets, *learned, alike=alike)
    )


def test_a_target_of_no_chance_has_a_cost() -> None:
    """Its softmax is 0 in single precision."""
    states, table = torch.tensor([[1.0], [2.0]], requires_grad=True), torch.tensor([[0.0], [300.0], [0.0]])
    costs = softmax_of_products(states, table, None, torch.tensor([[2], [1]]))
    assert costs.tolist() == [[300.0], [0.0]]


def softmax_inputs() -> tuple[Tensor, ...]:
    """Vectors and biases of PAD and 8 items, 70 states with two targets each (some PAD), rows with a target."""
    torch.manual_seed(0)  # single precision: a cost close to 0 can miss the tolerance
    options: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True}
    targets = torch.randint(1, 9, (70, 2))
    targets[2] = targets[5, 1] = PAD
    return (
        torch.randn(9, 3, **options),
        torch.randn(9, **options),
        torch.randn(70, 3, **options),
        targets,
        targets.any(1),
    )


def gradients(costs: Tensor, targets: Tensor, *learned: Tensor, alike: bool = False) -> tuple[Tensor, ...]:
    """Of a weighted sum of the costs, or of one that weighs them ``alike``."""
    weights = 3 if alike else torch.arange(1, 141).view(70, 2)
    weighted = costs.where(targets != PAD, 0.0) * weights
    return torch.autograd.grad(weighted.sum(), learned)


@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_a_function_in_blocks_of_any_size_gives_the_same_numbers_and_gradients(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", at_once)
    table, bias, states, targets, _ = softmax_inputs()
    sizes = []

    def function(states: Tensor, targets: Tensor) -> Tensor:
        sizes.append(len(states))
        return (states @ table.T + bias).gather(1, targets)

    with torch.no_grad():
        parts.in_blocks(function, 10, states, targets)
    assert sizes == ([70] if at_once == 10**6 else [5] * 14 if at_once == 50 else [1] * 70)
    found, whole = parts.in_blocks(function, 10, states, targets), function(states, targets)
    torch.testing.assert_close(found, whole)
    learned = (table, bias, states)
    torch.testing.assert_close(gradients(found, targets, *learned), gradients(whole, targets, *learned))
