"""BPR-max: the cost of a target against the strongest of its negatives."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import log_softmax, logsigmoid

from sairlib.nn.kernels.switch import fast_on

SMALL = 1e-30
"""Below it the fast version's sums may have lost digits."""


def bpr_max(scores: Tensor, counts: Tensor, regularisation: float) -> Tensor:
    """-log sum w- sigmoid(s+ - s-) + r sum w- s-^2 (...), w- the softmax of the negatives, r the ``regularisation``.

    s+ is column 0 of ``scores`` (..., 1 + C), s- are the others. ``counts``, of the same shape: which negatives count.
    Without any the cost is 0.
    """
    if not fast_on(scores) or not torch.is_grad_enabled():
        return plain_bpr_max(scores, counts, regularisation)
    costs: Tensor = _BPRMax.apply(scores, counts, regularisation)  # type: ignore[no-untyped-call]
    return costs


def plain_bpr_max(scores: Tensor, counts: Tensor, regularisation: float) -> Tensor:
    log_weights, none = weights_of_negatives(scores, counts)
    log_likelihood = torch.logsumexp(log_weights + logsigmoid(scores[..., :1] - scores[..., 1:]), -1)
    penalty = (log_weights.exp() * scores[..., 1:].square()).sum(-1)
    return (regularisation * penalty - log_likelihood).masked_fill(none, 0.0)


def weights_of_negatives(scores: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms (..., C) of the softmax of the negatives that count, and where there are none (...)."""
    none = ~counts[..., 1:].any(-1, keepdim=True)  # without negatives that count, all weigh the same: finite
    negatives = scores[..., 1:].masked_fill(~(counts[..., 1:] | none), -torch.inf)
    return log_softmax(negatives, -1), none[..., 0]


class _BPRMax(torch.autograd.Function):
    """Its gradient is made beside the cost, from the same parts: on CPU less than half of the time.

    With p- = sigmoid(s+ - s-), A = sum w- p-, P = sum w- s-^2: the cost -log A + r P has the gradients
    w- (1 - p-^2 / A + r (s-^2 + 2 s- - P)) for s-, and sum w- p-^2 / A - 1 for s+.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, counts: Tensor, regularisation: float) -> Tensor:
        target, negatives = scores[..., :1], scores[..., 1:]
        weights = negatives.masked_fill(~counts[..., 1:], -torch.inf).softmax(-1)
        chances = (target - negatives).sigmoid_()
        product = weights * chances
        likelihood = product.sum(-1, keepdim=True)
        product *= chances
        penalised = (weights * negatives).mul_(regularisation)
        penalty = (penalised * negatives).sum(-1, keepdim=True)
        to_scores = torch.empty_like(scores)
        to_scores[..., :1] = product.sum(-1, keepdim=True) / likelihood - 1
        to_negatives = penalised.mul_(negatives + 2).addcmul_(weights, 1 - penalty)
        torch.addcmul(to_negatives, product, -likelihood.reciprocal(), out=to_scores[..., 1:])
        costs = (penalty - likelihood.log())[..., 0]
        exact = ~(likelihood[..., 0] >= SMALL)  # also where no negative counts
        if exact.any():
            with torch.enable_grad():
                few = scores[exact].detach().requires_grad_()
                costs_of_few = plain_bpr_max(few, counts[exact], regularisation)
                (to_scores[exact],) = torch.autograd.grad(costs_of_few.sum(), few)
            costs[exact] = costs_of_few.detach()
        ctx.save_for_backward(to_scores)
        return costs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (to_scores,) = ctx.saved_tensors
        return to_scores * gradient[..., None], None, None
