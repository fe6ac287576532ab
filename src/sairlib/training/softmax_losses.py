"""Cross-entropy: the softmax over all items, or over drawn ones."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sairlib.batch import PAD, Negatives, State, as_rows, like
from sairlib.errors import UserError
from sairlib.models.recommender import Products, Recommender
from sairlib.nn.kernels.parts import in_parts
from sairlib.nn.kernels.softmax import softmax, softmax_of_products
from sairlib.training.losses import DrawnLoss, Loss
from sairlib.training.negatives import Sampler


@final
@dataclass(frozen=True)
class SampledSoftmax(DrawnLoss):
    """-log of the target's softmax among itself and its negatives.

    ``logq`` subtracts log(expected count) from each negative's score (Bengio and Senecal, 2008). The softmax's
    denominator then estimates the sum over all items that can be drawn: the whole catalogue for ``negatives=shared`` or
    ``popular``; for ``uniform``, the target and the items that the user has not had in training.
    """

    name = "sampled_softmax"
    logq: bool = True

    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        negatives = scores[..., 1:] - log_expected if self.logq else scores[..., 1:]
        negatives = negatives.masked_fill(~counts[..., 1:], -torch.inf)
        return torch.logsumexp(torch.cat([scores[..., :1], negatives], -1), -1) - scores[..., 0]


@final
@dataclass(frozen=True)
class Softmax(Loss):
    """-log of the target's softmax among all items (cross-entropy)."""

    name = "softmax"

    def check(self, model: Recommender, sampler: Sampler | None) -> None:
        if sampler is not None:
            raise UserError("loss=softmax is over all items and draws no negatives: choose negatives=none")

    def each(self, model: Recommender, states: State, targets_XS: Tensor, negatives: Negatives | None) -> Tensor:
        real_XS, head = targets_XS != PAD, model.head

        def with_all(targets_XS: Tensor, *rows: Tensor) -> Tensor:
            return softmax(head.score_all(like(states, rows)), targets_XS)

        if isinstance(head, Products) and isinstance(states, Tensor):
            costs_XS = softmax_of_products(states, *head.of(None), targets_XS, real_XS.any(-1))
        else:
            costs_XS = in_parts(with_all, model.n_items + 1, real_XS.any(-1), targets_XS, *as_rows(states))
        return costs_XS.where(real_XS, 0.0)
