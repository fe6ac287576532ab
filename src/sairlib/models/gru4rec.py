"""GRU4Rec: recurrent networks for the next item (Hidasi et al., ICLR 2016; Hidasi and Karatzoglou, CIKM 2018)."""

from typing import final

from torch import Tensor, nn

from sairlib.batch import PAD, History, State
from sairlib.errors import UserError
from sairlib.models.heads import ByProducts, HeadPart
from sairlib.models.recommender import Carried, Head, RecurrentModel
from sairlib.nn.layers import Dropout, Table
from sairlib.nn.recurrent import gru_layers, one_step, start_gates


@final
class GRU4Rec(RecurrentModel):
    """s_{t,i} = E_i . h_t + b_i, with h_t = Dropout(GRU(h_{t-1}, Dropout(E_{x_t}))) for items x_1 .. x_t.

    A gated recurrent unit has an update gate z and a reset gate r. All terms have biases, not shown here:

        z = sigma(W_z x + U_z h),  r = sigma(W_r x + U_r h),  c = tanh(W x + r * U h),  h' = (1 - z) h + z c

    ``n_layers`` of these units, of width ``d_hidden``, are stacked, with Dropout after each.

    - ``tied=True``: one table for input and scores, the authors' constrained embedding; if ``d_hidden`` differs from
      ``d``, a linear layer maps h_t to d. ``tied=False``: another table, of width ``d_hidden``, for the scores.
    - ``embedding_dropout`` and ``hidden_dropout``: the inner and the outer Dropout above.

    ``model=gru4rec`` is the network of 2016 with its BPR loss, ``model=gru4rec-plus`` that of 2018 with BPR-max. The
    papers' other losses are ``loss=top1`` and ``loss=top1_max``.

    ``objective=session_parallel`` trains as the papers do: a batch is one event of each of B sessions, whose targets
    are negatives of each other, and the state is passed on without its gradient (``SessionParallel``, which numbers
    what it does otherwise). As in the authors' code, Dropout then also falls on the state that is passed on: ``step``
    passes on the outputs of the layers, as ``hidden_dropout`` left them.

    Deviations from the papers:

    1. Unless that objective is chosen, whole sequences are trained, by back-propagation through all their steps.
    2. The negatives are then a setting. ``popular`` draws them for the whole batch by count ^ alpha, like the
       additional samples of 2018, and alpha = 1 corresponds to mini-batches.
    3. Then only the outputs of a layer are dropped out, not the recurrence.
    4. Missing are an activation of the scores (tanh, ELU), momentum, and one-hot input without a table.
    5. r is applied after the product with U, as in PyTorch, which the authors' current code uses; 2016 writes
       U (r * h). PyTorch's z weighs the old state, the paper's weighs c: equivalent, with the sign of z's weights
       reversed.
    6. The linear layer for d_hidden other than d is not in the papers, and tying is not in that of 2016.
    7. Each gate's matrices start Xavier-uniform and biases at zero, as in the authors' code.
    """

    def __init__(
        self,
        n_items: int,
        d: int = 100,
        d_hidden: int = 100,
        n_layers: int = 1,
        embedding_dropout: float = 0.0,
        hidden_dropout: float = 0.2,
        tied: bool = True,
        head: HeadPart | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("d", d), ("d_hidden", d_hidden), ("n_layers", n_layers)):
            if value < 1:
                raise UserError(f"{name}={value}: must be 1 or more")
        self.n_items = n_items
        self.d_hidden = d_hidden
        self.scoring = head or ByProducts()
        self.item_embedding = Table(n_items + 1, d, padding_idx=PAD)
        self.embedding_dropout = Dropout(embedding_dropout)
        self.layers = gru_layers([d] + [d_hidden] * n_layers)
        self.hidden_dropout = Dropout(hidden_dropout)
        self.dense = nn.Linear(d_hidden, d) if tied and d != d_hidden else None
        self.output_embedding = None if tied else Table(n_items + 1, d_hidden, padding_idx=PAD)
        self.output_bias = Table(n_items + 1, 1, padding_idx=PAD)
        nn.init.zeros_(self.output_bias.weight)
        start_gates(self.layers)

    @property
    def _table(self) -> Table:
        return self.output_embedding or self.item_embedding

    def encode(self, history: History) -> Tensor:
        states_BND: Tensor = self.embedding_dropout(self.item_embedding(history.items_BN))
        for layer in self.layers:
            states_BND = self.hidden_dropout(layer(states_BND)[0])
        return self._scored(states_BND)

    def start(self, n: int) -> Carried:
        """A state of zeros for each layer."""
        return tuple(self.output_bias.weight.new_zeros(n, self.d_hidden) for _ in self.layers)

    def step(self, history: History, carried: Carried) -> tuple[State, Carried]:
        """Carries the outputs of the layers, after dropout."""
        states_BD: Tensor = self.embedding_dropout(self.item_embedding(history.items_BN[:, 0]))
        outputs = []
        for layer, before_BD in zip(self.layers, carried, strict=True):
            states_BD = self.hidden_dropout(one_step(layer, states_BD, before_BD))
            outputs.append(states_BD)
        return self._scored(states_BD[:, None]), tuple(outputs)

    def _scored(self, states_BND: Tensor) -> Tensor:
        """The states that are scored, of the last layer's outputs."""
        return self.scoring.states(states_BND if self.dense is None else self.dense(states_BND))

    @property
    def head(self) -> Head:
        return self.scoring.head(self._table, bias=lambda items: self.output_bias.of(items).squeeze(-1))
