"""PopRec: items in the order of how often they were taken, whoever asks."""

from typing import final

import torch
from torch import Tensor

from sairlib.models.recommender import Recommender


@final
class PopRec(Recommender):
    """The score of an item is how often it occurs in the training part of the data; nothing is learnt.

    Counts come from ``prepare`` and stand in the ``state_dict``: a checkpoint carries them. They are of the training
    part alone. The popularity rows of some papers count held-out items too, and come out higher.
    """

    every_step = True
    counts_M: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.register_buffer("counts_M", torch.zeros(n_items + 1))

    def prepare(self, counts_M: Tensor) -> None:
        self.counts_M.copy_(counts_M)

    def encode(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        """1 at every step: what is multiplied with an item's count."""
        return self.counts_M.new_ones(*items_BN.shape, 1)

    def encode_newest(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        return self.counts_M.new_ones(len(items_BN), 1)

    def item_vectors(self, items: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return (self.counts_M if items is None else self.counts_M[items])[..., None], None
