"""Softmax over all items, of scores that are products of states and vectors."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from sairlib.batch import PAD
from sairlib.nn.kernels.parts import in_parts, part_size, spread
from sairlib.nn.kernels.switch import fast_on


def softmax(scores_XM: Tensor, targets: Tensor) -> Tensor:
    """-log of a target's softmax among all items, from scores (X, M + 1), of which column PAD means nothing.

    For targets (X, S), as many numbers; for PAD among them, anything.
    """
    log_chances_XM = log_softmax(scores_XM[:, 1:].float(), -1)
    return -log_chances_XM.gather(1, (targets - 1).clamp_min(0))


def softmax_of_products(
    states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor, asked_X: Tensor
) -> Tensor:
    """``in_parts`` of ``plain_softmax_of_products``; on CPU in two thirds of its time."""
    if not fast_on(states_XD) or torch.is_autocast_enabled("cpu"):

        def cost(states: Tensor, targets: Tensor) -> Tensor:
            return plain_softmax_of_products(states, vectors_MD, bias_M, targets)

        return in_parts(cost, len(vectors_MD), asked_X, states_XD, targets_XS)
    asked = asked_X.nonzero().squeeze(1)
    costs: Tensor = _SoftmaxOfProducts.apply(states_XD[asked], vectors_MD, bias_M, targets_XS[asked])  # type: ignore[no-untyped-call]
    return spread(costs, asked, asked_X)


def plain_softmax_of_products(
    states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor
) -> Tensor:
    return softmax(linear(states_XD, vectors_MD, bias_M), targets_XS)


class _SoftmaxOfProducts(torch.autograd.Function):
    """The gradient of a softmax is the softmax, less 1 at the target: written out, it takes few passes over scores."""

    @staticmethod
    def forward(ctx: Any, states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor) -> Tensor:
        ctx.size = part_size(states_XD, len(vectors_MD))
        costs, log_sums = [], []
        for states, targets in zip(states_XD.split(ctx.size), targets_XS.split(ctx.size), strict=True):
            scores = linear(states, vectors_MD, bias_M)
            log_sums.append(scores[:, 1:].logsumexp(1, keepdim=True))
            costs.append(log_sums[-1] - scores.gather(1, targets))
        ctx.save_for_backward(states_XD, vectors_MD, bias_M, targets_XS, torch.cat(log_sums))
        return torch.cat(costs)

    @staticmethod
    def backward(ctx: Any, gradient_XS: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        states_XD, vectors_MD, bias_M, *others = ctx.saved_tensors
        to_states, to_vectors_MD = [], torch.zeros_like(vectors_MD)
        to_bias_M = None if bias_M is None else torch.zeros_like(bias_M)
        parts = (each.split(ctx.size) for each in (states_XD, *others, gradient_XS))
        for states, targets, log_sums, gradient in zip(*parts, strict=True):
            to_scores = linear(states, vectors_MD, bias_M).sub_(log_sums).exp_()
            to_scores[:, PAD] = 0
            to_scores.mul_(gradient.sum(1, keepdim=True)).scatter_add_(1, targets, -gradient)
            to_states.append(to_scores @ vectors_MD)
            to_vectors_MD.addmm_(to_scores.T, states)
            if to_bias_M is not None:
                to_bias_M += to_scores.sum(0)
        return torch.cat(to_states), to_vectors_MD, to_bias_M, None
