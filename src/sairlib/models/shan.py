"""SHAN: sequential hierarchical attention network (Ying et al., IJCAI 2018)."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sairlib.batch import PAD, Batch, History, State, lengths
from sairlib.errors import UserError
from sairlib.models.recommender import Head, Products, StepModel
from sairlib.nn.bidirectional import real_steps
from sairlib.nn.layers import Table, UserTable
from sairlib.nn.running_softmax import running_softmax


@final
class SHAN(StepModel):
    """Score <u_hyb, x_i>: attention to what the user has had long ago, then to this and what the user has had just now.

    Both attentions are of sets, without positions, and their query is the user's vector u. The short-term set S holds
    the newest ``n_short`` items, the long-term set L all before them:

        u_long = sum over L of alpha_j x_j,    alpha = softmax over L of u . ReLU(W_1 x_j + b_1)
        u_hyb = beta_0 u_long + sum over S of beta_j x_j,
            beta = softmax over u_long and S of u . ReLU(W_2 x + b_2), with x being u_long or an x_j of S

    ``l2_uv`` adds l2_uv (||U||^2 + ||X||^2) to the loss, the tables of users and items; ``l2_a`` adds
    l2_a (||W_1||^2 + ||W_2||^2). The paper's loss is BPR. UserError in evaluation for a user that the model was not
    trained on.

    Deviations from the paper, and choices that it leaves open:

    1. Every step is trained, the paper trains the newest alone (as ``objective=prefix`` does). A step's state depends
       on the items up to it only, and its u_long is that of the prefix which ends ``n_short`` steps before it: all of
       these are computed at once, as softmax means that grow with the prefix (see ``running_softmax``).
    2. The paper's S is the current session, the items of one day. Here, as in a port, it is a number of items: not all
       data has times, and many days of these have one item.
    3. Without items before S there is no u_long, and beta is over S alone. The port gives the missing u_long a value,
       and leaves S in L as well.
    4. An item that a user has had twice counts twice; in the paper's sets it counts once.
    5. The paper adds its penalties to a sum over all training instances. Ours are added to a mean over steps, so the
       same effect takes far smaller numbers; the paper searches them. The tables' penalty is 0 by default: it would
       move every row at every step.
    6. Tables start from N(0, 0.01^2), W and b uniform within sqrt(3 / d), as in the ports.
    """

    def __init__(
        self,
        n_items: int,
        n_users: int,
        max_len: int,
        d: int = 100,
        n_short: int = 2,
        l2_uv: float = 0.0,
        l2_a: float = 1e-5,
    ) -> None:
        super().__init__()
        if d < 1:
            raise UserError(f"d={d}: must be 1 or more")
        if not 1 <= n_short < max_len:
            raise UserError(f"n_short={n_short}: must be at least 1 and less than max_len={max_len}, to leave others")
        for name, value in (("l2_uv", l2_uv), ("l2_a", l2_a)):
            if not value >= 0:
                raise UserError(f"{name}={value}: must be 0 or more")
        self.n_items = n_items
        self.n_short = n_short
        self.l2_uv = l2_uv
        self.l2_a = l2_a
        self.user_embedding = UserTable(n_users, d, whole=l2_uv > 0)
        self.item_embedding = Table(n_items + 1, d, padding_idx=PAD, whole=l2_uv > 0)
        self.long = nn.Linear(d, d)
        self.hybrid = nn.Linear(d, d)
        with torch.no_grad():
            for table in (self.user_embedding, self.item_embedding):
                table.weight.normal_(std=0.01)
            self.item_embedding.weight[PAD] = 0
            for parameter in (*self.long.parameters(), *self.hybrid.parameters()):
                parameter.uniform_(-((3 / d) ** 0.5), (3 / d) ** 0.5)

    def encode(self, history: History) -> Tensor:
        items_BND, users_B1D = self._vectors(history)
        long_BND = before(running_softmax(logits(self.long, items_BND, users_B1D), items_BND), self.n_short)
        items_logits_BN, long_logits_BN = (logits(self.hybrid, x_BND, users_B1D) for x_BND in (items_BND, long_BND))
        steps_back = range(self.n_short)
        # From here on, K is the members of the second softmax: u_long, and the items of S from the newest.
        logits_BNK = torch.stack([long_logits_BN, *(before(items_logits_BN, back) for back in steps_back)], -1)
        first_K = torch.tensor([self.n_short, *steps_back], device=logits_BNK.device)  # the step that first has each
        missing_NK = torch.arange(logits_BNK.shape[1], device=logits_BNK.device)[:, None] < first_K
        long_share_BN, *shares = logits_BNK.masked_fill(missing_NK, -torch.inf).softmax(-1).unbind(-1)
        hybrid_BND: Tensor = long_share_BN[..., None] * long_BND
        for back, share_BN in zip(steps_back, shares, strict=True):
            hybrid_BND = hybrid_BND + share_BN[..., None] * before(items_BND, back)
        return hybrid_BND

    def newest(self, history: History) -> Tensor:
        """One softmax over L and one over u_long and S, where ``encode`` needs those of every prefix."""
        items_BND, users_B1D = self._vectors(history)
        lengths_B1 = lengths(history.items_BN)[:, None]
        steps_N = torch.arange(items_BND.shape[1], device=items_BND.device)
        in_long_BN = steps_N < lengths_B1 - self.n_short
        in_short_BN = real_steps(history.items_BN) & ~in_long_BN
        # Where L is empty, u_long is a mean of anything: it gets no weight.
        long_B1D = attended(self.long, items_BND, users_B1D, in_long_BN)
        in_second_BX = torch.cat([lengths_B1 > self.n_short, in_short_BN], 1)
        return attended(self.hybrid, torch.cat([long_B1D, items_BND], 1), users_B1D, in_second_BX)[:, 0]

    def _vectors(self, history: History) -> tuple[Tensor, Tensor]:
        """Those of the items (B, N, D) and of the users (B, 1, D)."""
        items_BND: Tensor = self.item_embedding(history.items_BN)
        users_BD: Tensor = self.user_embedding(history.users_B)
        return items_BND, users_BD[:, None]

    @property
    def head(self) -> Head:
        return Products(self.item_embedding.of)

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        penalised = {
            "l2_uv": (self.l2_uv, self.user_embedding.weight, self.item_embedding.weight),
            "l2_a": (self.l2_a, self.long.weight, self.hybrid.weight),
        }
        return {
            name: weight * (first.square().sum() + second.square().sum())
            for name, (weight, first, second) in penalised.items()
            if weight
        }


def logits(layer: nn.Linear, x_BND: Tensor, users_B1D: Tensor) -> Tensor:
    """u . ReLU(W x + b) (B, N)."""
    logits_BN: Tensor = (layer(x_BND).relu() * users_B1D).sum(-1)
    return logits_BN


def attended(layer: nn.Linear, x_BND: Tensor, users_B1D: Tensor, members_BN: Tensor) -> Tensor:
    """The mean (B, 1, D) of the members by the softmax of their logits; finite where there is none."""
    logits_BN = logits(layer, x_BND, users_B1D)
    lowest = torch.finfo(logits_BN.dtype).min
    return logits_BN.masked_fill(~members_BN, lowest).softmax(-1)[:, None] @ x_BND


def before(x: Tensor, steps: int) -> Tensor:
    """What was at ``x`` (B, N, ...) that many steps ago; zeros before step 0."""
    return pad(x, (*[0, 0] * (x.dim() - 2), steps, 0))[:, : x.shape[1]]
