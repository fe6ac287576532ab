"""TiSASRec: time interval aware self-attention for sequential recommendation (Li, Wang and McAuley, WSDM 2020)."""

from collections.abc import Iterator
from functools import partial
from typing import final

import torch
from torch import Tensor

from sairlib.batch import Batch, History, State
from sairlib.errors import UserError
from sairlib.models.recommender import Head, Products, StepModel
from sairlib.nn.intervals import TimeIntervals
from sairlib.nn.layers import ItemEncoder


@final
class TiSASRec(StepModel):
    """R_{i,t} = <Z_t, M^I_i>: SASRec whose attention looks at positions and at times between the items (eq. 1 to 11).

        z_i = sum_j alpha_ij (m_j W^V + r^v_ij + p^v_j),  alpha_ij the softmax over j <= i of e_ij
        e_ij = m_i W^Q (m_j W^K + r^k_ij + p^k_j)^T / sqrt(d)

    p^k and p^v are the vectors of the position, r^k and r^v those of the interval min(k, floor((t_i - t_j) / unit)),
    where the unit is the smallest time above 0 between two neighbours of a person's actions. All blocks share these
    tables. Then z = z + Dropout(FFN(LayerNorm(z))), as in SASRec.

    - ``k``: the longest interval; the paper takes 2048 on ML-1M, its authors' code 256.
    - ``intervals=False`` leaves r^k and r^v out. UserError for histories without times if it is True.
    - ``l2`` adds l2 / 2 times the squares of all tables to the loss, as in the authors' code.

    Deviations from the paper:

    1. The unit at step i is that of the steps up to i. The paper's is that of the whole history, which tells a step
       about later times; in its authors' code it is that of the validation and test actions as well.
    2. Positions count from the oldest step that is seen. The paper's sequences are padded on the left, so that they
       count back from the newest: the same for histories of n or more.
    3. As with our SASRec (its deviations 1, 2, 4 and 6): M^I times sqrt(d) at the input and a last LayerNorm as in the
       authors' code; residuals and norms, without biases in W, as in SASRec's formulas; tables start Xavier-uniform.
    4. Dropout of r and p, which their code has, is drawn for each number of the four tables, not anew for each pair of
       steps. We also have their code's dropout of alpha.
    """

    def __init__(
        self,
        n_items: int,
        max_len: int,
        d: int = 50,
        n_blocks: int = 2,
        n_heads: int = 1,
        dropout: float = 0.2,
        k: int = 256,
        intervals: bool = True,
        scale_items: bool = True,
        l2: float = 5e-5,
    ) -> None:
        super().__init__()
        if not l2 >= 0:
            raise UserError(f"l2={l2}: must be 0 or more")
        self.n_items = n_items
        self.l2 = l2
        blocks = partial(TimeIntervals, max_len=max_len, n_blocks=n_blocks, n_heads=n_heads, k=k, intervals=intervals)
        self.encoder = ItemEncoder(n_items, max_len, d, dropout, blocks, positions=None, scale_items=scale_items)
        self.encoder.item_embedding.whole = l2 > 0
        self.needs_times = self.encoder.encoder.needs_times

    def encode(self, history: History) -> Tensor:
        states_BND: Tensor = self.encoder(history.items_BN, history.times_BN)
        return states_BND

    def newest(self, history: History) -> Tensor:
        return self.encoder.newest(history.items_BN, history.times_BN)

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        if not self.l2:
            return {}
        encoder = self.encoder.encoder
        assert isinstance(encoder, TimeIntervals)
        tables = [self.encoder.item_embedding.weight, *encoder.tables.parameters()]
        return {"l2": self.l2 / 2 * torch.stack([table.square().sum() for table in tables]).sum()}

    @torch.no_grad()
    def attentions(self, history: History) -> Iterator[tuple[str, Tensor]]:
        yield from self.encoder.attentions(history.items_BN, history.times_BN)

    @property
    def head(self) -> Head:
        return Products(self.encoder.item_embedding.of)
