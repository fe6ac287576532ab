"""Costs of very many scores: by parts of any size they are what they are as a whole."""

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
    table, _, states, targets, asked = to_be_told()
    sizes = []

    def cost(states: Tensor, targets: Tensor) -> Tensor:
        sizes.append(len(states))
        return softmax(states @ table.T, targets)

    found = parts.in_parts(cost, 1, asked, states, targets)
    # Row 2 asks nothing: where parts are made, it is in none of them.
    assert sizes == ([70] if at_once == 10**6 else [50, 19] if at_once == 50 else [32, 32, 5])
    for row, pair, values in zip((states @ table.T).tolist(), targets.tolist(), found.tolist(), strict=True):
        whole = sum(math.exp(s) for s in row[1:])  # PAD is no item
        for target, value in zip(pair, values, strict=True):
            assert target == PAD or value == pytest.approx(-math.log(math.exp(row[target]) / whole), rel=1e-5)
    to_table, to_states = gradients(found, targets, table, states)
    torch.testing.assert_close((to_table, to_states), gradients(cost(states, targets), targets, table, states))
    assert not to_table[PAD].any() and not to_states[2].any() and to_states[0].any()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_softmax_of_products_equals_softmax(monkeypatch: pytest.MonkeyPatch, at_once: int, with_bias: bool) -> None:
    table, bias, states, targets, asked = to_be_told()
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", at_once * len(table))
    learnt = (table, states, bias) if with_bias else (table, states)
    found = softmax_of_products(states, table, bias if with_bias else None, targets, asked)
    scores = linear(states, table, bias if with_bias else None)
    whole = -log_softmax(scores[:, 1:], 1).gather(1, (targets - 1).clamp_min(0))
    torch.testing.assert_close(found[targets != PAD], whole[targets != PAD])
    torch.testing.assert_close(gradients(found, targets, *learnt), gradients(whole, targets, *learnt))


def to_be_told() -> tuple[Tensor, ...]:
    """Vectors and biases of 8 items and PAD, 70 states, and two targets of each, some PAD, with which rows ask any."""
    drawn: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True}
    targets = torch.randint(1, 9, (70, 2))
    targets[2] = targets[5, 1] = PAD
    return torch.randn(9, 3, **drawn), torch.randn(9, **drawn), torch.randn(70, 3, **drawn), targets, targets.any(1)


def gradients(costs: Tensor, targets: Tensor, *learnt: Tensor) -> tuple[Tensor, ...]:
    weighed = costs.where(targets != PAD, 0.0) * torch.arange(1, 141).view(70, 2)
    return torch.autograd.grad(weighed.sum(), learnt)
