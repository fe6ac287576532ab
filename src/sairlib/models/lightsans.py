"""LightSANs: low-rank decomposed self-attention (Fan et al., SIGIR 2021)."""

from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from sairlib.batch import PAD, History, at_steps, last_steps, positions
from sairlib.errors import UserError
from sairlib.models.recommender import Head, Products, SequenceModel
from sairlib.nn.bidirectional import (
    PostNormBlock,
    attend,
    check_sizes,
    join_heads,
    real_steps,
    split_heads,
    start_as_bert,
)
from sairlib.nn.kernels.lookup import rows
from sairlib.nn.layers import Dropout, Table

SOFTMAX_DIMS = ("keys", "queries")


@final
class LightSANs(SequenceModel):
    """s_i = h . E_i, h the last layer's state at the newest item; X^0 = Dropout(LayerNorm(E_x)), without positions.

    A layer attends to k interests instead of N items, and to positions separately. With Q, K, V = X W + b:

    - Items to interests: K~ = D^T K, D = softmax over the items of K Theta (N, k); V~ likewise, with its own Theta'.
    - Interests to items: softmax(Q K~^T / sqrt(d / h)) V~.
    - Positions: softmax((P W_q)(P W_k)^T / sqrt(d / h)) V, with one table P for all layers, and W_q and W_k per layer.

    The sum of both passes through W_o, dropout, residual and LayerNorm, then through GELU(x W1 + b1) W2 + b2 of four
    times the width, dropout, residual and LayerNorm.

    ``k_interests``: k; the paper uses a tenth of the maximum length. ``softmax_dim``: the dimension of the last two
    softmaxes. ``keys``, the paper's: the weights of a query sum to 1. ``queries``: the weights of a key sum to 1, over
    the steps of the sequence, as in both public versions (the authors' and RecBole's). Only this reproduces their
    figures.

    Every state sees the whole sequence through the interests, so only the newest is trained (``objective=prefix``). A
    causal version would need k interests per step, from the items up to it: k times the memory of the states, which the
    model is meant to save; and from the second layer on every step's state changes with each prefix, so that no prefix
    can use what was computed for another. With ``keys`` every state is an average, so that a history of one repeated
    item gives the same state for any number of repetitions.

    Deviations from the paper:

    1. Padding is excluded from all softmaxes and sums; the public versions include it in all of them.
    2. Positions count back from the newest item over right-padded sequences; the public versions count from the oldest.
    3. Each layer applies its own LayerNorm to P before W_q and W_k, as in the public versions; the equations do not
       show it. The public versions divide P's products by sqrt(2) d / h; ours are divided by sqrt(d / h), like the
       items'.
    4. ``attention_dropout`` (default 0) of the interests' weights: 0.2 in the authors' run on ML-1M.
    5. Initial weights are BERT's (see ``start_as_bert``) and N(0, 1) for Theta, as in the public versions, which do not
       cut the tails.
    """

    def __init__(
        self,
        n_items: int,
        max_len: int,
        d: int = 64,
        n_blocks: int = 2,
        n_heads: int = 2,
        k_interests: int = 5,
        dropout: float = 0.2,
        attention_dropout: float = 0.0,
        softmax_dim: str = "keys",
    ) -> None:
        super().__init__()
        check_sizes(d, n_blocks, n_heads, max_len, attention_dropout)
        self.n_items = n_items
        self.item_embedding = Table(n_items + 1, d, padding_idx=PAD)
        self.position_embedding = Table(max_len, d, whole=True)
        self.input_norm = nn.LayerNorm(d)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            PostNormBlock(LowRankAttention(d, n_heads, k_interests, attention_dropout, softmax_dim), d, dropout)
            for _ in range(n_blocks)
        )
        start_as_bert(self)

    def newest(self, history: History) -> Tensor:
        items_BN = history.items_BN
        states_BND = self.dropout(self.input_norm(self.item_embedding(items_BN)))
        inputs = real_steps(items_BN), positions(items_BN), self.position_embedding.weight
        for block in self.blocks[:-1]:
            states_BND = block(states_BND, *inputs)
        return cast(PostNormBlock, self.blocks[-1]).at_steps(states_BND, last_steps(items_BN), *inputs)

    @property
    def head(self) -> Head:
        return Products(self.item_embedding.of)


class LowRankAttention(nn.Module):
    """The attention of a LightSANs layer: items through K interests, plus items by their positions (B, N, D)."""

    def __init__(self, width: int, n_heads: int, k_interests: int, dropout: float, softmax_dim: str) -> None:
        super().__init__()
        if k_interests < 1:
            raise UserError(f"k_interests must be at least 1, not {k_interests}")
        if softmax_dim not in SOFTMAX_DIMS:
            raise UserError(f"softmax_dim={softmax_dim!r}: choose one of {', '.join(SOFTMAX_DIMS)}")
        self.n_heads = n_heads
        self.dropout = dropout
        self.over_queries = softmax_dim == "queries"
        self.query_key_value = nn.Linear(width, 3 * width)
        self.theta_DK = nn.Parameter(torch.randn(width, k_interests))
        self.value_theta_DK = nn.Parameter(torch.randn(width, k_interests))
        self.position_norm = nn.LayerNorm(width)
        self.position_query_key = nn.Linear(width, 2 * width)

    def forward(
        self,
        states_BND: Tensor,
        real_BN: Tensor,
        positions_BN: Tensor,
        position_vectors_ND: Tensor,
        *,
        steps_B: Tensor | None = None,
    ) -> Tensor:
        query_BND, key_BND, value_BND = self.query_key_value(states_BND).chunk(3, -1)
        key_BKD = _pool(key_BND, self.theta_DK, real_BN)
        value_BKD = _pool(value_BND, self.value_theta_DK, real_BN)
        # Each position is mapped once, not once per sequence.
        mapped_N2D = self.position_query_key(self.position_norm(position_vectors_ND))
        position_query_BND, position_key_BND = rows(mapped_N2D, positions_BN).chunk(2, -1)
        dropout = self.dropout if self.training else 0.0
        if self.over_queries:
            value_BND = value_BND * real_BN[..., None]
            mixed_BND = self._over_queries(query_BND, key_BKD, value_BKD, real_BN, dropout)
            mixed_BND = mixed_BND + self._over_queries(position_query_BND, position_key_BND, value_BND, real_BN)
            return mixed_BND if steps_B is None else at_steps(mixed_BND, steps_B)[:, None]
        if steps_B is not None:
            query_BND, position_query_BND = (at_steps(q, steps_B)[:, None] for q in (query_BND, position_query_BND))
        mixed_BND = attend(query_BND, key_BKD, value_BKD, self.n_heads, None, dropout)
        return mixed_BND + attend(position_query_BND, position_key_BND, value_BND, self.n_heads, real_BN)

    def _over_queries(
        self, query_BND: Tensor, key_BKD: Tensor, value_BKD: Tensor, real_BN: Tensor, dropout: float = 0.0
    ) -> Tensor:
        """Like ``attend``, but the weights of each key over the real queries sum to 1."""
        query, key, value = (split_heads(part, self.n_heads) for part in (query_BND, key_BKD, value_BKD))
        scores_BHNK = (query * query.shape[-1] ** -0.5) @ key.mT
        weights_BHNK = scores_BHNK.masked_fill(~real_BN[:, None, :, None], -torch.inf).softmax(-2)
        return join_heads(drop(weights_BHNK, dropout) @ value)


def _pool(vectors_BND: Tensor, theta_DK: Tensor, real_BN: Tensor) -> Tensor:
    """One vector per interest (B, K, D): means of the real vectors, weighed by their relevance to it."""
    scores_BNK = (vectors_BND @ theta_DK).masked_fill(~real_BN[..., None], -torch.inf)
    return scores_BNK.softmax(1).mT @ vectors_BND
