"""Cross-entropy: the softmax over all items, or over drawn ones."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import linear

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
    """-log of the target's softmax among all items (cross-entropy).

    ``label_smoothing``: the share of the target's weight that is spread over all items alike (Szegedy et al., 2016).
    """

    name = "softmax"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"loss.label_smoothing={self.label_smoothing}: must be in [0, 1)")

    def check(self, model: Recommender, sampler: Sampler | None) -> None:
        if sampler is not None:
            raise UserError("loss=softmax is over all items and draws no negatives: choose negatives=none")

    def each(self, model: Recommender, states: State, targets_XS: Tensor, negatives: Negatives | None) -> Tensor:
        real_XS, head = targets_XS != PAD, model.head

        def with_all(targets_XS: Tensor, *rows: Tensor) -> Tensor:
            return softmax(head.score_all(like(states, rows))[:, 1:], targets_XS, self.label_smoothing)

        if isinstance(head, Products) and isinstance(states, Tensor):
            vectors_MD, bias_M = head.of(None)
            costs_XS = softmax_of_products(states, vectors_MD, bias_M, targets_XS)
            if self.label_smoothing:  # beside the fast way: the mean of all scores is the score of the mean vector
                mean_1D = vectors_MD[1:].mean(0, keepdim=True)
                means_X1 = linear(states, mean_1D, None if bias_M is None else bias_M[1:].mean().reshape(1))
                costs_XS = costs_XS + self.label_smoothing * (head.score(states, targets_XS) - means_X1)
        else:
            costs_XS = in_parts(with_all, model.n_items + 1, real_XS.any(-1), targets_XS, *as_rows(states))
        return costs_XS.where(real_XS, 0.0)
