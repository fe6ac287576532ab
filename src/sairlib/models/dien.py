"""DIEN: deep interest evolution network (Zhou et al., AAAI 2019)."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, softplus

from sairlib.batch import PAD, Batch, History, State
from sairlib.errors import UserError
from sairlib.models.recommender import Head, SequenceModel
from sairlib.nn.categories import ItemVectors
from sairlib.nn.kernels.parts import in_blocks, rows_at_once
from sairlib.nn.layers import UserTable
from sairlib.nn.perceptron import Perceptron
from sairlib.nn.recurrent import gru_layers, start_gates

ROWS = 8
"""Histories that are scored at once, at least, so that few operations serve many pairs."""
PARTS = 3
"""Gates of a recurrent unit, and its new content."""


@final
class DIEN(SequenceModel):
    """The candidate decides how interests evolve over the newest H items, with vectors b_1 .. b_T:

    - Interest extractor: h_t = GRU(h_{t-1}, b_t).
    - Attention to a candidate of vector e_a: a_t = softmax_t(h_t W e_a).
    - Interest evolution, AUGRU: a GRU over h_1 .. h_T whose update gate u'_t is scaled by a_t,
      h'_t = (1 - a_t u'_t) * h'_{t-1} + a_t u'_t * c'_t.
    - The score is MLP([h'_T; e_a]). The paper's softmax of two outputs is the sigmoid of their difference: one output
      here, and the sigmoid is in the loss, BCE.
    - Auxiliary loss: ``aux_weight`` (the paper's alpha) times -log sigma(h_t . b_{t+1}) - log(1 - sigma(h_t . n_t)),
      what the user did next against an item n_t drawn uniformly from all others. States are as wide as vectors.

    A vector is [item; category], each ``d`` wide, as in DIN: ``use_category``, ``category_pooling``. ``hidden_1``,
    ``hidden_2`` and ``activation`` of the MLP are as in DIN. ``user_embedding=True``: the MLP also gets a vector for
    each user, as in the authors' code; UserError in evaluation for a user that the model was not trained on.

    It is trained on prefixes (``objective=prefix``): each pair of a prefix and a candidate has its own AUGRU over the
    prefix, and steps would share nothing but the first GRU.

    What it costs: with w the width of a vector, an AUGRU takes 3 w^2 multiplications and 3 w exponentials for each
    candidate and step. A ranking of ML-1M among 100 candidates has 6,040 x 101 x H of these steps, the full ranking
    6,040 x 3,416 x H, 34 times as many: 20 s and 10 minutes of a busy CPU core with w = 50, in blocks of limited
    memory. The AUGRU is a loop over the steps, because each needs the one before; a step is computed for many pairs at
    once.

    Deviations from the paper, and choices that it leaves open:

    1. The auxiliary loss is the mean over the steps of a history, and then over histories; the paper sums over steps.
       Its product h . b is the paper's; the authors' code has an MLP of [h; b].
    2. The attention is the paper's; the authors' code has the activation unit of DIN under a softmax.
    3. The authors' code also gives the MLP the sum of b_1 .. b_T, and normalises its input over the batch. This is
       missing here, and so is Dice (see DIN).
    4. The item n_t is drawn here from all but the next one, as in the paper, so it may be one that the user had.
    5. The paper predicts clicks. Here a target is what a user did next, and the others are drawn.
    6. The categories of an item are pooled by their mean. The data of the paper's shop have one for each item.
    7. The defaults of d and of the layers are those of the authors' code; that of H is ours (the code has 100).
       Matrices start Xavier-uniform, those of gates each by itself, biases 0, slopes 0.1.
    """

    def __init__(
        self,
        n_items: int,
        n_users: int,
        max_len: int,
        item_categories: Tensor,
        n_categories: int,
        d: int = 18,
        H: int = 50,
        hidden_1: int = 200,
        hidden_2: int = 80,
        activation: str = "prelu",
        aux_weight: float = 1.0,
        user_embedding: bool = False,
        use_category: bool = True,
        category_pooling: str = "mean",
    ) -> None:
        super().__init__()
        if H < 1:
            raise UserError(f"H={H}: must be 1 or more")
        if not aux_weight >= 0:
            raise UserError(f"aux_weight={aux_weight}: must be 0 or more")
        self.n_items = n_items
        self.H = min(H, max_len)
        self.aux_weight = aux_weight
        self.vectors = ItemVectors(n_items, d, item_categories, n_categories, use_category, category_pooling)
        self.user_embedding = UserTable(n_users, d) if user_embedding else None
        width = self.vectors.width
        self.extractor = gru_layers([width, width])
        self.relation = nn.Linear(width, width, bias=False)
        self.of_input = nn.Linear(width, PARTS * width)
        self.of_state = nn.Linear(width, PARTS * width, bias=False)
        n_inputs = 2 * width + (d if user_embedding else 0)
        self.scorer = Perceptron(n_inputs, {"hidden_1": hidden_1, "hidden_2": hidden_2}, activation)
        nn.init.xavier_uniform_(self.relation.weight)
        for part in (self.extractor, self.of_input, self.of_state):
            start_gates(part)

    def newest(self, history: History) -> State:
        """h of the newest H steps (B, H, width), which are real (B, H), and perhaps the user's vector (B, d)."""
        items_BN = self._recent(history)
        states_BND = self.extractor[0](self.vectors(items_BN))[0]
        if self.user_embedding is None:
            return states_BND, items_BN != PAD
        return states_BND, items_BN != PAD, self.user_embedding(history.users_B)

    def _recent(self, history: History) -> Tensor:
        """The newest H items (B, H). States are as wide as that whatever the batch, so that they can be joined."""
        return History(history.users_B, pad(history.items_BN, (0, self.H), value=PAD)).tail(self.H).items_BN

    @property
    def head(self) -> Head:
        return InterestEvolution(self)

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        if self.aux_weight == 0:
            return {}
        nexts_BN, states_BND = self._recent(batch.history)[:, 1:], states[0][:, :-1]
        others_BN = self._others(nexts_BN)
        done_BN, not_done_BN = ((states_BND * self.vectors(items)).sum(-1) for items in (nexts_BN, others_BN))
        real_BN = nexts_BN != PAD
        costs_BN = (softplus(-done_BN) + softplus(not_done_BN)).float().where(real_BN, 0.0)
        return {"auxiliary": self.aux_weight * (costs_BN.sum(1) / real_BN.sum(1).clamp(min=1)).mean()}

    def _others(self, items: Tensor) -> Tensor:
        """One item for each of ``items``, drawn uniformly from all others."""
        drawn = 1 + (torch.rand(items.shape, device=items.device) * (self.n_items - 1)).long()
        return (drawn + (drawn >= items)).clamp(max=self.n_items)


@final
class InterestEvolution(Head):
    """Scores items by DIEN's attention, AUGRU and MLP. The parts of a state are those of ``DIEN.newest``."""

    log_odds = True

    def __init__(self, model: DIEN) -> None:
        self.model = model

    def score(self, states: State, items: Tensor) -> Tensor:
        def block(items_XC: Tensor, *state: Tensor) -> Tensor:
            return self._scores(self.model.vectors(items_XC), *state)

        rows = [part.flatten(0, items.dim() - 2) for part in states]
        return in_blocks(block, items.shape[-1] * self._numbers(states), items.flatten(0, -2), *rows).view(items.shape)

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        leading, numbers = states[1].shape[:-1], self._numbers(states)
        rows = [part.flatten(0, len(leading) - 1) for part in states]

        def block(items_C: Tensor) -> Tensor:
            def of_rows(*state: Tensor) -> Tensor:
                return self._scores(self.model.vectors(items_C).expand(state[0].shape[0], -1, -1), *state)

            return in_blocks(of_rows, len(items_C) * numbers, *rows)

        at_once = rows_at_once(rows[0], ROWS * numbers) or len(items_C)
        return torch.cat([block(piece_C) for piece_C in items_C.split(at_once)], -1).view(*leading, -1)

    def score_all(self, states: State) -> Tensor:
        return self.score_shared(states, torch.arange(self.model.n_items + 1, device=states[0].device))

    def _numbers(self, states: State) -> int:
        """In memory for each pair of a history and a candidate; the backward pass needs those of every step."""
        n_steps, width = states[0].shape[-2:]
        at_a_step = 2 * PARTS * width
        return max(n_steps, at_a_step * (n_steps // 8 + 1 if torch.is_grad_enabled() else 1))

    def _scores(self, vectors_XCD: Tensor, states_XND: Tensor, real_XN: Tensor, *user: Tensor) -> Tensor:
        model = self.model
        if not torch.compiler.is_compiling():  # steps of padding alone
            longest = max(1, int(real_XN.sum(1).max()))
            states_XND, real_XN = states_XND[:, :longest], real_XN[:, :longest]
        real_XN1 = real_XN[..., None]
        logits_XNC = model.relation(states_XND) @ vectors_XCD.mT
        lowest = torch.finfo(logits_XNC.dtype).min  # over nothing a softmax of -inf would be NaN
        weights_XNC = logits_XNC.masked_fill(~real_XN1, lowest).softmax(1) * real_XN1
        evolved_XCD = self._evolved(model.of_input(states_XND), weights_XNC)
        parts = [*(part[:, None].expand(-1, evolved_XCD.shape[1], -1) for part in user), evolved_XCD, vectors_XCD]
        scores_XC: Tensor = model.scorer(torch.cat(parts, -1))
        return scores_XC

    def _evolved(self, inputs_XNG: Tensor, weights_XNC: Tensor) -> Tensor:
        """The last state of the AUGRU (X, C, D). At padding the weight is 0: the state stays as it is."""
        width, weight = self.model.of_state.in_features, self.model.of_state.weight
        state_XCD = inputs_XNG.new_zeros(inputs_XNG.shape[0], weights_XNC.shape[2], width)
        for inputs_XG, weights_XC in zip(inputs_XNG.unbind(1), weights_XNC.unbind(1), strict=True):
            of_state_XCG = linear(state_XCD, weight)
            gates_XCG = (inputs_XG[:, None, : 2 * width] + of_state_XCG[..., : 2 * width]).sigmoid()
            update_XCD, reset_XCD = gates_XCG.chunk(2, -1)
            new_XCD = (inputs_XG[:, None, 2 * width :] + reset_XCD * of_state_XCG[..., 2 * width :]).tanh()
            state_XCD = state_XCD + weights_XC[..., None] * update_XCD * (new_XCD - state_XCD)
        return state_XCD
