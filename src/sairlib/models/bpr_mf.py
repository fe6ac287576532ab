"""BPR-MF: matrix factorisation learnt by pairwise ranking (Rendle et al., UAI 2009)."""

from typing import final

from torch import Tensor, nn

from sairlib.batch import PAD, History
from sairlib.models.recommender import Head, Products, StepModel
from sairlib.nn.layers import Table, UserTable


@final
class BPRMF(StepModel):
    """s(u, i) = <U_u, V_i>, learnt by BPR: -log sigmoid(s(u, i) - s(u, j)), i taken by u and j not (section 4.3.1).

    It knows users and no order: the state is U_u at every step, whatever the history. A user the model was not trained
    on is a UserError. ``item_bias=True`` adds b_i, as the SASRec paper compares it. b is a column more of V, which the
    state meets with a 1.

    Deviations from the paper:

    1. Its lambda, an L2 penalty, is ``training.weight_decay``: on all rows at every step, where the paper's algorithm
       shrinks the rows of the triple it has drawn.
    2. A step is a mini-batch of users, with Adam; the paper draws single triples with replacement, with plain SGD.
    3. A user's first training item is never a positive: it is not the next item of anything.
    4. Factors start Xavier-uniform, b at 0; the paper is silent.
    """

    def __init__(self, n_items: int, n_users: int, d: int = 50, item_bias: bool = False) -> None:
        super().__init__()
        self.n_items = n_items
        self.item_bias = item_bias
        self.user_factors = UserTable(n_users, d)
        self.item_factors = Table(n_items + 1, d + item_bias, padding_idx=PAD)
        nn.init.zeros_(self.item_factors.weight[:, d:])

    def encode(self, history: History) -> Tensor:
        factors_BD: Tensor = self.user_factors(history.users_B)
        if self.item_bias:
            factors_BD = nn.functional.pad(factors_BD, (0, 1), value=1.0)
        return factors_BD[:, None].expand(-1, history.items_BN.shape[1], -1)

    @property
    def head(self) -> Head:
        return Products(self.item_factors.of)
