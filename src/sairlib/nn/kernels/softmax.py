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
    precision = torch.promote_types(scores_XM.dtype, torch.float32)  # bfloat16 would be too coarse
    log_chances_XM = log_softmax(scores_XM[:, 1:], -1, dtype=precision)
    costs_XS = -log_chances_XM.gather(1, (targets - 1).clamp_min(0))
    return costs_XS if not smoothing else costs_XS.lerp(-log_chances_XM.mean(-1, keepdim=True), smoothing)


def softmax_of_products(
    states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor, real_X: Tensor
) -> Tensor:
    """``plain_softmax_of_products`` with ``in_parts``; on CPU a version that takes less than half of the time."""
    if not fast_on(states_XD) or torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
        return _plain_in_parts(states_XD, vectors_MD, bias_M, targets_XS, real_X)
    real = real_X.nonzero().squeeze(1)
    costs: Tensor = _SoftmaxOfProducts.apply(states_XD[real], vectors_MD, bias_M, targets_XS[real])  # type: ignore[no-untyped-call]
    return spread(costs, real, real_X)


def plain_softmax_of_products(
    states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor
) -> Tensor:
    return softmax(linear(states_XD, vectors_MD, bias_M), targets_XS)


def _plain_in_parts(
    states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor, real_X: Tensor
) -> Tensor:
    def cost(states: Tensor, targets: Tensor) -> Tensor:
        return plain_softmax_of_products(states, vectors_MD, bias_M, targets)

    return in_parts(cost, len(vectors_MD), real_X, states_XD, targets_XS)


class _SoftmaxOfProducts(torch.autograd.Function):
    """The gradient of the cost is the softmax minus 1 at the target, and is made while the scores are at hand.

    What is made is the gradient of the sum of all costs whose target is not PAD. A loss that weighs these alike only
    scales it; for another loss the plain version computes it anew.
    """

    @staticmethod
    def forward(ctx: Any, states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor) -> Tensor:
        items_MD, bias = vectors_MD[PAD + 1 :], None if bias_M is None else bias_M[PAD + 1 :]
        to_vectors_MD, to_states, costs = torch.zeros_like(vectors_MD), [], []
        to_bias_M = None if bias_M is None else torch.zeros_like(bias_M)
        size, real_XS = part_size(states_XD, len(vectors_MD)), (targets_XS != PAD).to(states_XD.dtype)
        parts = (tensor.split(size) for tensor in (states_XD, (targets_XS - 1).clamp_min(0), real_XS))
        for states, targets, real in zip(*parts, strict=True):
            scores = linear(states, items_MD, bias)
            chances = scores.softmax(1)
            costs.append(_costs(scores, chances, targets))
            if targets.shape[1] > 1:
                chances.mul_(real.sum(1, keepdim=True))
            to_scores = chances.scatter_add_(1, targets, -real)
            to_states.append(to_scores @ items_MD)
            to_vectors_MD[PAD + 1 :].addmm_(to_scores.T, states)
            if to_bias_M is not None:
                to_bias_M[PAD + 1 :] += to_scores.sum(0)
        made = (torch.cat(to_states), to_vectors_MD, to_bias_M)
        ctx.save_for_backward(states_XD, vectors_MD, bias_M, targets_XS, *made)
        return torch.cat(costs)

    @staticmethod
    def backward(ctx: Any, gradient_XS: Tensor) -> tuple[Tensor | None, ...]:
        states_XD, vectors_MD, bias_M, targets_XS, *made = ctx.saved_tensors
        real_XS = targets_XS != PAD
        scale = gradient_XS[real_XS][:1].sum()  # 0 if no target is real
        if torch.equal(gradient_XS, real_XS * scale):
            return *(None if part is None else part * scale for part in made), None
        with torch.enable_grad():
            states_XD, vectors_MD = states_XD.detach().requires_grad_(), vectors_MD.detach().requires_grad_()
            bias_M = None if bias_M is None else bias_M.detach().requires_grad_()
            costs_XS = _plain_in_parts(states_XD, vectors_MD, bias_M, targets_XS, real_XS.any(1))
        learned = [part for part in (states_XD, vectors_MD, bias_M) if part is not None]
        gradients = torch.autograd.grad(costs_XS, learned, gradient_XS)
        return *gradients, *[None] * (4 - len(gradients))


def _costs(scores: Tensor, chances: Tensor, targets: Tensor) -> Tensor:
    """-log of the targets' chances (X, S), from the scores where a chance is too small for a number."""
    chosen = chances.gather(1, targets)
    costs = -chosen.log()
    small = (chosen < torch.finfo(chances.dtype).tiny).any(1)
    if small.any():
        costs[small] = scores[small].logsumexp(1, keepdim=True) - scores[small].gather(1, targets[small])
    return costs
