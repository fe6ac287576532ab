"""FuXi-alpha: scaling recommendation with a feature interaction enhanced transformer (Ye et al., WWW 2025)."""

from functools import partial
from typing import final

from torch import Tensor

from sairlib.batch import History
from sairlib.models.heads import ByCosines, HeadPart
from sairlib.models.recommender import Head, StepModel
from sairlib.nn.fuxi import channel_blocks
from sairlib.nn.layers import ItemEncoder


@final
class FuXiAlpha(StepModel):
    """Score <e_i, x_t> / tau of unit vectors, as in HSTU, with other blocks. Equations are those of the authors' code:

        U, V, Q, K = Split(SiLU(Norm(X) W))
        A = [P V; T V; SiLU(Q K^T) / N V],  each over the steps up to t, joined
        X' = X + (Norm(A) * U) W0 + b0
        Y = X' + (SiLU(Norm(X') W1) * Norm(X') W3) W2

    P_tj is a learned number for how many steps lie between t and j, T_tj one for how much time: channels of their own,
    where HSTU adds them to Q K^T. Each block has its own, the same for its heads. Norm divides by the root of the mean
    square. X of the first block is sqrt(d) e_i plus the position's vector.

    - ``n_blocks`` of ``n_heads`` heads; Q and K have ``d_qk`` columns for each head, V ``d_v``, U ``d_v`` for each
      channel. W1 and W3 have ``ffn_width`` columns; None is d.
    - ``position_channel``, ``time_channel``: P V and T V. Times are counted in HSTU's buckets. UserError for histories
      without times: ``time_channel=False``.
    - ``positions``, ``cosine``, ``temperature``: as in HSTU.

    Deviations from the authors' code:

    1. T_tj is of the time from step j to step t. In their code it is that to step t + 1, the one to be predicted, as in
       HSTU's (see there). Here a state knows no time after its own step.
    2. N is ``max_len``; theirs is 11 more.
    3. Dropout is where theirs is: on the first input, (Norm(A) * U), and Norm(X'). b0 starts at zero, tables
       Xavier-uniform; P, T and W start normal with deviation 0.02, the other matrices Xavier-uniform, as theirs.
    4. Their loss is HSTU's: ``loss.logq=false negatives.n=128``.
    """

    def __init__(
        self,
        n_items: int,
        max_len: int,
        d: int = 50,
        n_blocks: int = 2,
        n_heads: int = 1,
        d_qk: int = 50,
        d_v: int = 50,
        ffn_width: int | None = None,
        dropout: float = 0.2,
        position_channel: bool = True,
        time_channel: bool = True,
        positions: str | None = "oldest",
        head: HeadPart | None = None,
    ) -> None:
        super().__init__()
        self.n_items = n_items
        blocks = partial(
            channel_blocks,
            max_len=max_len,
            n_blocks=n_blocks,
            n_heads=n_heads,
            d_qk=d_qk,
            d_v=d_v,
            ffn_width=ffn_width,
            position_channel=position_channel,
            time_channel=time_channel,
        )
        self.encoder = ItemEncoder(n_items, max_len, d, dropout, blocks, positions=positions)
        self.needs_times = self.encoder.encoder.needs_times
        self.scoring = head or ByCosines()

    def encode(self, history: History) -> Tensor:
        return self.scoring.states(self.encoder(history.items_BN, history.times_BN))

    def newest(self, history: History) -> Tensor:
        return self.scoring.states(self.encoder.newest(history.items_BN, history.times_BN))

    @property
    def head(self) -> Head:
        return self.scoring.head(self.encoder.item_embedding)
