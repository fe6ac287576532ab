"""Layers of models: dropout, tables, SASRec's block, encoders, and the ItemEncoder made of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias, cast, final

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, silu

from sairlib.batch import PAD, STRANGER, at_steps, last_steps
from sairlib.batch import positions as steps_back
from sairlib.errors import UserError
from sairlib.nn.attention import AttentionPart, CausalAttention
from sairlib.nn.kernels.dropout import dropout
from sairlib.nn.kernels.lookup import rows

NORMS = ("pre", "post")
FFNS = ("relu", "swiglu")
POSITIONS = ("newest", "oldest")


class Dropout(nn.Module):
    """Zero each entry with probability p and scale the others by 1 / (1 - p), as ``nn.Dropout`` does.

    On CPU p is rounded to a multiple of 2^-16, and the scale belongs to the rounded p.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UserError(f"dropout must be in [0, 1), not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Table(nn.Embedding):
    """``nn.Embedding`` that starts Xavier-uniform (the default of the SASRec authors' framework).

    The row ``padding_idx`` starts at zero and gets no gradient. ``whole=True``: training uses the weight as a whole.
    Otherwise, if a batch looks up few of the rows, the trainer updates only those (see ``RowAdam``).
    """

    def __init__(self, n_rows: int, width: int, padding_idx: int | None = None, whole: bool = False) -> None:
        if width < 1:
            raise UserError(f"the width d must be at least 1, not {width}")
        self.whole = whole
        super().__init__(n_rows, width, padding_idx)

    def reset_parameters(self) -> None:
        super().reset_parameters()  # keeps the random draws, and so the weights, of earlier versions
        nn.init.xavier_uniform_(self.weight)
        self._fill_padding_idx_with_zero()

    def forward(self, ids: Tensor) -> Tensor:
        return rows(self.weight, ids, self.padding_idx, self.sparse)

    def of(self, ids: Tensor | None) -> Tensor:
        """The rows of ``ids`` (*ids.shape, D); all rows if None."""
        vectors: Tensor = self.weight if ids is None else self(ids)
        return vectors


class UserTable(Table):
    """One row per user of the training data; in evaluation, their mean for a STRANGER, and UserError for any other."""

    def forward(self, ids: Tensor) -> Tensor:
        if self.training or not ids.numel():
            return super().forward(ids)
        if int(ids.max()) >= self.num_embeddings:
            raise UserError(
                f"user number {int(ids.max())} is unknown: this model has vectors only for the"
                f" {self.num_embeddings} users it was trained on"
            )
        known = ids != STRANGER
        if known.all():
            return super().forward(ids)
        return torch.where(known[..., None], super().forward(ids.clamp(min=0)), self.weight.mean(0))


class FeedForward(nn.Module):
    """ReLU(x W1 + b1) W2 + b2 at every step; W1 and W2 are D x D (SASRec, eq. 5), or D x ``inner`` and back.

    kind: ``relu`` is this; ``swiglu`` is (SiLU(x W1) * x W3) W2 (Shazeer, 2020).
    """

    def __init__(self, width: int, dropout: float, inner: int | None = None, kind: str = "relu") -> None:
        super().__init__()
        inner = width if inner is None else inner
        if inner < 1:
            raise UserError(f"ffn_width={inner}: must be at least 1")
        if kind not in FFNS:
            raise UserError(f"ffn={kind!r}: choose one of {', '.join(FFNS)}")
        plain = kind == "relu"
        self.first = nn.Linear(width, inner, bias=plain)
        self.dropout = Dropout(dropout)
        self.second = nn.Linear(inner, width, bias=plain)
        self.third = None if plain else nn.Linear(width, inner, bias=False)
        for layer in (self.first, self.second, self.third):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, states_BND: Tensor) -> Tensor:
        inner = self.first(states_BND)
        active = relu(inner) if self.third is None else silu(inner) * self.third(states_BND)
        out: Tensor = self.second(self.dropout(active))
        return out


class Block(nn.Module):
    """x + Dropout(g(LayerNorm(x))), with g = attention and then g = feed-forward (SASRec, section III-C).

    norm: ``pre`` is this formula, the paper's; ``post`` is LayerNorm(x + Dropout(g(x))).
    residual: False omits ``x +`` (row 3 of the paper's ablation).
    ffn_width: of the feed-forward net's inner layer; None for D, the paper's.
    ffn: what kind of it, as in ``FeedForward``.
    gated: g(...) times sigmoid(x W), as in LiGR (Borisyuk et al., 2025).
    attention: another one in place of the full one, whose options ``attention_dropout`` and ``output_projection`` are.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        dropout: float,
        norm: str = "pre",
        residual: bool = True,
        attention_dropout: float = 0.0,
        output_projection: bool = False,
        ffn_width: int | None = None,
        gated: bool = False,
        ffn: str = "relu",
        attention: AttentionPart | None = None,
    ) -> None:
        super().__init__()
        if attention is not None and (attention_dropout or output_projection):
            raise UserError(
                "attention_dropout and output_projection are of the full attention; leave them out with another"
            )
        if norm not in NORMS:
            raise UserError(f"norm={norm!r}: choose one of {', '.join(NORMS)}")
        self.pre = norm == "pre"
        self.residual = residual
        self.attention_norm = nn.LayerNorm(width)
        full = partial(CausalAttention, dropout=attention_dropout, output_projection=output_projection)
        self.attention = (attention or full)(width, n_heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout, ffn_width, ffn)
        self.attention_gate = nn.Linear(width, width, bias=False) if gated else None
        self.feed_forward_gate = nn.Linear(width, width, bias=False) if gated else None
        self.dropout = Dropout(dropout)

    def forward(self, states_BND: Tensor) -> Tensor:
        mixed_BND = self.attention(self.attention_norm(states_BND) if self.pre else states_BND)
        return self._rest(states_BND, mixed_BND)

    def at_steps(self, states_BND: Tensor, steps_B: Tensor) -> Tensor:
        """``forward(states_BND)`` at only one step of each row (B, D), for evaluation."""
        mixed_BD = self.attention.at_steps(self.attention_norm(states_BND) if self.pre else states_BND, steps_B)
        return self._rest(at_steps(states_BND, steps_B), mixed_BD)

    def attention_weights(self, states_BND: Tensor) -> Tensor | None:
        """The weights (B, H, N, N) of the attention in ``forward(states_BND)``, if they are of single steps."""
        return self.attention.weights(self.attention_norm(states_BND) if self.pre else states_BND)

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        """All that follows the attention."""
        x = self._add(x, mixed, self.attention_gate, self.attention_norm)
        changed = self.feed_forward(self.feed_forward_norm(x) if self.pre else x)
        return self._add(x, changed, self.feed_forward_gate, self.feed_forward_norm)

    def _add(self, x: Tensor, change: Tensor, gate: nn.Module | None, norm: nn.Module) -> Tensor:
        change = self.dropout(change)
        if gate is not None:
            change = change * gate(x).sigmoid()
        x = x + change if self.residual else change
        return x if self.pre else norm(x)


class Encoder(nn.Module, ABC):
    """From one vector per step to one state per step, which depends only on the steps up to it and their times.

    ``times_BN`` are those of ``History``, None if the data has none. ``needs_times``: the option because of which there
    must be times, UserError without; None if it needs none.
    """

    needs_times: str | None = None

    @abstractmethod
    def forward(self, steps_BND: Tensor, times_BN: Tensor | None = None) -> Tensor:
        """States (B, N, D)."""

    def at_steps(self, steps_BND: Tensor, steps_B: Tensor, times_BN: Tensor | None = None) -> Tensor:
        """``forward(steps_BND, times_BN)`` at only one step of each row (B, D), for evaluation."""
        return at_steps(self(steps_BND, times_BN), steps_B)

    def attentions(self, steps_BND: Tensor, times_BN: Tensor | None = None) -> Iterator[Tensor]:
        """The weights (B, H, N, N) of each block's causal attention, from the first; none if it has no such blocks."""
        return iter(())


EncoderPart: TypeAlias = Callable[[int, float], Encoder]
"""Makes an encoder from a width and a dropout."""


@final
class SelfAttention(Encoder):
    """SASRec's stack of causal self-attention blocks. ``final_norm=False`` omits the norm after the last one."""

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
        ffn_width: int | None = None,
        gated: bool = False,
        ffn: str = "relu",
        final_norm: bool = True,
        attention: AttentionPart | None = None,
    ) -> None:
        super().__init__()
        if n_blocks < 0:
            raise UserError(f"n_blocks must be 0 or more, not {n_blocks}")
        self.blocks = nn.ModuleList(
            Block(
                width,
                n_heads,
                dropout,
                norm,
                residual,
                attention_dropout,
                output_projection,
                ffn_width,
                gated,
                ffn,
                attention,
            )
            for _ in range(n_blocks)
        )
        if norm == "post" and not final_norm:
            raise UserError("final_norm=false needs norm=pre: with norm=post nothing follows the last block")
        # Pre-norm blocks never normalise their residual stream: without this the scores get it unnormalised.
        self.final_norm = nn.LayerNorm(width) if norm == "pre" and final_norm else nn.Identity()

    def forward(self, steps_BND: Tensor, times_BN: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            steps_BND = block(steps_BND)
        final_BND: Tensor = self.final_norm(steps_BND)
        return final_BND

    def at_steps(self, steps_BND: Tensor, steps_B: Tensor, times_BN: Tensor | None = None) -> Tensor:
        """Skips the other steps in the last block. Ranking takes two thirds of the time that it takes without this."""
        for block in self.blocks[:-1]:
            steps_BND = block(steps_BND)
        last = self.blocks[-1:]
        states_BD = cast(Block, last[0]).at_steps(steps_BND, steps_B) if last else at_steps(steps_BND, steps_B)
        final_BD: Tensor = self.final_norm(states_BD)
        return final_BD

    def attentions(self, steps_BND: Tensor, times_BN: Tensor | None = None) -> Iterator[Tensor]:
        for block in self.blocks:
            weights_BHNN = cast(Block, block).attention_weights(steps_BND)
            if weights_BHNN is not None:
                yield weights_BHNN
            steps_BND = block(steps_BND)


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
        categories: nn.Module | None = None,
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

    def forward(self, items_BN: Tensor, times_BN: Tensor | None = None) -> Tensor:
        """States (B, N, D). ``times_BN``: of the items, for encoders that look at them."""
        states_BND: Tensor = self.encoder(self._embed(items_BN), times_BN)
        return states_BND

    def newest(self, items_BN: Tensor, times_BN: Tensor | None = None) -> Tensor:
        """The state at each row's newest item (B, D)."""
        return self.encoder.at_steps(self._embed(items_BN), last_steps(items_BN), times_BN)

    def attentions(self, items_BN: Tensor, times_BN: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
        """A name for each block of the encoder, and the weights (B, H, N, N) of its attention."""
        for number, weights_BHNN in enumerate(self.encoder.attentions(self._embed(items_BN), times_BN), 1):
            yield f"block {number}", weights_BHNN

    def _embed(self, items_BN: Tensor) -> Tensor:
        states_BND = self.item_embedding(items_BN) * self.scale
        if self.categories is not None:
            states_BND = states_BND + self.categories(items_BN)
        if self.position_embedding is not None:
            steps_N = torch.arange(items_BN.shape[1], device=items_BN.device)
            states_BND = states_BND + self.position_embedding(steps_back(items_BN) if self.from_newest else steps_N)
        embedded_BND: Tensor = self.dropout(states_BND)
        return embedded_BND
