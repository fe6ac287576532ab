"""Attention of one query to every prefix of a sequence: softmax means that grow by one step at a time."""

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 32
"""Steps that are related to one another as a square; longer prefixes are made of means of whole blocks."""


def running_softmax(logits_BN: Tensor, values_BND: Tensor) -> Tensor:
    """At every step t the mean of the values of steps 0 .. t, weighted by the softmax of their logits (B, N, D).

    Exact for logits of any size: a weight is never the quotient of two sums of exponentials, but the exponential of a
    difference of their logarithms. Takes N BLOCK numbers in memory, not N^2, and no running sum over all steps, for
    which CUDA has no deterministic kernel. Logits must be finite.
    """
    n_steps, dtype = logits_BN.shape[1], values_BND.dtype
    missing = -n_steps % BLOCK  # steps added on the right, which no step before them sees
    logits_BKT = pad(logits_BN.to(dtype), (0, missing)).unflatten(1, (-1, BLOCK))
    values_BKTD = pad(values_BND, (0, 0, 0, missing)).unflatten(1, (-1, BLOCK))
    later_TT = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=logits_BN.device).triu(1)
    logits_BKTT = logits_BKT[:, :, None].masked_fill(later_TT, -torch.inf)
    own = logits_BKTT.logsumexp(-1), (logits_BKTT.softmax(-1) @ values_BKTD).to(dtype)
    before = _up_to_each(own[0][:, :, -1], own[1][:, :, -1])
    _, means_BKTD = _joined(own, (_later(before[0], 1, -torch.inf)[..., None], _later(before[1], 1, 0.0)[:, :, None]))
    return means_BKTD.flatten(1, 2)[:, :n_steps]


def _up_to_each(sums_BK: Tensor, means_BKD: Tensor) -> tuple[Tensor, Tensor]:
    """From each block's log-sum and mean to those of all blocks up to it; the span doubles each time."""
    span = 1
    while span < sums_BK.shape[1]:
        earlier = _later(sums_BK, span, -torch.inf), _later(means_BKD, span, 0.0)
        sums_BK, means_BKD = _joined((sums_BK, means_BKD), earlier)
        span *= 2
    return sums_BK, means_BKD


def _joined(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The log-sum (...) and the mean (..., D) of two groups; ``other`` may be empty, with a log-sum of -inf."""
    sums = torch.logaddexp(one[0], other[0])
    return sums, torch.lerp(other[1].expand_as(one[1]), one[1], (one[0] - sums).exp()[..., None])


def _later(x: Tensor, steps: int, fill: float) -> Tensor:
    """``x`` (B, K, ...) moved right along K, with ``fill`` at the first ``steps`` places."""
    return torch.cat([torch.full_like(x[:, :steps], fill), x[:, : x.shape[1] - steps]], 1)
