"""BPR-MF: matrix factorisation learnt by pairwise ranking (Rendle et al., UAI 2009)."""

from typing import final

from torch import Tensor, nn

from sairlib.batch import PAD
from sairlib.models.recommender import Recommender
from sairlib.nn.table import Table, UserTable


@final
class BPRMF(Recommender):
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

    every_step = True
    uses_users = True

    def __init__(self, n_items: int, n_users: int, d: int = 50, item_bias: bool = False) -> None:
        super().__init__()
        self.n_items = n_items
        self.item_bias = item_bias
        self.user_factors = UserTable(n_users, d)
        self.item_factors = Table(n_items + 1, d + item_bias, padding_idx=PAD)
        nn.init.zeros_(self.item_factors.weight[:, d:])

    def encode(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        return self.encode_newest(items_BN, users_B)[:, None].expand(-1, items_BN.shape[1], -1)

    def encode_newest(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        factors_BD: Tensor = self.user_factors(users_B)
        return nn.functional.pad(factors_BD, (0, 1), value=1.0) if self.item_bias else factors_BD

    def item_vectors(self, items: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.item_factors.of(items), None

    def row_tables(self) -> list[Table]:
        return [module for module in self.modules() if isinstance(module, Table)]
