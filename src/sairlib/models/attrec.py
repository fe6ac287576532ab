"""AttRec: next item recommendation with self-attentive metric learning (Zhang, Tay, Yao and Sun, 2018)."""

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from sairlib.batch import PAD, Batch, History, State
from sairlib.errors import UserError
from sairlib.models.heads import Distances, Mixture
from sairlib.models.recommender import Head, Products, StepModel
from sairlib.nn.kernels.windows import recent
from sairlib.nn.layers import Dropout, Table, UserTable

MODES = ("distance", "inner")


@final
class AttRec(StepModel):
    """Score -y, with y = w ||U_u - V_i||^2 + (1 - w) ||m - X_i||^2, a long-term and a short-term distance.

    m comes from the last L = ``n_recent`` items X (L, d) up to the step:
    Q = Dropout(ReLU((X + TE) W_Q)), K = Dropout(ReLU((X + TE) W_K)), Z = softmax(Q K^T / sqrt(d)) X with the diagonal
    masked, and m the mean of the rows of Z. TE(t, 2i) = sin(t / 10000^(2i/d)) and TE(t, 2i + 1) is the cosine of the
    same angle, t = L - 1 at the newest item. The values of the attention are X itself. V and X are separate tables. A
    state is [U_u; m].

    ``mode="distance"``: the paper's model above. Train it with ``loss=hinge`` and the paper's margin. After each step,
    rows of U, V and X that are longer than 1 are scaled back to length 1.
    ``mode="inner"``: s = w <U_u, V_i> + (1 - w) <m, X_i>, as in ports of the model, which train it with ``loss=bpr``.
    Lengths are not limited, because this would limit all scores to between -1 and 1.
    ``w``: 0 omits the long-term part, 1 the short-term part; an omitted part does not learn.
    ``shared_projection=True``: W_K is W_Q, as in the authors' code; the paper has two.
    ``l2``: adds l2 (||W_Q||^2 + ||W_K||^2) to the loss.
    UserError in evaluation for a user that the model was not trained on.

    Deviations from the paper, and choices that it leaves open:

    1. Early steps have fewer than L items: missing items get no attention, and m is the mean over the others. The
       masked diagonal leaves nothing of a single item; then m is that item. Without items, m is 0.
    2. The masked diagonal gets no weight, and the other weights sum to 1. The authors' code zeroes the diagonal after
       the softmax, so that m shrinks towards 0; a port multiplies it by 0 before the softmax, which masks nothing.
    3. The paper searches ``w``; the defaults of ``w`` and ``dropout`` are those of the authors' code. The default of
       ``l2`` is theirs (0.01 on half the squares, with a loss summed over 1000 sequences), converted to our loss, a
       mean over steps.
    4. Tables and projections start Xavier-uniform, as elsewhere here; the authors' code starts the tables about 0.001
       from 0, where distances have almost no gradient.
    5. The authors' public code is not the paper's model: its loss is that of a classifier on the distances, it has a
       penalty on the tables instead of the limit, and its dropout is never switched on. We follow the paper.
    """

    time_LD: Tensor

    def __init__(
        self,
        n_items: int,
        n_users: int,
        d: int = 100,
        n_recent: int = 5,
        w: float = 0.2,
        mode: str = "distance",
        shared_projection: bool = False,
        dropout: float = 0.3,
        l2: float = 5e-6,
    ) -> None:
        super().__init__()
        if d < 1:
            raise UserError(f"d={d}: the width must be at least 1")
        if n_recent < 2:
            raise UserError(f"n_recent={n_recent}: must be at least 2; an item attends only to the others")
        if not 0 <= w <= 1:
            raise UserError(f"w={w}: must be between 0 and 1")
        if mode not in MODES:
            raise UserError(f"mode={mode!r}: choose one of {', '.join(MODES)}")
        if not l2 >= 0:
            raise UserError(f"l2={l2}: must be 0 or more")
        self.n_items = n_items
        self.inner = mode == "inner"
        self.memory = n_recent
        self.w = w
        self.l2 = l2
        limited = mode == "distance"  # all rows are scaled after every step
        self.user_embedding = UserTable(n_users, d, whole=limited)  # U
        self.long_embedding = Table(n_items + 1, d, padding_idx=PAD, whole=limited)  # V
        self.item_embedding = Table(n_items + 1, d, padding_idx=PAD, whole=limited)  # X
        self.query = nn.Linear(d, d, bias=False)
        self.key = None if shared_projection else nn.Linear(d, d, bias=False)
        for layer in self._projections:
            nn.init.xavier_uniform_(layer.weight)
        self.dropout = Dropout(dropout)
        self.register_buffer("time_LD", _time_signal(n_recent, d), persistent=False)

    @property
    def _projections(self) -> list[nn.Linear]:
        return [self.query] if self.key is None else [self.query, self.key]

    def encode(self, history: History) -> Tensor:
        short_BND = self._short_term(self.item_embedding(history.items_BN), history.items_BN != PAD)
        long_BND = self.user_embedding(history.users_B)[:, None].expand_as(short_BND)
        return torch.cat([long_BND, short_BND], -1)

    def _short_term(self, items_BND: Tensor, real_BN: Tensor) -> Tensor:
        """m at every step (B, N, d)."""
        L, d = self.time_LD.shape
        real_BNL = recent(real_BN[..., None], L).squeeze(-1)
        n_real_BN1 = real_BNL.sum(-1, keepdim=True)
        query_BNLD, key_BNLD = self._windows(items_BND, self.query), self._windows(items_BND, self.key or self.query)
        alone_BN11 = (n_real_BN1 == 1)[..., None]
        others_LL = ~torch.eye(L, dtype=torch.bool, device=items_BND.device)
        # Rows of padding attend to everything, because a softmax over nothing is NaN; the product below removes them.
        seen_BNLL = ((others_LL | alone_BN11) & real_BNL[..., None, :]) | ~real_BNL[..., None]
        scores_BNLL = query_BNLD @ key_BNLD.mT / math.sqrt(d)
        weights_BNLL = scores_BNLL.masked_fill(~seen_BNLL, -torch.inf).softmax(-1) * real_BNL[..., None]
        # The mean of the rows of A X is (the mean of the rows of A) X.
        mean_BNL = weights_BNLL.sum(-2) / n_real_BN1.clamp_min(1)
        return (mean_BNL[..., None] * recent(items_BND, L)).sum(-2)  # faster than a product of such small matrices

    def _windows(self, items_BND: Tensor, projection: nn.Linear) -> Tensor:
        """Q or K of every step's window (B, N, L, d), as X W + TE W: each item is multiplied once, not L times."""
        projected_BNLD = recent(projection(items_BND), len(self.time_LD)) + projection(self.time_LD)
        dropped_BNLD: Tensor = self.dropout(relu(projected_BNLD))
        return dropped_BNLD

    @property
    def head(self) -> Head:
        long, short = self.long_embedding.of, self.item_embedding.of
        if self.inner:
            return Mixture(self.w, Products(long), Products(short))
        return Mixture(self.w, Distances(long), Distances(short))

    @torch.no_grad()
    def after_step(self) -> None:
        if not self.inner:
            for table in (self.user_embedding, self.long_embedding, self.item_embedding):
                table.weight.renorm_(2, 0, 1.0)

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        if self.l2 == 0:
            return {}
        return {"l2": self.l2 * torch.stack([layer.weight.square().sum() for layer in self._projections]).sum()}


def _time_signal(length: int, width: int) -> Tensor:
    """TE (L, d)."""
    rates_D = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles_LD = torch.arange(length)[:, None] * rates_D
    return torch.stack([angles_LD.sin(), angles_LD.cos()], -1).flatten(1)[:, :width].float()
