"""FPMC: factorised personalised Markov chains (Rendle, Freudenthaler and Schmidt-Thieme, WWW 2010)."""

from typing import final

import torch
from torch import Tensor

from sairlib.batch import PAD, History
from sairlib.models.recommender import Head, Products, StepModel
from sairlib.nn.layers import Table, UserTable


@final
class FPMC(StepModel):
    """s(u, l, i) = <U_u, IU_i> + <L_l, IL_i>, l the newest item: what the user likes, and what follows l.

    The state is [U_u; L_l] and an item's vector is [IU_i; IL_i], so one matrix product scores all items.
    ``user_factors=False`` is FMC, <L_l, IL_i> alone, without users. With user factors, evaluation raises a UserError
    for a user that the model was not trained on.

    Deviations from the paper:

    1. Baskets hold one item, so the paper's average over the last basket is that item's vector.
    2. Negatives of S-BPR are drawn outside all of the user's training items; the paper draws them outside the basket.
    3. Its L2 penalties lambda are one ``training.weight_decay``, on all rows at every step. A step is a mini-batch of
       users, with Adam; the paper draws single transitions, with plain SGD.
    4. Factors start Xavier-uniform.
    """

    memory = 1

    def __init__(self, n_items: int, n_users: int, d: int = 50, user_factors: bool = True) -> None:
        super().__init__()
        self.n_items = n_items
        self.user_factors = UserTable(n_users, d) if user_factors else None
        self.last_factors = Table(n_items + 1, d, padding_idx=PAD)
        self.item_factors = Table(n_items + 1, 2 * d if user_factors else d, padding_idx=PAD)

    def encode(self, history: History) -> Tensor:
        last_BND: Tensor = self.last_factors(history.items_BN)
        if self.user_factors is None:
            return last_BND
        return torch.cat([self.user_factors(history.users_B)[:, None].expand_as(last_BND), last_BND], -1)

    @property
    def head(self) -> Head:
        return Products(self.item_factors.of)
