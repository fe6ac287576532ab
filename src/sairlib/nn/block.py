"""The block that SASRec stacks: attention, then a feed-forward net, each with norm, dropout and residual."""

from torch import Tensor, nn
from torch.nn.functional import relu

from sairlib.batch import at_steps
from sairlib.errors import UserError
from sairlib.nn.attention import CausalAttention
from sairlib.nn.dropout import Dropout

NORMS = ("pre", "post")


class FeedForward(nn.Module):
    """ReLU(x W1 + b1) W2 + b2, both D x D, the same at every step (SASRec, eq. 5)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.second = nn.Linear(width, width)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, states_BND: Tensor) -> Tensor:
        out: Tensor = self.second(self.dropout(relu(self.first(states_BND))))
        return out


class Block(nn.Module):
    """g = attention, then g = feed-forward, each as x + Dropout(g(LayerNorm(x))) (SASRec, section III-C).

    norm: ``pre`` as just written (the paper), ``post`` for LayerNorm(x + Dropout(g(x))).
    residual: False leaves the ``x +`` out (row 3 of the paper's ablation).
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
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise UserError(f"norm={norm!r}: choose one of {', '.join(NORMS)}")
        self.pre = norm == "pre"
        self.residual = residual
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, n_heads, attention_dropout, output_projection)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, states_BND: Tensor) -> Tensor:
        mixed_BND = self.attention(self.attention_norm(states_BND) if self.pre else states_BND)
        return self._rest(states_BND, mixed_BND)

    def at_steps(self, states_BND: Tensor, steps_B: Tensor) -> Tensor:
        """``forward(states_BND)`` at one step of each row alone (B, D), for evaluation."""
        mixed_BD = self.attention.at_steps(self.attention_norm(states_BND) if self.pre else states_BND, steps_B)
        return self._rest(at_steps(states_BND, steps_B), mixed_BD)

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        """All but the attention: the same at every step."""
        x = self._add(x, mixed, self.attention_norm)
        return self._add(x, self.feed_forward(self.feed_forward_norm(x) if self.pre else x), self.feed_forward_norm)

    def _add(self, x: Tensor, change: Tensor, norm: nn.Module) -> Tensor:
        change = self.dropout(change)
        x = x + change if self.residual else change
        return x if self.pre else norm(x)
