"""ItemEncoder: from item ids to one vector per prefix of the sequence (SASRec's encoder; SAIR, eq. 1 to 3)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias, cast, final

import torch
from torch import Tensor, nn

from sairlib.batch import PAD, at_steps, last_steps
from sairlib.batch import positions as steps_back
from sairlib.errors import UserError
from sairlib.nn.categories import CategoryEmbedding
from sairlib.nn.layers import Block, Dropout, Table

POSITIONS = ("newest", "oldest")


class Encoder(nn.Module, ABC):
    """From one vector per step to one state per step, which depends only on the steps up to it."""

    @abstractmethod
    def forward(self, steps_BND: Tensor) -> Tensor:
        """States (B, N, D)."""

    def at_steps(self, steps_BND: Tensor, steps_B: Tensor) -> Tensor:
        """``forward(steps_BND)`` at only one step of each row (B, D), for evaluation."""
        return at_steps(self(steps_BND), steps_B)


EncoderPart: TypeAlias = Callable[[int, float], Encoder]
"""Makes an encoder from a width and a dropout."""


@final
class SelfAttention(Encoder):
    """SASRec's stack of causal self-attention blocks."""

    def __init__(
        self,
        width: int,
        dropout: float,
        n_blocks: int = 2,
        n_heads: int = 1,
        norm: str = "pre",
        residual: bool = True,
        attention_dropout: float = 0.0,
        output_projection: bool = False,
    ) -> None:
        super().__init__()
        if n_blocks < 0:
            raise UserError(f"n_blocks must be 0 or more, not {n_blocks}")
        self.blocks = nn.ModuleList(
            Block(width, n_heads, dropout, norm, residual, attention_dropout, output_projection)
            for _ in range(n_blocks)
        )
        # Pre-norm blocks never normalise their residual stream: without this the scores get it unnormalised.
        self.final_norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(self, steps_BND: Tensor) -> Tensor:
        for block in self.blocks:
            steps_BND = block(steps_BND)
        final_BND: Tensor = self.final_norm(steps_BND)
        return final_BND

    def at_steps(self, steps_BND: Tensor, steps_B: Tensor) -> Tensor:
        """Skips the other steps in the last block. Ranking takes two thirds of the time that it takes without this."""
        for block in self.blocks[:-1]:
            steps_BND = block(steps_BND)
        last = self.blocks[-1:]
        states_BD = cast(Block, last[0]).at_steps(steps_BND, steps_B) if last else at_steps(steps_BND, steps_B)
        final_BD: Tensor = self.final_norm(states_BD)
        return final_BD


class ItemEncoder(nn.Module):
    """E = H_id(x) + H_cate(x) + H_pos(x), then ``encoder``: the state at t represents the prefix up to t.

    ``scale_items`` multiplies H_id by sqrt(D) in this sum (as the code of SASRec's authors does). ``positions``:
    position ids count back from the ``newest`` item, which is equivalent to the papers' left padding, or forward from
    the ``oldest`` item in the window; None omits H_pos.
    """

    def __init__(
        self,
        n_items: int,
        max_len: int,
        width: int,
        dropout: float,
        encoder: EncoderPart,
        *,
        positions: str | None = "newest",
        scale_items: bool = True,
        categories: CategoryEmbedding | None = None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise UserError(f"the width d must be at least 1, not {width}")
        if max_len < 1:
            raise UserError(f"max_len must be at least 1, not {max_len}")
        if positions is not None and positions not in POSITIONS:
            raise UserError(f"positions={positions}: choose one of {', '.join(POSITIONS)}")
        self.item_embedding = Table(n_items + 1, width, padding_idx=PAD)
        self.position_embedding = None if positions is None else Table(max_len, width)
        self.from_newest = positions == "newest"
        self.categories = categories
        self.scale = math.sqrt(width) if scale_items else 1.0
        self.dropout = Dropout(dropout)
        self.encoder = encoder(width, dropout)

    def forward(self, items_BN: Tensor) -> Tensor:
        """States (B, N, D)."""
        states_BND: Tensor = self.encoder(self._embed(items_BN))
        return states_BND

    def newest(self, items_BN: Tensor) -> Tensor:
        """The state at each row's newest item (B, D)."""
        return self.encoder.at_steps(self._embed(items_BN), last_steps(items_BN))

    def _embed(self, items_BN: Tensor) -> Tensor:
        states_BND = self.item_embedding(items_BN) * self.scale
        if self.categories is not None:
            states_BND = states_BND + self.categories(items_BN)
        if self.position_embedding is not None:
            steps_N = torch.arange(items_BN.shape[1], device=items_BN.device)
            states_BND = states_BND + self.position_embedding(steps_back(items_BN) if self.from_newest else steps_N)
        embedded_BND: Tensor = self.dropout(states_BND)
        return embedded_BND
