"""HSTU: hierarchical sequential transduction units (Zhai et al., ICML 2024)."""

from functools import partial
from typing import final

from torch import Tensor

from sairlib.batch import History
from sairlib.models.heads import ByCosines, HeadPart
from sairlib.models.recommender import Head, StepModel
from sairlib.nn.hstu import transduction_units
from sairlib.nn.layers import ItemEncoder


@final
class HSTU(StepModel):
    """Score <e_i, y_t> / tau of unit vectors: e_i the item's, y_t the last layer's state ("Actions speak louder than
    words", section 3; the recommender of its public experiments). A layer has no softmax and no feed-forward net:

        U(X), V(X), Q(X), K(X) = Split(SiLU(f1(Norm(X))))
        A(X) V(X) = SiLU(Q(X) K(X)^T + rab^{p,t}) / N V(X),  over the steps up to t
        Y(X) = X + f2(Norm(A(X) V(X)) * U(X))

    f1 and f2 are linear. rab^{p,t} is a learned number for how many steps, and one for how much time, lies between two
    steps; each layer has its own. X of the first layer is sqrt(d) e_i plus the position's vector.

    - ``n_blocks`` layers of ``n_heads`` heads; Q and K have ``d_qk`` columns for each head, U and V ``d_v``.
    - ``position_bias``, ``time_bias``: the two parts of rab. Times are counted in buckets, the n-th from
      e^(0.301 n) units of the data on (mostly seconds). UserError for histories without times: ``time_bias=False``.
    - ``positions``: the vectors added to X count from the ``oldest`` step, as in the authors' code, or from the
      ``newest``; None omits them.
    - ``head``: how states score items, by cosines with tau = 0.05 if not given.

    Deviations from the paper and its authors' public code (for MovieLens and Amazon):

    1. The time in row t, column j is that from step j to step t. In their code it is that from j to step t + 1, which
       is the one to be predicted: the model is told when the next action happens, in training and in evaluation. Here
       a state knows no time after its own step.
    2. N is ``max_len``, in their code the longest history they can hold, 11 more. The Norm after it undoes it.
    3. Where the code differs from the paper's formulas, we follow the code: f1 has no bias; the Norms are layer norms
       without weights; X is normalised before f1 and added at the end; dropout is on f1's input of the first layer and
       on f2's input; A has none.
    4. Their f1 and rab start normal with deviation 0.02, f2 Xavier-uniform, and so do ours. Their tables start
       truncated-normal, ours Xavier-uniform.
    5. Their loss is a sampled softmax with 128 negatives for each target, drawn from all items and not corrected for
       how few they are: ``loss.logq=false negatives.n=128``. ``negatives=uniform`` draws from those that the user has
       not had.
    6. No kernels for sequences of thousands of steps, no shortening of histories at random (section 3.2 and later).
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
        dropout: float = 0.2,
        position_bias: bool = True,
        time_bias: bool = True,
        positions: str | None = "oldest",
        head: HeadPart | None = None,
    ) -> None:
        super().__init__()
        self.n_items = n_items
        units = partial(
            transduction_units,
            max_len=max_len,
            n_blocks=n_blocks,
            n_heads=n_heads,
            d_qk=d_qk,
            d_v=d_v,
            position_bias=position_bias,
            time_bias=time_bias,
        )
        self.encoder = ItemEncoder(n_items, max_len, d, dropout, units, positions=positions)
        self.needs_times = self.encoder.encoder.needs_times
        self.scoring = head or ByCosines()

    def encode(self, history: History) -> Tensor:
        return self.scoring.states(self.encoder(history.items_BN, history.times_BN))

    def newest(self, history: History) -> Tensor:
        return self.scoring.states(self.encoder.newest(history.items_BN, history.times_BN))

    @property
    def head(self) -> Head:
        return self.scoring.head(self.encoder.item_embedding)
