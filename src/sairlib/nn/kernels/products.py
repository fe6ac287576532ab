"""Costs of scores that are products of states with the vectors of all items."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from sairlib.nn.kernels.parts import in_parts, part_size, spread
from sairlib.nn.kernels.switch import fast_on

Cost: TypeAlias = Callable[..., Tensor]
"""From scores (X, M), and further arguments with X rows, to costs (X, S)."""
Made: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
"""From scores (X, M), ``real_XS`` and the further arguments to the costs, and the gradient of the sum of the real ones
for the scores. It may overwrite the scores."""


def costs_of_products(
    cost: Cost,
    states_XD: Tensor,
    vectors_MD: Tensor,
    bias_M: Tensor | None,
    real_XS: Tensor,
    *rows: Tensor,
    made: Made | None = None,
    others: int = 0,
) -> Tensor:
    """``plain_costs_of_products`` in parts; on CPU a version with three products for each score in place of four.

    Only the costs that are ``real_XS`` have a meaning and a gradient. ``made``: the gradient of ``cost``, written out.
    ``others``: how many numbers ``cost`` holds for each row, beside the scores of all items.
    """
    scores_per_row = len(vectors_MD) + others
    if not fast_on(states_XD) or torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
        return _in_parts(cost, scores_per_row, states_XD, vectors_MD, bias_M, real_XS, rows)
    real_X = real_XS.any(1)
    real = real_X.nonzero().squeeze(1)
    few = (part[real] for part in rows)
    costs: Tensor = _CostsOfProducts.apply(  # type: ignore[no-untyped-call]
        cost, made, scores_per_row, states_XD[real], vectors_MD, bias_M, real_XS[real], *few
    )
    return spread(costs, real, real_X)


def plain_costs_of_products(
    cost: Cost, states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, *rows: Tensor
) -> Tensor:
    return cost(linear(states_XD, vectors_MD, bias_M), *rows)


def _in_parts(
    cost: Cost,
    scores_per_row: int,
    states_XD: Tensor,
    vectors_MD: Tensor,
    bias_M: Tensor | None,
    real_XS: Tensor,
    rows: tuple[Tensor, ...],
) -> Tensor:
    def of_part(states: Tensor, *rows: Tensor) -> Tensor:
        return plain_costs_of_products(cost, states, vectors_MD, bias_M, *rows)

    return in_parts(of_part, scores_per_row, real_XS.any(1), states_XD, *rows)


def _by_autograd(cost: Cost, scores_XM: Tensor, real_XS: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        costs_XS = cost(scores_XM.requires_grad_(), *rows)
        (to_scores_XM,) = torch.autograd.grad(costs_XS.where(real_XS, 0.0).sum(), scores_XM)
    return costs_XS.detach(), to_scores_XM


class _CostsOfProducts(torch.autograd.Function):
    """The gradient of the sum of all real costs is made while the scores are at hand.

    A loss that weighs these costs alike only scales it; for another loss the plain version computes it anew.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cost: Cost,
        made: Made | None,
        scores_per_row: int,
        states_XD: Tensor,
        vectors_MD: Tensor,
        bias_M: Tensor | None,
        real_XS: Tensor,
        *rows: Tensor,
    ) -> Tensor:
        to_vectors_MD, to_states, costs = torch.zeros_like(vectors_MD), [], []
        to_bias_M = None if bias_M is None else torch.zeros_like(bias_M)
        size = part_size(states_XD, scores_per_row)
        for states, *few in zip(*(part.split(size) for part in (states_XD, real_XS, *rows)), strict=True):
            scores = linear(states, vectors_MD, bias_M)
            costs_of_part, to_scores = _by_autograd(cost, scores, *few) if made is None else made(scores, *few)
            costs.append(costs_of_part)
            to_states.append(to_scores @ vectors_MD)
            to_vectors_MD.addmm_(to_scores.T, states)
            if to_bias_M is not None:
                to_bias_M += to_scores.sum(0)
        ctx.cost, ctx.scores_per_row = cost, scores_per_row
        gradients = torch.cat(to_states), to_vectors_MD, to_bias_M
        ctx.save_for_backward(states_XD, vectors_MD, bias_M, *gradients, real_XS, *rows)
        return torch.cat(costs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_XS: Tensor) -> tuple[Tensor | None, ...]:
        states_XD, vectors_MD, bias_M, *gradients = ctx.saved_tensors[:6]
        real_XS, *rows = ctx.saved_tensors[6:]
        scale = gradient_XS[real_XS][:1].sum()  # 0 if no cost is real
        if torch.equal(gradient_XS, real_XS * scale):
            found = [None if part is None else part * scale for part in gradients]
        else:
            states_XD, vectors_MD = states_XD.detach().requires_grad_(), vectors_MD.detach().requires_grad_()
            bias_M = None if bias_M is None else bias_M.detach().requires_grad_()
            with torch.enable_grad():
                costs_XS = _in_parts(ctx.cost, ctx.scores_per_row, states_XD, vectors_MD, bias_M, real_XS, tuple(rows))
            learned = [part for part in (states_XD, vectors_MD, bias_M) if part is not None]
            found = [*torch.autograd.grad(costs_XS, learned, gradient_XS), *[None] * (3 - len(learned))]
        return None, None, None, *found, *[None] * (1 + len(rows))
