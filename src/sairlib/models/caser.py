"""Caser: personalised top-N recommendation by convolutions over recent items (Tang and Wang, WSDM 2018)."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool1d, pad

from sairlib.batch import PAD, History
from sairlib.errors import UserError
from sairlib.models.heads import ByProducts, HeadPart
from sairlib.models.recommender import Head, StepModel
from sairlib.nn.layers import Dropout, Table, UserTable


@final
class Caser(StepModel):
    """Convolutional filters over an image E (L x d), the vectors of the newest L items.

    - A horizontal filter F (h x d), ``n_h`` of each height h = 1 .. L, gives max over i of ReLU(<F, E[i : i + h]> + b),
      i = 0 .. L - h: does this run of items occur anywhere?
    - A vertical filter f (L), ``n_v`` of them, gives sum over l of f_l E[l], d numbers.
    - z = ReLU(W1 Dropout(o) + b1), with o the outputs of all filters. The score of item i is W2_i . [z; u] + b2_i, with
      u the user's vector and W2 a separate table of width 2d.

    ``user_embedding=False`` omits u (W2 then has width d), ``n_h=0`` or ``n_v=0`` one kind of filter, as in the paper's
    ablation. The paper trains T targets at a time, by binary cross-entropy with 3 negatives each:
    ``objective.n_targets=3 negatives.n=3``.

    All steps are computed at once. Neighbouring windows share all rows but one, so each horizontal filter passes over
    the whole sequence once, and each window takes the maximum over its own L - h + 1 positions; a vertical filter is a
    weighted sum of L shifted copies of the sequence. No image is stored.

    Deviations from the paper:

    1. Every step is trained, including the first ones; rows of the image before the first item are zero. The paper
       slides a window of L + T over the sequence, so that a target has L items before it; its authors' code pads
       shorter sequences on the left with a learned vector.
    2. Horizontal filters have a bias, as in the authors' code; the paper's formula has none. The vertical ones of the
       code have one too; here they have none, because b1 can replace it.
    3. Initial values are those of the authors' code: tables normal with deviation 1 / width, b2 zero, filters and W1
       uniform within 1 / sqrt(inputs).
    4. The terms of the negatives are summed, as in the paper; the authors' code takes their mean.
    """

    def __init__(
        self,
        n_items: int,
        n_users: int,
        max_len: int,
        d: int = 50,
        L: int = 5,
        n_h: int = 16,
        n_v: int = 4,
        dropout: float = 0.5,
        user_embedding: bool = True,
        head: HeadPart | None = None,
    ) -> None:
        super().__init__()
        if d < 1:
            raise UserError(f"d={d}: must be 1 or more")
        if not 1 <= L <= max_len:
            raise UserError(f"L={L}: must be between 1 and max_len={max_len}")
        if min(n_h, n_v) < 0 or n_h == n_v == 0:
            raise UserError(f"n_h={n_h}, n_v={n_v}: must be 0 or more, and not both 0")
        self.n_items = n_items
        self.scoring = head or ByProducts()
        self.memory = self.L = L
        width = 2 * d if user_embedding else d
        self.item_embedding = Table(n_items + 1, d, padding_idx=PAD)
        self.user_embedding = UserTable(n_users, d) if user_embedding else None
        self.horizontal = nn.ModuleList(nn.Conv1d(d, n_h, height) for height in range(1, L + 1) if n_h)
        self.vertical = nn.Parameter(torch.empty(n_v, L).uniform_(-(L**-0.5), L**-0.5)) if n_v else None
        self.dropout = Dropout(dropout)
        self.fully_connected = nn.Linear(n_v * d + n_h * L, d)
        self.output_embedding = Table(n_items + 1, width, padding_idx=PAD)
        self.output_bias = Table(n_items + 1, 1, padding_idx=PAD)
        with torch.no_grad():
            self.output_bias.weight.zero_()
            for table in (self.item_embedding, self.user_embedding, self.output_embedding):
                if table is not None:
                    table.weight.normal_(std=1 / table.embedding_dim)
                    if table.padding_idx is not None:
                        table.weight[PAD] = 0

    def encode(self, history: History) -> Tensor:
        filtered_BNX = self.dropout(self._filtered(history.items_BN))
        z_BND: Tensor = self.fully_connected(filtered_BNX).relu()
        if self.user_embedding is not None:
            users_B1D = self.user_embedding(history.users_B)[:, None]
            z_BND = torch.cat([z_BND, users_B1D.expand(-1, z_BND.shape[1], -1)], -1)
        return self.scoring.states(z_BND)

    @property
    def head(self) -> Head:
        return self.scoring.head(self.output_embedding, bias=lambda items: self.output_bias.of(items).squeeze(-1))

    def _filtered(self, items_BN: Tensor) -> Tensor:
        """Outputs of the filters at every step (B, N, n_v d + n_h L)."""
        n = items_BN.shape[1]
        vectors_BND: Tensor = self.item_embedding(items_BN)
        padded_BXD = pad(vectors_BND, (0, 0, self.L - 1, 0))  # step t's image begins at row t
        parts: list[Tensor] = []
        if self.vertical is not None:
            shifted = [padded_BXD[:, row : row + n] for row in range(self.L)]
            for f_L in self.vertical:
                first, *others = (weight * vectors for weight, vectors in zip(f_L, shifted, strict=True))
                parts.append(sum(others, first))
        if self.horizontal:
            padded_BDX = padded_BXD.transpose(1, 2).contiguous()
            maxima = [max_pool1d(conv(padded_BDX), self.L - h, 1) for h, conv in enumerate(self.horizontal)]
            parts.append(torch.cat(maxima, 1).relu().transpose(1, 2))  # ReLU of a maximum is the maximum of ReLUs
        return torch.cat(parts, -1)
