"""ItemEncoder: from item ids to one vector for every prefix of the sequence (SASRec's encoder; SAIR, eq. 1 to 3)."""

import math
from typing import cast

from torch import Tensor, nn

from sairlib.batch import PAD, at_steps, last_steps, positions
from sairlib.errors import UserError
from sairlib.nn.block import Block
from sairlib.nn.dropout import Dropout
from sairlib.nn.table import Table

POOLINGS = ("mean", "sum", "first")


class CategoryEmbedding(nn.Module):
    """H_cate: one vector for the categories of each item.

    ``pooling`` says what becomes of several: their ``mean``, ``sum``, or the ``first`` in the file's order.
    Shape of the buffer: (M + 1, G) category ids 1..T, PAD where there are fewer.
    """

    item_categories: Tensor

    def __init__(self, item_categories: Tensor, n_categories: int, width: int, pooling: str) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"category_pooling={pooling!r}: choose one of {', '.join(POOLINGS)}")
        self.mode = "sum" if pooling == "first" else pooling
        kept = item_categories[:, :1] if pooling == "first" else item_categories
        self.register_buffer("item_categories", kept, persistent=False)
        self.table = Table(n_categories + 1, width, padding_idx=PAD)

    def forward(self, items: Tensor) -> Tensor:
        """Vectors (*items.shape, D)."""
        categories = self.item_categories[items.reshape(-1)]
        pooled = nn.functional.embedding_bag(categories, self.table.weight, mode=self.mode, padding_idx=PAD)
        return pooled.view(*items.shape, -1)


class ItemEncoder(nn.Module):
    """E = H_id(x) + H_cate(x) + H_pos(x), then a stack of causal blocks: the state at t stands for the prefix up to t.

    ``scale_items`` multiplies H_id by sqrt(D) on its way in (SASRec's authors' code). Position ids count back
    from the newest item, which is what the papers' left padding comes to.
    """

    def __init__(
        self,
        n_items: int,
        max_len: int,
        width: int,
        n_blocks: int,
        n_heads: int,
        dropout: float,
        *,
        norm: str = "pre",
        residual: bool = True,
        positional_embedding: bool = True,
        scale_items: bool = True,
        attention_dropout: float = 0.0,
        output_projection: bool = False,
        categories: CategoryEmbedding | None = None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise UserError(f"the width d must be at least 1, not {width}")
        if n_blocks < 0:
            raise UserError(f"n_blocks must be 0 or more, not {n_blocks}")
        if max_len < 1:
            raise UserError(f"max_len must be at least 1, not {max_len}")
        self.item_embedding = Table(n_items + 1, width, padding_idx=PAD)
        self.position_embedding = Table(max_len, width) if positional_embedding else None
        self.categories = categories
        self.scale = math.sqrt(width) if scale_items else 1.0
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, n_heads, dropout, norm, residual, attention_dropout, output_projection)
            for _ in range(n_blocks)
        )
        # The residual stream of pre-norm blocks is never normalised on its way: without this it reaches the scores raw.
        self.final_norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(self, items_BN: Tensor) -> Tensor:
        """States (B, N, D)."""
        states_BND = self._embed(items_BN)
        for block in self.blocks:
            states_BND = block(states_BND)
        final_BND: Tensor = self.final_norm(states_BND)
        return final_BND

    def newest(self, items_BN: Tensor) -> Tensor:
        """The state at each row's newest item (B, D), without the other steps' way through the last block."""
        states_BND, last_B = self._embed(items_BN), last_steps(items_BN)
        if not self.blocks:
            newest_BD: Tensor = self.final_norm(at_steps(states_BND, last_B))
            return newest_BD
        for block in self.blocks[:-1]:
            states_BND = block(states_BND)
        newest_BD = self.final_norm(cast(Block, self.blocks[-1]).at_steps(states_BND, last_B))
        return newest_BD

    def _embed(self, items_BN: Tensor) -> Tensor:
        states_BND = self.item_embedding(items_BN) * self.scale
        if self.categories is not None:
            states_BND = states_BND + self.categories(items_BN)
        if self.position_embedding is not None:
            states_BND = states_BND + self.position_embedding(positions(items_BN))
        embedded_BND: Tensor = self.dropout(states_BND)
        return embedded_BND
