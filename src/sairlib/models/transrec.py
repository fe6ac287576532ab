"""TransRec: translation-based recommendation (He, Kang and McAuley, RecSys 2017)."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sairlib.batch import PAD, History
from sairlib.errors import UserError
from sairlib.models.heads import DISTANCES, Distances
from sairlib.models.recommender import Head, StepModel
from sairlib.nn.layers import Table, UserTable


@final
class TransRec(StepModel):
    """s(u, l, j) = beta_j - d(gamma_l + T_u, gamma_j), T_u = t + t_u: user u moves from the newest item l to j.

    ``distance`` d is ``squared_l2`` or ``l1``, the paper's two variants. Every gamma stays in the unit ball: after each
    step it becomes gamma / max(1, ||gamma||). gamma and t start as random unit vectors, t_u and beta at 0.

    Deviations from the paper:

    1. UserError in evaluation for a user that the model was not trained on; the paper uses t_u = 0.
    2. Its regulariser is ``training.weight_decay``, L2 on all weights at every step. A step is a mini-batch of users,
       with Adam; the paper draws single transitions, with plain SGD.
    3. All gammas are limited after a step, not only those that were looked up, because Adam moves the others too.
    """

    memory = 1

    def __init__(self, n_items: int, n_users: int, d: int = 50, distance: str = "squared_l2") -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise UserError(f"distance={distance!r}: choose one of {', '.join(DISTANCES)}")
        self.n_items = n_items
        self.distance = distance
        self.item_points = Table(n_items + 1, d, padding_idx=PAD, whole=True)
        self.item_bias = Table(n_items + 1, 1, padding_idx=PAD)
        self.user_translations = UserTable(n_users, d)
        self.translation_D = nn.Parameter(normalize(torch.randn(d), dim=0))
        nn.init.zeros_(self.item_bias.weight)
        nn.init.zeros_(self.user_translations.weight)
        with torch.no_grad():
            self.item_points.weight[1:] = normalize(torch.randn(n_items, d))

    def encode(self, history: History) -> Tensor:
        moves_BD: Tensor = self.translation_D + self.user_translations(history.users_B)
        points_BND: Tensor = self.item_points(history.items_BN)
        return points_BND + moves_BD[:, None]

    @property
    def head(self) -> Head:
        return Distances(self.item_points.of, lambda items: self.item_bias.of(items).squeeze(-1), self.distance)

    @torch.no_grad()
    def after_step(self) -> None:
        points_MD = self.item_points.weight
        points_MD /= points_MD.norm(dim=1, keepdim=True).clamp_(min=1)
