"""CoCoRec: category-aware collaborative sequential recommendation (Cai et al., SIGIR 2021), as far as it is public."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sairlib.batch import PAD, Batch, History, State, last_steps, map_state
from sairlib.errors import UserError
from sairlib.models.recommender import CategoryModel, Head, Products
from sairlib.nn.categories import CategoryEmbedding
from sairlib.nn.kernels.lookup import rows
from sairlib.nn.kernels.parts import in_blocks
from sairlib.nn.layers import Dropout, Encoder, SelfAttention, Table
from sairlib.nn.recurrent import Recurrent

IN_CATEGORY = ("gru", "attention")
CATEGORIES = ("all", "first")


@final
class CoCoRec(CategoryModel):
    """p(i) = sum_c p(c) p(i | c) over the ``beams`` categories c that are likeliest to be the next item's.

    The paper's text is not public; its abstract is, and its authors' code in a recurrent version, without the similar
    users (https://github.com/RenqinCai/CoCoRec, ``RNN_version``). What is built here is that version:

    - l_c: a GRU over the user's newest ``long`` items of category c; 0 if there are none.
    - s: another GRU over the newest items of any category. r_c = W [l_c; s] + b.
    - p(i | c) = softmax over all items, of category c or not, of <r_c, v_i> + b_i. v_i is also the GRUs' input
      (``tied=False``: a table of its own).
    - p(c) = softmax of <g, e_c> + b_c. g: a third GRU, over the category vectors e, ``d_category`` wide, of the newest
      items.

    In training the category c* of the next item is known (``objective=given_category``): the loss is that of the item
    by r_{c*}, a sampled softmax, plus ``category_weight`` (the code's is 1) times -log p(c*). With softmax over all
    items, and all categories tried, this sum is at least -log p(i): a bound of the cost by which items are ranked. With
    ``objective=next_item`` or ``prefix`` the loss compares log p(i) itself, and no state sees c*; this takes ``beams``
    softmaxes over all items for every state. So does ``evaluation.passes=users``, which asks for the states of all
    steps: with this model ``targets`` is faster.

    ``in_category="attention"``: in place of the first GRU a block of causal self-attention, as the abstract has it ("it
    utilizes self-attention to capture in-category transition patterns"). All of it that the abstract does not say is
    ours: one of SASRec's blocks, with one head, over the newest ``long`` items of c plus a vector for each position,
    counted back from the newest; l_c is the state at the newest.

    Missing:

    1. Attention over users with similar preferences in a category, the "collaborative" of the title. No public text or
       code gives how such users are found, what of them is attended to, or the equations. To build it, one needs these,
       and a retrieval that cannot leak: at each step only what others did in the training part, without the target, and
       without the user's own later actions.
    2. The paper's own in-category self-attention (see above) and short-term encoder. Results of this model are no
       results of the paper's.
    3. The second phase of the code's training: once its category network stops improving (recall at 3 on about a
       hundredth of the batches), r_{c*} is replaced for good by the likeliest categories (one, by default), weighed by
       p(c). ``objective=next_item`` trains so from the start, with the exact softmax instead of a sampled one.

    Deviations from the code:

    4. An item has one category there. Here it belongs to the sub-sequences of all its categories, enters the category
       network as the mean of their vectors, and as a target has each of them alike: c* is drawn anew at each step, and
       -log p(c*) is its mean over them. ``categories="first"``: only the first of each item, in the file's order.
    5. The GRUs over the newest items start there anew for every target, 30 items before it. Here they run once over
       all that the model sees (``short=None``). ``short=30`` is the code's; an epoch of ML-100K then takes about nine
       times as long. (The code also shortens that window for good at the first user with fewer actions.)
    6. The code's dropout of 0.2 is between the layers of a GRU, of which there is one: it does nothing. ``dropout``, 0
       by default, is here of l_c and s, and inside the block of attention.
    7. The code's negatives are 1000 for a batch, log-uniform in the order in which items first appear, and they and the
       target are corrected for how likely they are drawn. Here they are a setting, and the target is not corrected.
    8. The code's softmax of p(i | c) counts padding among the items. Here it does not.
    9. Every step is trained here. The code does not train on a user's first five actions.
    10. ``tied=True`` is the code's ``shared_embedding``. Tables and gates start Xavier-uniform, as in the other models,
       W and b as PyTorch's layers do. The code starts tables normal with deviation 1.
    """

    item_categories: Tensor

    def __init__(
        self,
        n_items: int,
        max_len: int,
        item_categories: Tensor,
        n_categories: int,
        d: int = 50,
        d_category: int = 64,
        in_category: str = "gru",
        beams: int = 5,
        long: int = 5,
        short: int | None = None,
        dropout: float = 0.0,
        categories: str = "all",
        category_weight: float = 1.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        if not n_categories:
            raise UserError("CoCoRec needs item categories, and this data set has none")
        for name, value in (("d", d), ("d_category", d_category), ("beams", beams), ("long", long), ("short", short)):
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: must be 1 or more")
        for name, choice, known in (("in_category", in_category, IN_CATEGORY), ("categories", categories, CATEGORIES)):
            if choice not in known:
                raise UserError(f"{name}={choice!r}: choose one of {', '.join(known)}")
        if not category_weight >= 0:
            raise UserError(f"category_weight={category_weight}: must be 0 or more")
        self.n_items = n_items
        self.n_categories = n_categories
        self.beams = min(beams, n_categories)
        self.long_length = min(long, max_len)
        self.short_length = short
        self.category_weight = category_weight
        used = item_categories[:, :1] if categories == "first" else item_categories
        self.register_buffer("item_categories", used, persistent=False)
        self.item_embedding = Table(n_items + 1, d, padding_idx=PAD)
        self.output_embedding = None if tied else Table(n_items + 1, d, padding_idx=PAD)
        self.output_bias = Table(n_items + 1, 1, padding_idx=PAD)
        nn.init.zeros_(self.output_bias.weight)
        self.category_embedding = CategoryEmbedding(used, n_categories, d_category, "mean")
        self.category_bias = nn.Parameter(torch.zeros(n_categories))
        attention = in_category == "attention"
        self.long: Encoder = SelfAttention(d, dropout, n_blocks=1) if attention else Recurrent(d, 0.0)
        self.position_embedding = Table(self.long_length, d) if attention else None
        self.short = Recurrent(d, 0.0)
        self.next_category = Recurrent(d_category, 0.0)
        self.dropout = Dropout(dropout)
        self.join = nn.Linear(2 * d, d)

    def encode(self, history: History) -> State:
        """At each step r_c of the likeliest categories, likeliest first (B, N, K, d); what is to be added to <r_c, v_i>
        + b_i to make it log p(c) p(i | c) (B, N, K); and log p(c) of all categories (B, N, T)."""
        steps_N = torch.arange(history.items_BN.shape[1], device=history.items_BN.device)
        return self._states(history.items_BN, steps_N.expand_as(history.items_BN))

    def newest(self, history: History) -> State:
        state = self._states(history.items_BN, last_steps(history.items_BN)[:, None])
        return map_state(lambda part_B1: part_B1[:, 0], state)

    def encode_given(self, history: History, targets_BN: Tensor) -> State:
        """As ``encode``, with r_{c*} alone (B, N, 1, d), and nothing to be added to the scores: the loss compares those
        of one category. In eval mode c* is the first category of each target."""
        of_targets_BNG = self.item_categories[targets_BN]
        known_BN1 = of_targets_BNG[..., :1]
        if self.training:
            random_BN1 = torch.rand(known_BN1.shape, device=targets_BN.device)
            known_BN1 = of_targets_BNG.gather(-1, (random_BN1 * _count(of_targets_BNG)).long())
        steps_N = torch.arange(targets_BN.shape[1], device=targets_BN.device)
        return self._states(history.items_BN, steps_N.expand_as(targets_BN), known_BN1)

    def _states(self, items_BN: Tensor, steps_BQ: Tensor, known_BQK: Tensor | None = None) -> State:
        """States at Q steps of each history, of the categories ``known_BQK``; None: of the likeliest."""
        vectors_BND = self.item_embedding(items_BN)
        real_BQ1 = (items_BN.gather(1, steps_BQ) != PAD)[..., None]
        short_BQD = self._recent(self.short, vectors_BND, steps_BQ) * real_BQ1
        next_BQC = self._recent(self.next_category, self.category_embedding(items_BN), steps_BQ) * real_BQ1
        table_TC = self.category_embedding.table.weight[1:]
        log_chances_BQT = linear(next_BQC, table_TC, self.category_bias).log_softmax(-1)
        if known_BQK is None:
            chances_BQK, chosen_BQK = log_chances_BQT.topk(self.beams, -1)
            chosen_BQK = chosen_BQK + 1
        else:
            chosen_BQK = known_BQK
        long_BQKD = self._in_category(items_BN, vectors_BND, steps_BQ, chosen_BQK)
        of_long, of_short = self.join.weight.chunk(2, 1)
        joined_BQ1D = linear(self.dropout(short_BQD), of_short, self.join.bias)[:, :, None]
        joined_BQKD = linear(self.dropout(long_BQKD), of_long) + joined_BQ1D
        if known_BQK is None:
            added_BQK = chances_BQK - self._log_sums(joined_BQKD)
        else:
            added_BQK = torch.zeros_like(log_chances_BQT[..., :1])
        return joined_BQKD, added_BQK, log_chances_BQT

    def _recent(self, encoder: Encoder, vectors_BND: Tensor, steps_BQ: Tensor) -> Tensor:
        """The encoder's states at Q steps (B, Q, D), over all items up to each or the newest of them."""
        if self.short_length is None:
            return _taken(encoder(vectors_BND), steps_BQ)
        first_BQ = (steps_BQ - self.short_length + 1).clamp(min=0)
        places_W = torch.arange(min(self.short_length, vectors_BND.shape[1]), device=steps_BQ.device)
        # Behind the newest step it is repeated: nothing later enters.
        window_BQW = torch.minimum(first_BQ[..., None] + places_W, steps_BQ[..., None])
        return self._last(encoder, vectors_BND, window_BQW, steps_BQ - first_BQ)

    def _in_category(self, items_BN: Tensor, vectors_BND: Tensor, steps_BQ: Tensor, categories_BQK: Tensor) -> Tensor:
        """l_c at Q steps, of K categories each (B, Q, K, D)."""
        (B, N), T, device = items_BN.shape, self.n_categories, items_BN.device
        # The history once more, sorted by category and in it by step: a category's items up to a step are neighbours.
        of_items_BNG = self.item_categories[items_BN]
        keys_BNG = torch.where(of_items_BNG == PAD, T + 1, of_items_BNG) * N + torch.arange(N, device=device)[:, None]
        steps_BX = keys_BNG.flatten(1).sort(1).indices // of_items_BNG.shape[2]
        # Which: found by counts, because ONNX cannot search in what is sorted.
        of_categories_BNT = items_BN.new_zeros(B, N, T + 1).scatter(2, of_items_BNG, 1)[..., 1:].cumsum(1)
        in_all_BT = of_categories_BNT[:, -1]
        columns_BY = (categories_BQK - 1).clamp(min=0).flatten(1)
        starts_BY = (in_all_BT.cumsum(1) - in_all_BT).gather(1, columns_BY)
        asked_BY = steps_BQ.repeat_interleave(categories_BQK.shape[2], 1) * T + columns_BY
        up_to_BY = of_categories_BNT.flatten(1).gather(1, asked_BY)
        n_BY = up_to_BY.clamp(max=self.long_length)
        last_BY = (n_BY - 1).clamp(min=0)
        places_W = torch.arange(self.long_length, device=device)
        window_BYW = (starts_BY + up_to_BY - n_BY)[..., None] + torch.minimum(places_W, last_BY[..., None])
        window_BX = window_BYW.clamp(max=steps_BX.shape[1] - 1).flatten(1)
        steps_BYW = steps_BX.gather(1, window_BX).view(window_BYW.shape)
        states_BYD = self._last(self.long, vectors_BND, steps_BYW, last_BY, self.position_embedding)
        states_BYD = states_BYD * (n_BY > 0)[..., None]
        return states_BYD.view(*categories_BQK.shape, -1)

    def _last(
        self, encoder: Encoder, vectors_BND: Tensor, steps_BYW: Tensor, last_BY: Tensor, positions: Table | None = None
    ) -> Tensor:
        """The encoder's state at place ``last_BY`` of each window of steps (B, Y, D)."""
        B, N, D = vectors_BND.shape
        all_XD, width = vectors_BND.flatten(0, 1), steps_BYW.shape[-1]
        places_W = torch.arange(width, device=steps_BYW.device)
        starts_B11 = torch.arange(B, device=steps_BYW.device)[:, None, None] * N

        def of_windows(steps_XW: Tensor, last_X: Tensor) -> Tensor:
            windows_XWD = rows(all_XD, steps_XW)
            if positions is not None:
                windows_XWD = windows_XWD + positions((last_X[:, None] - places_W).clamp(min=0))
            return encoder.at_steps(windows_XWD, last_X)

        windows = (starts_B11 + steps_BYW).flatten(0, 1), last_BY.flatten()
        # With a gradient all windows are kept anyway, and the dropout of a block could not be computed again.
        states_XD = of_windows(*windows) if torch.is_grad_enabled() else in_blocks(of_windows, 4 * width * D, *windows)
        return states_XD.view(*last_BY.shape, D)

    def _log_sums(self, states_BQKD: Tensor) -> Tensor:
        """log of the sum over all items of exp(<r, v_i> + b_i) (B, Q, K)."""
        # Looked up, because training may update the tables by rows.
        vectors_MD, bias_M = self._products.of(torch.arange(1, self.n_items + 1, device=states_BQKD.device))

        def of_rows(states_XD: Tensor) -> Tensor:
            scores_XM = linear(states_XD, vectors_MD, bias_M)
            return scores_XM.to(torch.promote_types(scores_XM.dtype, torch.float32)).logsumexp(-1)

        return in_blocks(of_rows, self.n_items, states_BQKD.flatten(0, -2)).view(states_BQKD.shape[:-1])

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        log_chances_XT = states[2].flatten(0, -2)
        targets_X = batch.targets_BNS[..., 0].flatten()
        of_targets_XG = self.item_categories[targets_X]
        each_XG = -log_chances_XT.gather(1, (of_targets_XG - 1).clamp(min=0)) * (of_targets_XG != PAD)
        each_X = each_XG.sum(1) / _count(of_targets_XG)[:, 0].clamp(min=1)  # of no category, and so 0, is padding alone
        return {"category": self.category_weight * each_X.sum() / (targets_X != PAD).sum().clamp(min=1)}

    @property
    def _products(self) -> Products:
        table = self.output_embedding or self.item_embedding
        return Products(table.of, lambda items: self.output_bias.of(items).squeeze(-1))

    @property
    def head(self) -> Head:
        return OverCategories(self._products)


def _count(categories_XG: Tensor) -> Tensor:
    """How many categories there are in each row (..., 1)."""
    return (categories_XG != PAD).sum(-1, keepdim=True)


def _taken(states_BND: Tensor, steps_BQ: Tensor) -> Tensor:
    """The states at Q steps of each row (B, Q, D)."""
    return states_BND.gather(1, steps_BQ[..., None].expand(-1, -1, states_BND.shape[-1]))


@final
class OverCategories(Head):
    """score = log sum_c exp(<r_c, item vector> + item bias + what is added for c). States are those of ``CoCoRec``."""

    log_odds = False

    def __init__(self, products: Products) -> None:
        self.products = products

    def score(self, states: State, items: Tensor) -> Tensor:
        vectors, bias = self.products.of(items)
        assert bias is not None
        return _summed(states[0] @ vectors.mT + bias[..., None, :], states[1])

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        return self._of_all_rows(states, *self.products.of(items_C))

    def score_all(self, states: State) -> Tensor:
        return self._of_all_rows(states, *self.products.of(None))

    def _of_all_rows(self, states: State, vectors_CD: Tensor, bias_C: Tensor | None) -> Tensor:
        """Scores (..., C), in blocks: K times as many numbers are held before they are summed."""
        leading, K = states[1].shape[:-1], states[1].shape[-1]

        def of_rows(states_XKD: Tensor, added_XK: Tensor) -> Tensor:
            return _summed(linear(states_XKD, vectors_CD, bias_C), added_XK)

        numbers = K * len(vectors_CD)
        return in_blocks(of_rows, numbers, states[0].flatten(0, -3), states[1].flatten(0, -2)).view(*leading, -1)


def _summed(scores_XKC: Tensor, added_XK: Tensor) -> Tensor:
    scores_XKC = scores_XKC + added_XK[..., None]
    return scores_XKC.squeeze(-2) if scores_XKC.shape[-2] == 1 else scores_XKC.logsumexp(-2)
