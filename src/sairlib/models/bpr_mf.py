"""BPR-MF: matrix factorisation trained by pairwise ranking (Rendle et al., UAI 2009)."""

from typing import final

from torch import Tensor, nn

from sairlib.batch import PAD, History
from sairlib.models.recommender import Head, Products, StepModel
from sairlib.nn.layers import Table, UserTable


@final
class BPRMF(StepModel):
    """s(u, i) = <U_u, V_i>, with loss -log sigmoid(s(u, i) - s(u, j)), where u has i and not j (section 4.3.1).

    The state is U_u at every step and does not depend on the history. UserError in evaluation for a user that the model
    was not trained on. ``item_bias=True`` adds b_i, as in the SASRec paper's baseline; b is an extra column of V, and
    the state has a 1 there.

    Deviations from the paper:

    1. Its L2 penalty lambda is ``training.weight_decay``, on all rows at every step; the paper's algorithm shrinks only
       the rows of the triple that it draws.
    2. A step is a mini-batch of users, with Adam; the paper draws single triples with replacement, with plain SGD.
    3. A user's first training item is never a target, because no item precedes it.
    4. Factors start Xavier-uniform, b at 0; the paper does not say.
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
