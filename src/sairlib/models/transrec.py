"""TransRec: translation-based recommendation (He, Kang and McAuley, RecSys 2017)."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sairlib.batch import PAD, tail
from sairlib.errors import UserError
from sairlib.models.recommender import Recommender
from sairlib.nn.kernels.distances import all_squared_distances, squared_distances
from sairlib.nn.table import Table, UserTable

DISTANCES = ("squared_l2", "l1")


@final
class TransRec(Recommender):
    """s(u, l, j) = beta_j - d(gamma_l + T_u, gamma_j), T_u = t + t_u: a user is a move from the newest item l to j.

    ``distance`` d is ``squared_l2`` or ``l1``, the paper's two variants. Every gamma stays in the unit ball: what a
    step has moved out of it is put back on its surface, gamma / max(1, ||gamma||). gamma and t start as random unit
    vectors, t_u and beta at 0.

    Deviations from the paper:

    1. A user the model was not trained on is a UserError; the paper takes t_u = 0 for one.
    2. Its regulariser is ``training.weight_decay``, L2 on all weights at every step; and a step is a mini-batch of
       users, with Adam, where the paper draws single transitions, with plain SGD.
    3. All gammas are put back after a step, not only those that it looked up: Adam moves the others too.
    """

    every_step = True
    uses_users = True
    log_odds = False

    def __init__(self, n_items: int, n_users: int, d: int = 50, distance: str = "squared_l2") -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise UserError(f"distance={distance!r}: choose one of {', '.join(DISTANCES)}")
        self.n_items = n_items
        self.distance = distance
        self.item_points = Table(n_items + 1, d, padding_idx=PAD)
        self.item_bias = Table(n_items + 1, 1, padding_idx=PAD)
        self.user_translations = UserTable(n_users, d)
        self.translation_D = nn.Parameter(normalize(torch.randn(d), dim=0))
        nn.init.zeros_(self.item_bias.weight)
        nn.init.zeros_(self.user_translations.weight)
        with torch.no_grad():
            self.item_points.weight[1:] = normalize(torch.randn(n_items, d))

    def encode(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        moves_BD: Tensor = self.translation_D + self.user_translations(users_B)
        points_BND: Tensor = self.item_points(items_BN)
        return points_BND + moves_BD[:, None]

    def encode_newest(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        return self.encode(tail(items_BN, 1), users_B)[:, 0]

    def score(self, states: Tensor, items: Tensor) -> Tensor:
        points = self.item_points(items)
        if self.distance == "l1":
            distances = (states.unsqueeze(-2) - points).abs().sum(-1)
        else:
            distances = squared_distances(states, points)
        scores: Tensor = self.item_bias(items).squeeze(-1) - distances
        return scores

    def score_shared(self, states: Tensor, items_C: Tensor) -> Tensor:
        distances_XC = self._all_distances(states.flatten(0, -2), self.item_points(items_C))
        scores: Tensor = self.item_bias(items_C).squeeze(-1) - distances_XC.view(*states.shape[:-1], -1)
        return scores

    def score_all(self, states_BD: Tensor) -> Tensor:
        return self.item_bias.weight[:, 0] - self._all_distances(states_BD, self.item_points.weight)

    def _all_distances(self, states_XD: Tensor, points_MD: Tensor) -> Tensor:
        if self.distance == "l1":
            return torch.cdist(states_XD, points_MD, p=1)
        return all_squared_distances(states_XD, points_MD)

    @torch.no_grad()
    def after_step(self) -> None:
        points_MD = self.item_points.weight
        points_MD /= points_MD.norm(dim=1, keepdim=True).clamp_(min=1)

    def row_tables(self) -> list[Table]:
        return [self.item_bias, self.user_translations]  # the points are read whole after every step
