"""The cost of softmax over all items, for scores that are products of states and item vectors."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from sairlib.batch import PAD
from sairlib.nn.kernels.parts import in_parts, part_size, spread
from sairlib.nn.kernels.switch import fast_on


def softmax(scores_XM: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log of the targets' softmax among all items (X, S), from scores (X, M + 1), whose column PAD is ignored.

    ``smoothing``: the share of that weight which goes to all items alike. The value for a PAD target is not meaningful.
    """
    log_chances_XM = log_softmax(scores_XM[:, 1:].float(), -1)
    costs_XS = -log_chances_XM.gather(1, (targets - 1).clamp_min(0))
    return costs_XS if not smoothing else costs_XS.lerp(-log_chances_XM.mean(-1, keepdim=True), smoothing)


def softmax_of_products(
    states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor, real_X: Tensor
) -> Tensor:
    """``plain_softmax_of_products`` with ``in_parts``; on CPU a version that takes two thirds of the time."""
    if not fast_on(states_XD) or torch.is_autocast_enabled("cpu"):

        def cost(states: Tensor, targets: Tensor) -> Tensor:
            return plain_softmax_of_products(states, vectors_MD, bias_M, targets)

        return in_parts(cost, len(vectors_MD), real_X, states_XD, targets_XS)
    real = real_X.nonzero().squeeze(1)
    costs: Tensor = _SoftmaxOfProducts.apply(states_XD[real], vectors_MD, bias_M, targets_XS[real])  # type: ignore[no-untyped-call]
    return spread(costs, real, real_X)


def plain_softmax_of_products(
    states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor
) -> Tensor:
    return softmax(linear(states_XD, vectors_MD, bias_M), targets_XS)


class _SoftmaxOfProducts(torch.autograd.Function):
    """The gradient of the cost is the softmax minus 1 at the target. By hand, it needs few passes over scores."""

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
        parts = (tensor.split(ctx.size) for tensor in (states_XD, *others, gradient_XS))
        for states, targets, log_sums, gradient in zip(*parts, strict=True):
            to_scores = linear(states, vectors_MD, bias_M).sub_(log_sums).exp_()
            to_scores[:, PAD] = 0
            to_scores.mul_(gradient.sum(1, keepdim=True)).scatter_add_(1, targets, -gradient)
            to_states.append(to_scores @ vectors_MD)
            to_vectors_MD.addmm_(to_scores.T, states)
            if to_bias_M is not None:
                to_bias_M += to_scores.sum(0)
        return torch.cat(to_states), to_vectors_MD, to_bias_M, None
