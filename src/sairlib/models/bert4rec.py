"""BERT4Rec: sequential recommendation with a bidirectional Transformer (Sun et al., CIKM 2019)."""

from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from sairlib.batch import PAD, History, lengths, positions
from sairlib.models.recommender import ClozeModel, Head, Products
from sairlib.nn.bidirectional import BidirectionalAttention, PostNormBlock, check_sizes, real_steps, start_as_bert
from sairlib.nn.layers import Dropout, Table


@final
class BERT4Rec(ClozeModel):
    """P(v) = softmax(LayerNorm(GELU(h_t W + b)) E^T + b_out), h_t the output of the last block at a step t with [MASK].

    h^0_t = Dropout(LayerNorm(v_t + p_t)), with v_t a row of E and p_t a row of P. Each block is post-norm, as in BERT:
    A = LayerNorm(H + Dropout(MH(H))), MH(H) = [head_1 ... head_h] W^O + b^O, every step attending to every real step;
    then LayerNorm(A + Dropout(GELU(A W1 + b1) W2 + b2)), W1 of four times the width.

    ``objective=cloze`` replaces hidden items by ``mask_item`` (id M + 1, the last row of E, never scored), so that no
    information on a hidden item reaches its own step. ``encode`` returns LayerNorm(GELU(h_t W + b)) at every step; only
    those at [MASK] are meaningful. To predict the next item, ``newest`` appends [MASK] to the history; a history of
    ``max_len`` items loses its oldest item for it.

    Deviations from the paper:

    1. The LayerNorms of the input and before the product with E, and the biases of Q, K, V and W^O, are from the
       authors' code; the paper's equations have none.
    2. Positions count back from the newest step over right-padded sequences, so that [MASK] is at 0 when it stands for
       the next item; the authors' code pads right and counts from the oldest.
    3. ``attention_dropout`` (default 0) of the attention weights: the authors' code has 0.2 on ML-1M. The paper drops
       out only the sublayers' outputs, which allows the fast kernels.
    4. The authors mask ten copies of each sequence once and add windows of long ones; ours are masked anew in every
       epoch, and only the newest ``max_len`` items are used.
    5. The authors' decoupled weight decay of 0.01 excludes biases and LayerNorms;
       ``training.optimizer=adamw training.weight_decay=0.01`` applies it to all weights.
    """

    def __init__(
        self,
        n_items: int,
        max_len: int,
        d: int = 64,
        n_blocks: int = 2,
        n_heads: int = 2,
        dropout: float = 0.2,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(d, n_blocks, n_heads, max_len, attention_dropout)
        self.n_items = n_items
        self.max_len = max_len
        self.mask_item = n_items + 1
        self.item_embedding = Table(n_items + 2, d, padding_idx=PAD)
        self.position_embedding = Table(max_len, d)
        self.input_norm = nn.LayerNorm(d)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            PostNormBlock(BidirectionalAttention(d, n_heads, attention_dropout), d, dropout) for _ in range(n_blocks)
        )
        self.transform = nn.Linear(d, d)
        self.transform_norm = nn.LayerNorm(d)
        self.output_bias = nn.Parameter(torch.zeros(n_items + 1))
        start_as_bert(self)

    def encode(self, history: History) -> Tensor:
        states_BND, real_BN = self._embed(history.items_BN), real_steps(history.items_BN)
        for block in self.blocks:
            states_BND = block(states_BND, real_BN)
        return self._out(states_BND)

    def newest(self, history: History) -> Tensor:
        items_BN = history.tail(self.max_len - 1).items_BN
        ends_B = lengths(items_BN)
        items_BN = pad(items_BN, (0, 1), value=PAD).scatter(1, ends_B[:, None], self.mask_item)
        states_BND, real_BN = self._embed(items_BN), real_steps(items_BN)
        for block in self.blocks[:-1]:
            states_BND = block(states_BND, real_BN)
        return self._out(cast(PostNormBlock, self.blocks[-1]).at_steps(states_BND, ends_B, real_BN))

    def _embed(self, items_BN: Tensor) -> Tensor:
        states_BND = self.item_embedding(items_BN) + self.position_embedding(positions(items_BN))
        embedded_BND: Tensor = self.dropout(self.input_norm(states_BND))
        return embedded_BND

    def _out(self, states: Tensor) -> Tensor:
        out: Tensor = self.transform_norm(gelu(self.transform(states)))
        return out

    @property
    def head(self) -> Head:
        table, bias_M = self.item_embedding, self.output_bias
        return Products(
            lambda items: table.weight[:-1] if items is None else table(items),  # without the mask item
            lambda items: bias_M if items is None else bias_M[items],
        )
