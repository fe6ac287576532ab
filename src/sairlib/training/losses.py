"""Losses: the cost of each target, given its score and those of other items; BCE."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sairlib.batch import PAD, Negatives, State, as_rows, like
from sairlib.errors import UserError
from sairlib.models.recommender import Products, Recommender, one_tensor
from sairlib.nn.kernels.parts import in_parts
from sairlib.nn.kernels.products import costs_of_products
from sairlib.training.negatives import Sampler

ALL = 64
"""All items are scored, and the scores of own negatives are among theirs, if they are at most so many times as many.

An epoch in one product takes 0.3 of the time with 47 times as many (d 256), 0.8 with 93, 1.7 with 185 (d 64)."""


def scored_with_all(n_items: int, n_negatives: int) -> bool:
    """Whether one product with the vectors of all items is less work than to gather those of each target's negatives.

    ``training.optimisers.RowAdam`` cannot train a table that is used so.
    """
    return n_items <= ALL * n_negatives


class Loss(ABC):
    """The cost of each target. ``name``: its name in the configuration and in the log."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, model: Recommender, sampler: Sampler | None) -> None:
        """UserError if this loss is not defined for the model or the negatives."""

    @abstractmethod
    def each(self, model: Recommender, states: State, targets_XS: Tensor, negatives: Negatives | None) -> Tensor:
        """Costs (X, S) of targets, given states (X, ...); 0 where the target is PAD.

        ``negatives``: as in ``Batch``, with X in place of (B, N).
        """


class DrawnLoss(Loss):
    """Compares a target with drawn negatives. ``reads_log_odds``: whether the loss reads scores as log-odds."""

    reads_log_odds: ClassVar[bool] = False

    @abstractmethod
    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        """Costs (...) of targets, whose scores are column 0 of ``scores`` (..., 1 + C); the others are of negatives.

        ``counts`` (..., 1 + C) is True where a score counts: not for PAD, nor for a negative that equals the target.
        ``log_expected`` (broadcast to (..., C)) is as in ``Negatives``. The cost of a PAD target is not used.
        """

    def check(self, model: Recommender, sampler: Sampler | None) -> None:
        if self.reads_log_odds and not model.head.log_odds:
            raise UserError(
                f"loss={self.name} reads scores as log-odds, and those of {type(model).__name__} are never above 0:"
                " negated distances, or logarithms of chances; choose bpr, hinge, softmax or sampled_softmax"
            )

    def each(self, model: Recommender, states: State, targets_XS: Tensor, negatives: Negatives | None) -> Tensor:
        assert negatives is not None
        items_XSC, head = negatives.items_BNSC, model.head
        real_XS, scores_per_row = targets_XS != PAD, targets_XS.shape[1] * (1 + items_XSC.shape[-1])

        def with_own(candidates: Tensor, log_expected: Tensor, *rows: Tensor) -> Tensor:
            scores = head.score(like(states, rows), candidates.flatten(1)).view(candidates.shape)
            return self.cost(scores.float(), candidates != PAD, log_expected)

        def among_all(scores_XM: Tensor, candidates: Tensor, log_expected: Tensor) -> Tensor:
            scores = scores_XM.gather(1, candidates.flatten(1)).view(candidates.shape)
            return self.cost(scores.float(), candidates != PAD, log_expected)

        def with_shared(targets_XS: Tensor, *rows: Tensor) -> Tensor:
            target = head.score(like(states, rows), targets_XS)[..., None]
            shared = head.score_shared(like(states, rows), items_C)[:, None].expand(*targets_XS.shape, -1)
            counts = torch.cat([(targets_XS != PAD)[..., None], targets_XS[..., None] != items_C], -1)
            return self.cost(torch.cat([target, shared], -1).float(), counts, negatives.log_expected.flatten())

        if negatives.shared:
            items_C = items_XSC.flatten()
            costs_XS = in_parts(with_shared, scores_per_row, real_XS.any(-1), targets_XS, *as_rows(states))
        else:
            candidates = torch.cat([targets_XS[..., None], items_XSC], -1)
            own = candidates, negatives.log_expected.expand(*items_XSC.shape[:-1], -1)
            if isinstance(head, Products) and scored_with_all(model.n_items, items_XSC.shape[-1]):
                products = one_tensor(states), *head.of(None)
                costs_XS = costs_of_products(among_all, *products, real_XS, *own, others=scores_per_row)
            else:
                costs_XS = in_parts(with_own, scores_per_row, real_XS.any(-1), *own, *as_rows(states))
        return costs_XS.where(real_XS, 0.0)


@final
@dataclass(frozen=True)
class BCE(DrawnLoss):
    """-log sigmoid(s+) - sum over negatives of log(1 - sigmoid(s-)) (SASRec, section III-E; SAIR, eq. 12)."""

    name = "bce"
    reads_log_odds = True

    def cost(self, scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
        return softplus(-scores[..., 0]) + sum_over_negatives(softplus(scores[..., 1:]), counts)


def sum_over_negatives(costs: Tensor, counts: Tensor) -> Tensor:
    """Over the negatives that count."""
    return costs.where(counts[..., 1:], 0.0).sum(-1)
