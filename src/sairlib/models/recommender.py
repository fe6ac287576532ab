"""The one abstract class: what the objective, the evaluator and the trainer ask of every model."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sairlib.batch import newest
from sairlib.nn.table import Table


class Recommender(nn.Module, ABC):
    """A sequence in, a state at every step out, and a score of any item against any state.

    Models are final: a variant is an argument or a part handed in, not a subclass.

    ``every_step``: True if the state at t is a function of the items up to t alone, so that every step may be
    trained. ``uses_users``: True if the model knows users by number.
    """

    every_step: bool
    uses_users: bool = False
    n_items: int

    @abstractmethod
    def encode(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        """States (B, N, D) of right-padded sequences; what stands at padding is not looked at."""

    @abstractmethod
    def score(self, states: Tensor, items: Tensor) -> Tensor:
        """Scores (..., C) of ``items`` (..., C) against ``states`` (..., D), higher is better."""

    @abstractmethod
    def score_all(self, states_BD: Tensor) -> Tensor:
        """Scores (B, M + 1) of every item; column 0 is PAD's and means nothing."""

    def encode_newest(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        """The state (B, D) that predicts what comes after each sequence; finite for an empty one.

        A model that gets there without computing the other steps says so by a version of its own.
        """
        return newest(self.encode(items_BN, users_B), items_BN)

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
