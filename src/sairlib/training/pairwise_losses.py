"""Losses that compare a target with each negative: BPR, BPR-max, TOP1, TOP1-max, hinge."""

from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.nn.functional import softplus

from sairlib.nn.kernels.bpr_max import bpr_max, weights_of_negatives
from sairlib.training.losses import DrawnLoss, sum_over_negatives


@final
@dataclass(frozen=True)
class BPR(DrawnLoss):
    """-log sigmoid(s+ - s-), averaged over the negatives (Rendle et al., 2009)."""

    name = "bpr"

    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        costs = softplus(scores[..., 1:] - scores[..., :1])
        return sum_over_negatives(costs, counts) / counts[..., 1:].sum(-1).clamp_min(1)


@final
@dataclass(frozen=True)
class BPRMax(DrawnLoss):
    """-log sum w- sigmoid(s+ - s-) + r sum w- s-^2, w- the softmax of the negatives (Hidasi and Karatzoglou, 2018).

    ``regularisation`` is r.
    """

    name = "bpr_max"
    regularisation: float = 1.0

    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        return bpr_max(scores, counts, self.regularisation)


@final
@dataclass(frozen=True)
class TOP1(DrawnLoss):
    """sigmoid(s- - s+) + sigmoid(s-^2), averaged over the negatives (Hidasi et al., 2016).

    The second term draws the scores of negatives to 0. The authors' code averages over the target as well, and then
    subtracts its second term.
    """

    name = "top1"

    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        return sum_over_negatives(top1_costs(scores), counts) / counts[..., 1:].sum(-1).clamp_min(1)


@final
@dataclass(frozen=True)
class TOP1Max(DrawnLoss):
    """sum w- (sigmoid(s- - s+) + sigmoid(s-^2)), w- the softmax of the negatives (Hidasi and Karatzoglou, 2018)."""

    name = "top1_max"

    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        log_weights, none = weights_of_negatives(scores, counts)
        return (log_weights.exp() * top1_costs(scores)).sum(-1).masked_fill(none, 0.0)


def top1_costs(scores: Tensor) -> Tensor:
    """sigmoid(s- - s+) + sigmoid(s-^2) of each negative (..., C)."""
    return (scores[..., 1:] - scores[..., :1]).sigmoid() + scores[..., 1:].square().sigmoid()


@final
@dataclass(frozen=True)
class Hinge(DrawnLoss):
    """Sum over negatives of max(0, margin + s- - s+) (AttRec, eq. 13, where s is a negated distance)."""

    name = "hinge"
    margin: float = 0.5

    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        return sum_over_negatives((self.margin + scores[..., 1:] - scores[..., :1]).clamp_min(0), counts)
