"""A model of one's own."""

from typing import final

import torch
from torch import Tensor, nn

from sairlib.batch import PAD, History
from sairlib.models.recommender import Head, Products, StepModel
from sairlib.nn.layers import Table


@final
class Decay(StepModel):
    """e_t = sum over s <= t of a^(t - s) V_s, scored by <V_i, e_t>: what one did last counts most. a is learned."""

    def __init__(self, n_items: int, d: int = 64) -> None:
        super().__init__()
        self.n_items = n_items
        self.items = Table(n_items + 1, d, padding_idx=PAD)
        self.logit = nn.Parameter(torch.zeros(()))

    def encode(self, history: History) -> Tensor:
        vectors_BND = self.items(history.items_BN)
        steps_N = torch.arange(vectors_BND.shape[1], device=vectors_BND.device)
        ages_NN = (steps_N[:, None] - steps_N).clamp(min=0)
        weights_NN = (self.logit.sigmoid() ** ages_NN).tril()  # nothing from the future
        states_BND: Tensor = weights_NN @ vectors_BND
        return states_BND

    @property
    def head(self) -> Head:
        return Products(self.items.of)
