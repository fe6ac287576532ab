"""PopRec: ranks items by popularity, the same for all users."""

from typing import final

import torch
from torch import Tensor

from sairlib.batch import History
from sairlib.models.recommender import Head, Products, StepModel


@final
class PopRec(StepModel):
    """The score of an item is how often it occurs in the training part of the data. Nothing is learned.

    Counts come from ``prepare`` and are part of the ``state_dict``. They cover only the training part. The popularity
    baselines of some papers also count held-out items, and get higher figures.
    """

    counts_M: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.register_buffer("counts_M", torch.zeros(n_items + 1))

    def prepare(self, counts_M: Tensor, history: History) -> None:
        self.counts_M.copy_(counts_M)

    def encode(self, history: History) -> Tensor:
        """1 at every step; the head multiplies it by the counts."""
        return self.counts_M.new_ones(*history.items_BN.shape, 1)

    @property
    def head(self) -> Head:
        return Products(lambda items: (self.counts_M if items is None else self.counts_M[items])[..., None])
