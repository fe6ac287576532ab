"""gBCE: BCE that corrects for how few negatives are drawn."""

from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.nn.functional import softplus

from sairlib.errors import UserError
from sairlib.models.recommender import Recommender
from sairlib.training.losses import DrawnLoss, sum_over_negatives
from sairlib.training.negatives import Sampler
from sairlib.training.shared_negatives import Popular


@final
@dataclass(frozen=True)
class GBCE(DrawnLoss):
    """-beta log sigmoid(s+) - sum of log(1 - sigmoid(s-)), beta = a (t (1 - 1/a) + 1/a) (Petrov and Macdonald, 2023).

    a = k / (|I| - 1), with k negatives and ``n_items`` = |I|. t = 0 is BCE; t = 1 removes all overconfidence. Defined
    only for uniform negatives: beta corrects for their number, the same for every item. The paper divides all by k + 1.
    """

    name = "gbce"
    reads_log_odds = True
    n_items: int
    t: float = 0.75

    def check(self, model: Recommender, sampler: Sampler | None) -> None:
        super().check(model, sampler)
        if not 0 <= self.t <= 1:
            raise UserError(f"loss.t={self.t}: must be between 0 and 1")
        if isinstance(sampler, Popular):
            raise UserError("loss=gbce is defined only for uniform negatives: choose negatives=uniform or shared")
        if sampler is not None and sampler.n > self.n_items - 1:
            raise UserError(f"negatives.n={sampler.n}: loss=gbce takes at most the {self.n_items - 1} other items")

    def beta(self, n_negatives: int) -> float:
        """The exponent of the target's likelihood."""
        share = n_negatives / (self.n_items - 1)
        return share * (self.t * (1 - 1 / share) + 1 / share)

    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        beta = self.beta(scores.shape[-1] - 1)
        return beta * softplus(-scores[..., 0]) + sum_over_negatives(softplus(scores[..., 1:]), counts)
