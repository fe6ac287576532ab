"""DIN: deep interest network (Zhou et al., KDD 2018)."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sairlib.batch import PAD, History, State
from sairlib.errors import UserError
from sairlib.models.recommender import Head, StepModel
from sairlib.nn.categories import ItemVectors
from sairlib.nn.kernels.parts import in_blocks, rows_at_once
from sairlib.nn.kernels.windows import recent
from sairlib.nn.layers import Table, UserTable
from sairlib.nn.perceptron import Perceptron

ROWS = 8
"""Histories that are scored at once, at least, so that the matrices of the candidates serve several."""


@final
class DIN(StepModel):
    """The candidate decides how much of the history counts: v_U(A) = sum_j a(e_j, v_A) e_j (eq. 3).

    e_1 .. e_H are the vectors of the newest H items, v_A that of the candidate A:

    - The activation unit a(e, v) = MLP([e; v; e - v; e * v]) is one number, of any sign. The weights do not sum to 1:
      their sum says how strongly the history speaks for the candidate.
    - The score is MLP([v_U(A); v_A]). The paper's softmax of two outputs is the sigmoid of their difference: one output
      here, and the sigmoid is in the loss, BCE.
    - A vector is [item; category], each ``d`` wide: ``use_category``, and ``category_pooling`` of several categories.
      Without, and for data without categories, it is the item's alone.
    - ``attention_1`` and, if there is one, ``attention_2``: the hidden layers of the unit. ``hidden_1``, ``hidden_2``:
      those of the second MLP. ``activation`` of both: ``prelu``, with a slope for each unit (eq. 7), or ``sigmoid``.

    Options of the authors' public code, which has ``activation=sigmoid`` and layers of 80 and 40 in both MLPs:

    - ``softmax=True``: softmax_j(a(e_j, v) / sqrt(width of e)) instead of a. ``item_bias=True``: adds b_A to the score.

    ``user_embedding=True``: MLP([U_u; v_U(A); v_A]) with a vector for each user, instead of the paper's user profiles,
    which its public data sets do not have. UserError in evaluation for a user that the model was not trained on.

    Every step is trained, each with its own newest H items. This is exact, and no more work than prefixes drawn one by
    one: nearly all of it is in pairs of a step and a candidate, which no two prefixes share.

    The unit's first layer W1 e + W2 v + W3 (e - v) + W4 (e * v) + b is (W1 + W3 + W4 diag(v)) e + (W2 - W3) v + b: in
    ranking, each candidate has a matrix and a bias, and all histories are multiplied by them. A full ranking has
    users x M x H such products of d x ``attention_1``, 2.6e12 multiplications on ML-1M with d = 64, in blocks of
    limited memory.

    Deviations from the paper, and choices that it leaves open:

    1. The unit's inputs are those of the authors' code. The paper has an "out product" of e and v where the code has
       their difference and product.
    2. Dice (eq. 8) and mini-batch aware regularisation are missing. With Dice a score depends in training on which
       other pairs are in the batch; the paper reports DIN with PReLU, without Dice, in a row of its own.
    3. The authors' code also normalises v_U(A) and the second MLP's input over the batch, and multiplies v_U(A) by a
       matrix. The paper does not mention this; it is missing here.
    4. The paper predicts clicks, and whether a rating is 4 or more. Here a target is what a user did next, and the
       others are drawn.
    5. The categories of an item are pooled by their mean. The data of the paper's shop have one for each item.
    6. The default of d is that of the authors' code, those of the layers are the paper's, that of H is ours. Matrices
       start Xavier-uniform, biases 0 (the defaults in the authors' framework), slopes 0.1 (as in the code of DIEN).
    """

    def __init__(
        self,
        n_items: int,
        n_users: int,
        max_len: int,
        item_categories: Tensor,
        n_categories: int,
        d: int = 64,
        H: int = 50,
        attention_1: int = 36,
        attention_2: int | None = None,
        hidden_1: int = 200,
        hidden_2: int = 80,
        activation: str = "prelu",
        softmax: bool = False,
        item_bias: bool = False,
        user_embedding: bool = False,
        use_category: bool = True,
        category_pooling: str = "mean",
    ) -> None:
        super().__init__()
        if H < 1:
            raise UserError(f"H={H}: must be 1 or more")
        self.n_items = n_items
        self.memory = self.H = min(H, max_len)
        self.softmax = softmax
        self.vectors = ItemVectors(n_items, d, item_categories, n_categories, use_category, category_pooling)
        self.user_embedding = UserTable(n_users, d) if user_embedding else None
        width = self.vectors.width
        unit = {"attention_1": attention_1} | ({} if attention_2 is None else {"attention_2": attention_2})
        self.attention = Perceptron(4 * width, unit, activation)
        n_inputs = 2 * width + (d if user_embedding else 0)
        self.scorer = Perceptron(n_inputs, {"hidden_1": hidden_1, "hidden_2": hidden_2}, activation)
        self.output_bias = Table(n_items + 1, 1, padding_idx=PAD) if item_bias else None
        if self.output_bias is not None:
            nn.init.zeros_(self.output_bias.weight)

    def encode(self, history: History) -> State:
        """At each step the vectors of the newest H items (B, N, H, width), 0 where there is none; where there is one
        (B, N, H); and, if the model has them, the user's vector (B, N, d)."""
        real_BN1 = (history.items_BN != PAD)[..., None]
        windows = recent(self.vectors(history.items_BN) * real_BN1, self.H), recent(real_BN1, self.H).squeeze(-1)
        if self.user_embedding is None:
            return windows
        users_B1D = self.user_embedding(history.users_B)[:, None]
        return *windows, users_B1D.expand(-1, real_BN1.shape[1], -1)

    @property
    def head(self) -> Head:
        return LocalActivation(self)


@final
class LocalActivation(Head):
    """Scores items by DIN's two networks. The parts of a state are those of ``DIN.encode``.

    N is here the length of a history, H; A is the width of the activation unit's first layer.
    """

    log_odds = True

    def __init__(self, model: DIN) -> None:
        self.model = model
        self.numbers = max(model.H * max(model.attention.widths), *model.scorer.widths)
        """In memory for each pair of a history and a candidate."""

    def score(self, states: State, items: Tensor) -> Tensor:
        def block(items_XC: Tensor, *state: Tensor) -> Tensor:
            history_XND, vectors_XCD = state[0], self.model.vectors(items_XC)
            of_history_DA, of_product_DA, biases_XCA = self._unit(vectors_XCD)
            # With few candidates, their matrices would be more work than the products themselves.
            hidden_XNCA = (history_XND[:, :, None] * vectors_XCD[:, None]) @ of_product_DA
            hidden_XNCA = hidden_XNCA + (biases_XCA[:, None] + (history_XND @ of_history_DA)[:, :, None])
            return self._scores(hidden_XNCA, vectors_XCD, items_XC, *state)

        rows = [part.flatten(0, items.dim() - 2) for part in states]
        return in_blocks(block, items.shape[-1] * self.numbers, items.flatten(0, -2), *rows).view(items.shape)

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        leading = states[1].shape[:-1]
        rows = [part.flatten(0, len(leading) - 1) for part in states]

        def block(items_C: Tensor) -> Tensor:
            vectors_CD = self.model.vectors(items_C)
            of_history_DA, of_product_DA, biases_CA = self._unit(vectors_CD)
            matrices_CAD = of_history_DA.T + of_product_DA.T * vectors_CD[:, None]

            def of_rows(*state: Tensor) -> Tensor:
                hidden_XNX = linear(state[0], matrices_CAD.flatten(0, 1), biases_CA.flatten())
                return self._scores(hidden_XNX.unflatten(-1, biases_CA.shape), vectors_CD, items_C, *state)

            return in_blocks(of_rows, len(items_C) * self.numbers, *rows)

        at_once = rows_at_once(rows[0], ROWS * self.numbers) or len(items_C)
        return torch.cat([block(piece_C) for piece_C in items_C.split(at_once)], -1).view(*leading, -1)

    def score_all(self, states: State) -> Tensor:
        return self.score_shared(states, torch.arange(self.model.n_items + 1, device=states[0].device))

    def _unit(self, vectors_CD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the unit's first layer: W1 + W3 and W4 (D, A), and (W2 - W3) v + b of each candidate (..., C, A)."""
        first = self.model.attention.first
        w1, w2, w3, w4 = first.weight.chunk(4, 1)
        return (w1 + w3).T, w4.T, linear(vectors_CD, w2 - w3, first.bias)

    def _scores(self, hidden_XNCA: Tensor, vectors_CD: Tensor, items_C: Tensor, *state: Tensor) -> Tensor:
        """Scores (X, C), from what the unit's first layer gives."""
        model, D = self.model, vectors_CD.shape[-1]
        history_XND, real_XN1, user = state[0], state[1][..., None], state[2:]
        weights_XNC = model.attention.rest(hidden_XNCA)
        if model.softmax:  # over nothing it would be NaN, so that padding gets the lowest number and then 0
            lowest = torch.finfo(weights_XNC.dtype).min
            weights_XNC = (weights_XNC / D**0.5).masked_fill(~real_XN1, lowest).softmax(1) * real_XN1
        interest_XCD = weights_XNC.mT @ history_XND  # in which padding is 0
        first = model.scorer.first
        w_user, w_interest, w_candidate = first.weight.split([first.in_features - 2 * D, D, D], 1)
        hidden_XCA = linear(interest_XCD, w_interest) + linear(vectors_CD, w_candidate, first.bias)
        if user:
            hidden_XCA = hidden_XCA + linear(user[0], w_user)[:, None]
        scores_XC = model.scorer.rest(hidden_XCA)
        return scores_XC if model.output_bias is None else scores_XC + model.output_bias(items_C).squeeze(-1)
