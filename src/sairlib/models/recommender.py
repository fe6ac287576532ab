"""The one abstract class: what the objective, the evaluator and the trainer ask of every model."""

from abc import ABC

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sairlib.batch import newest
from sairlib.nn.table import Table


class Recommender(nn.Module, ABC):
    """A sequence in, a state at every step out, and a score of any item against any state.

    Models are final: a variant is an argument or a part handed in, not a subclass.

    ``every_step``: True if the state at t is a function of the items up to t alone, so that every step may be
    trained; then ``encode`` is there. A model that sees the whole sequence has ``encode_newest``; if it fills in hidden
    items (``mask_item``, the number that hides one), its ``encode`` gives the state at each of them.
    ``uses_users``: True if the model knows users by number. ``log_odds``: whether scores may be read as such; negated
    distances, never above 0, may not.
    """

    every_step: bool
    uses_users: bool = False
    log_odds: bool = True
    mask_item: int | None = None
    n_items: int

    def encode(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        """States (B, N, D) of right-padded sequences; what stands at padding is not looked at."""
        raise NotImplementedError(f"{type(self).__name__} gives one state for a whole sequence")

    def item_vectors(self, items: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What a state is multiplied with to score ``items``: vectors (*items.shape, D), and biases (*items.shape) if
        the model has them; those of all items, (M + 1, D) and (M + 1), where ``items`` is None.

        A model that scores otherwise has the three methods below of its own.
        """
        raise NotImplementedError(f"{type(self).__name__} says not how it scores")

    @property
    def by_products(self) -> bool:
        """Whether it scores by ``item_vectors``."""
        return type(self).score_all is Recommender.score_all

    def score(self, states: Tensor, items: Tensor) -> Tensor:
        """Scores (..., C) of ``items`` (..., C) against ``states`` (..., D), higher is better."""
        vectors, bias = self.item_vectors(items)
        scores = inner_products(states, vectors)
        return scores if bias is None else scores + bias

    def score_shared(self, states: Tensor, items_C: Tensor) -> Tensor:
        """Scores (..., C) of the same items against every state (..., D)."""
        return linear(states, *self.item_vectors(items_C))

    def score_all(self, states_BD: Tensor) -> Tensor:
        """Scores (B, M + 1) of every item; column 0 is PAD's and means nothing."""
        return linear(states_BD, *self.item_vectors(None))

    def encode_newest(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        """The state (B, D) that predicts what comes after each sequence; finite for an empty one.

        A model that gets there without computing the other steps says so by a version of its own.
        """
        return newest(self.encode(items_BN, users_B), items_BN)

    def prepare(self, counts_M: Tensor) -> None:
        """What is known before training: how often each item occurs in the training part (M + 1)."""

    def after_step(self) -> None:
        """Called after every step of the optimiser: where weights are held to a ball, say."""

    def row_tables(self) -> list[Table]:
        """Tables that training reads by rows alone, never whole: where a batch touches few of their rows, the trainer
        leaves the others alone."""
        return []

    def regularisers(self) -> dict[str, Tensor]:
        """Named, already weighted scalars to be added to the loss."""
        return {}

    @torch.no_grad()
    def diagnose(self, items_BN: Tensor, users_B: Tensor) -> dict[str, Tensor]:
        """Named figures worth plotting about these sequences, scalars or vectors, averaged over the batch."""
        return {}

    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


def inner_products(states: Tensor, vectors: Tensor) -> Tensor:
    """(..., C) from states (..., D) and vectors (..., C, D)."""
    return (states.unsqueeze(-2) * vectors).sum(-1)
