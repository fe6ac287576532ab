"""A loss of one's own."""

from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.nn.functional import softplus

from sairlib.training.losses import DrawnLoss, sum_over_negatives


@final
@dataclass(frozen=True)
class Focal(DrawnLoss):
    """BCE in which what is right already counts less: each term times (the probability of being wrong) ^ gamma."""

    gamma: float = 1.0

    name = "focal"
    reads_log_odds = True

    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        targets, negatives = scores[..., 0], scores[..., 1:]
        of_targets = (-targets).sigmoid() ** self.gamma * softplus(-targets)
        of_negatives = negatives.sigmoid() ** self.gamma * softplus(negatives)
        return of_targets + sum_over_negatives(of_negatives, counts)
