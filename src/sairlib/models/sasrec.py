"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018)."""

from collections.abc import Iterator
from functools import partial
from typing import final

import torch
from torch import Tensor

from sairlib.batch import PAD, History
from sairlib.models.heads import ByProducts, HeadPart
from sairlib.models.recommender import Head, StepModel
from sairlib.nn.attention import AttentionPart
from sairlib.nn.layers import ItemEncoder, SelfAttention, Table, UserTable


@final
class SASRec(StepModel):
    """r_{i,t} = F_t^(b) . N_i: a stack of causal self-attention blocks, scored by inner product (eq. 1 to 6).

    Each block is g(x) = x + Dropout(g(LayerNorm(x))), first with g = softmax(QK^T / sqrt(d)) V, then with
    g = ReLU(x W1 + b1) W2 + b2. The arguments are the rows of the paper's ablation table:

    - ``positional_embedding=False``: (1) Remove PE. ``shared_item_embedding=False``: (2) Unshared IE, N apart from M.
    - ``residual=False``: (3) Remove RC. ``dropout=0``: (4). ``n_blocks``: (5) to (7). ``n_heads=2``: (8).
    - ``user_embedding=True``: r_{u,i,t} = (U_u + F_t) . M_i, the paper's section on explicit users. UserError in
      evaluation for a user that the model was not trained on.
    - ``norm``: ``pre`` is the paper's formula; ``post`` is LayerNorm(x + Dropout(g(x))), as in some ports.

    Deviations from the paper:

    1. ``scale_items`` (default True) multiplies the input's item embeddings by sqrt(d), as in the authors' code. The
       paper does not mention it; False follows the paper.
    2. With ``norm="pre"`` a LayerNorm follows the last block, as in the authors' code; the paper does not mention it.
    3. Positions count back from the newest item over right-padded sequences: equivalent to the paper's left padding.
    4. Where the authors' code differs from the paper's formula, we follow the formula. The code normalises the queries
       only, and computes keys and values from the input itself; adds the NORMALISED input as the residual; has biases
       in Q, K and V; and has dropout of attention weights (``attention_dropout`` here). ``output_projection`` adds the
       output matrix of PyTorch's multi-head attention, which neither has.
    5. Options of later work, off by default: ``ffn_width``, W1 and W2 of another inner width than d; ``gated``, each
       g(...) times sigmoid(x W); ``ffn="swiglu"``, (SiLU(x W1) * x W3) W2; ``final_norm=False``, without the norm of 2.
       With these four they are LiGR's blocks, as in eSASRec (Tikhonovich et al., RecSys 2025): its presets are
       ``experiment=full-ranking/esasrec-...``. In its authors' code the gates and the attention have biases as well,
       and the dropout of attention weights and the output matrix are on. ``attention`` is a part in the place of
       softmax(QK^T / sqrt(d)) V: ``model/attention=linformer``; ``head`` one in the place of the inner product.
    6. Embeddings start Xavier-uniform (the default in the authors' framework); the paper does not say.
    """

    def __init__(
        self,
        n_items: int,
        n_users: int,
        max_len: int,
        d: int = 50,
        n_blocks: int = 2,
        n_heads: int = 1,
        dropout: float = 0.2,
        norm: str = "pre",
        positional_embedding: bool = True,
        shared_item_embedding: bool = True,
        residual: bool = True,
        user_embedding: bool = False,
        scale_items: bool = True,
        attention_dropout: float = 0.0,
        output_projection: bool = False,
        ffn_width: int | None = None,
        gated: bool = False,
        ffn: str = "relu",
        final_norm: bool = True,
        attention: AttentionPart | None = None,
        head: HeadPart | None = None,
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.scoring = head or ByProducts()
        blocks = partial(
            SelfAttention,
            n_blocks=n_blocks,
            n_heads=n_heads,
            norm=norm,
            residual=residual,
            attention_dropout=attention_dropout,
            output_projection=output_projection,
            ffn_width=ffn_width,
            gated=gated,
            ffn=ffn,
            final_norm=final_norm,
            attention=attention,
        )
        positions = "newest" if positional_embedding else None
        self.encoder = ItemEncoder(n_items, max_len, d, dropout, blocks, positions=positions, scale_items=scale_items)
        self.output_embedding = None if shared_item_embedding else Table(n_items + 1, d, padding_idx=PAD)
        self.user_embedding = UserTable(n_users, d) if user_embedding else None

    def encode(self, history: History) -> Tensor:
        states_BND: Tensor = self.encoder(history.items_BN)
        if self.user_embedding is not None:
            states_BND = states_BND + self.user_embedding(history.users_B)[:, None]
        return self.scoring.states(states_BND)

    def newest(self, history: History) -> Tensor:
        states_BD = self.encoder.newest(history.items_BN)
        if self.user_embedding is not None:
            states_BD = states_BD + self.user_embedding(history.users_B)
        return self.scoring.states(states_BD)

    @torch.no_grad()
    def attentions(self, history: History) -> Iterator[tuple[str, Tensor]]:
        yield from self.encoder.attentions(history.items_BN)

    @property
    def head(self) -> Head:
        return self.scoring.head(self.output_embedding or self.encoder.item_embedding)
