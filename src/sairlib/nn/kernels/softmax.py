"""The cost of softmax over all items, for scores that are products of states and item vectors."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from sairlib.batch import PAD
from sairlib.nn.kernels.products import costs_of_products, plain_costs_of_products


def softmax(scores_XM: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log of the targets' softmax among all items (X, S), from scores (X, M), without PAD's.

    ``smoothing``: the share of that weight which goes to all items alike. The value for a PAD target is not meaningful.
    """
    precision = torch.promote_types(scores_XM.dtype, torch.float32)  # bfloat16 would be too coarse
    log_chances_XM = log_softmax(scores_XM, -1, dtype=precision)
    costs_XS = -log_chances_XM.gather(1, (targets - 1).clamp_min(0))
    return costs_XS if not smoothing else costs_XS.lerp(-log_chances_XM.mean(-1, keepdim=True), smoothing)


def softmax_of_products(states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor) -> Tensor:
    """``plain_softmax_of_products`` in parts; on CPU a version that takes less than half of the time.

    The gradient of the cost, softmax minus 1 at the target, is made in the place of the scores.
    """
    items = _without_pad(vectors_MD, bias_M)
    return costs_of_products(softmax, states_XD, *items, targets_XS != PAD, targets_XS, made=_made)


def plain_softmax_of_products(
    states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor
) -> Tensor:
    return plain_costs_of_products(softmax, states_XD, *_without_pad(vectors_MD, bias_M), targets_XS)


def _without_pad(vectors_MD: Tensor, bias_M: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return vectors_MD[PAD + 1 :], None if bias_M is None else bias_M[PAD + 1 :]


def _made(scores_XM: Tensor, real_XS: Tensor, targets_XS: Tensor) -> tuple[Tensor, Tensor]:
    chances, places = scores_XM.softmax(1), (targets_XS - 1).clamp_min(0)
    costs, real = _costs(scores_XM, chances, places), real_XS.to(chances.dtype)
    if places.shape[1] > 1:
        chances.mul_(real.sum(1, keepdim=True))
    return costs, chances.scatter_add_(1, places, -real)


def _costs(scores: Tensor, chances: Tensor, places: Tensor) -> Tensor:
    """-log of the targets' chances (X, S), from the scores where a chance is too small for a number."""
    chosen = chances.gather(1, places)
    costs = -chosen.log()
    small = (chosen < torch.finfo(chances.dtype).tiny).any(1)
    if small.any():
        costs[small] = scores[small].logsumexp(1, keepdim=True) - scores[small].gather(1, places[small])
    return costs
