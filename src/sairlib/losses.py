"""Losses: pure functions of scores, one number for each positive.

``softmax`` sees the scores of every item. All others see those of a positive (column 0) and its negatives, ``scores``
(..., 1 + C), and say of each positive what it costs (...). ``counts``, of the same shape, is True where a score counts:
not for PAD, nor for a negative that is the positive itself. ``log_expected`` (broadcast to (..., C)) is the logarithm
of how often a negative like this one is expected among the C that were drawn; only losses that stand in for the whole
catalogue use it. What a positive that does not count costs means nothing; whoever adds up leaves it out.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, softplus

from sairlib.nn.kernels.softmax import softmax as softmax  # a loss like the others, and a kernel's plain version


def bce(scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
    """-log sigmoid(s+) - sum over negatives of log(1 - sigmoid(s-)) (SASRec, section III-E; SAIR, eq. 12)."""
    return softplus(-scores[..., 0]) + _sum(softplus(scores[..., 1:]), counts)


def gbce(scores: Tensor, counts: Tensor, log_expected: Tensor, t: float = 0.75) -> Tensor:
    """-beta log sigmoid(s+) - sum of log(1 - sigmoid(s-)), beta = a (t (1 - 1/a) + 1/a) (Petrov and Macdonald, 2023).

    a is the share of the negatives that is drawn; t = 0 is BCE, t = 1 undoes the overconfidence whole.
    """
    share = log_expected.exp()
    beta = (share * (t * (1 - 1 / share) + 1 / share)).expand_as(scores[..., 1:])[..., 0]
    return beta * softplus(-scores[..., 0]) + _sum(softplus(scores[..., 1:]), counts)


def bpr(scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
    """-log sigmoid(s+ - s-), the mean over the negatives (Rendle et al., 2009)."""
    each = softplus(scores[..., 1:] - scores[..., :1])
    return _sum(each, counts) / counts[..., 1:].sum(-1).clamp_min(1)


def bpr_max(scores: Tensor, counts: Tensor, log_expected: Tensor, regularisation: float = 1.0) -> Tensor:
    """-log sum w- sigmoid(s+ - s-) + r sum w- s-^2, w- the softmax of the negatives (Hidasi and Karatzoglou, 2018)."""
    none = ~counts[..., 1:].any(-1, keepdim=True)
    negatives = scores[..., 1:].masked_fill(~(counts[..., 1:] | none), -torch.inf)
    log_weights = log_softmax(negatives, -1)
    log_likelihood = torch.logsumexp(log_weights + logsigmoid(scores[..., :1] - scores[..., 1:]), -1)
    penalty = (log_weights.exp() * scores[..., 1:].square()).sum(-1)
    return (regularisation * penalty - log_likelihood).masked_fill(none[..., 0], 0.0)


def hinge(scores: Tensor, counts: Tensor, log_expected: Tensor, margin: float = 0.5) -> Tensor:
    """Sum over negatives of max(0, margin + s- - s+) (AttRec, eq. 13, where s is a negated distance)."""
    return _sum((margin + scores[..., 1:] - scores[..., :1]).clamp_min(0), counts)


def sampled_softmax(scores: Tensor, counts: Tensor, log_expected: Tensor, logq: bool = True) -> Tensor:
    """-log of the positive's softmax among the drawn.

    ``logq`` takes log(its expected count) from a negative's score: the sum is then the whole catalogue's in expectation
    (Bengio and Senecal, 2008).
    """
    negatives = scores[..., 1:] - log_expected if logq else scores[..., 1:]
    negatives = negatives.masked_fill(~counts[..., 1:], -torch.inf)
    return torch.logsumexp(torch.cat([scores[..., :1], negatives], -1), -1) - scores[..., 0]


def _sum(each: Tensor, counts: Tensor) -> Tensor:
    return each.where(counts[..., 1:], 0.0).sum(-1)
