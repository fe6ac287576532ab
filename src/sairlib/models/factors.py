"""What the models of one vector per user and per item share."""

from torch import Tensor

from sairlib.errors import UserError
from sairlib.models.recommender import Recommender, inner_products
from sairlib.nn.table import Table


class InnerProduct(Recommender):
    """A recommender whose score is the inner product of the state and the item's row of one table."""

    item_factors: Table

    def score(self, states: Tensor, items: Tensor) -> Tensor:
        return inner_products(states, self.item_factors(items))

    def score_shared(self, states: Tensor, items_C: Tensor) -> Tensor:
        scores: Tensor = states @ self.item_factors(items_C).T
        return scores

    def score_all(self, states_BD: Tensor) -> Tensor:
        return states_BD @ self.item_factors.weight.T

    def row_tables(self) -> list[Table]:
        return [module for module in self.modules() if isinstance(module, Table)]


def check_width(d: int) -> None:
    if d < 1:
        raise UserError(f"the width d must be at least 1, not {d}")
