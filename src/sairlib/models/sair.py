"""SAIR: self-attentive interest retrieval (Wu, Li and Tian, CCET 2022)."""

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sairlib.batch import PAD, Batch, History, State, at_steps, last_steps
from sairlib.errors import UserError
from sairlib.models.heads import ByProducts, HeadPart
from sairlib.models.recommender import Explanation, Head, Interests, StepModel
from sairlib.nn.categories import POOLINGS, CategoryEmbedding
from sairlib.nn.interests import InterestAggregator, InterestRetrieval, Retrieved, centroids, decorrelation, imbalance
from sairlib.nn.layers import EncoderPart, ItemEncoder, SelfAttention

VARIANTS = ("sair", "full", "label")
POOL_STARTS = ("normal", "kmeans")
MOST_POINTS = 2**14
"""States that k-means groups at the start of training."""


@final
class SAIR(StepModel):
    """e_t: K of L latent interests, retrieved by the prefix up to t and fused into one vector (eq. 1 to 11).

    ``encoder`` (ItemEncoder) turns the sequence into prefix vectors F. ``retrieval`` (InterestRetrieval) relates each
    to the pool C (L, D), lets the relevances attend to one another along the sequence, causally, and keeps K.
    ``aggregator`` (InterestAggregator) fuses those. The score of an item is <H_id, e_t>.

    ``variant``: ``sair``; ``full``: no interaction layer and no selection, all L weighed by softmax of Ca (top_k,
    weights and the options of eq. 5 and 6 are not used); ``label``: the pool is the table of category embeddings
    (L = T; n_interests is not used).

    Choices where the paper is unclear, most of them arguments:

    1. Eq. (5) attends over positions. It is always causal here: otherwise step t sees the item that it predicts.
    2. ``weights``: eq. (9) weighs by the kept entries of Ca-hat (``interacted``) or of Ca (``raw``, as the paper writes
       it; the matrices of eq. (5) then get no gradient).
    3. ``interest_ffn``: a net for each of the K ranks (``per_slot``) or one for all (``shared``).
    4. ``encoder``: SASRec's blocks (``SelfAttention``: n_blocks, n_heads, norm) or a GRU (``Recurrent``). The paper
       says "in a typical SANs manner" and gives no numbers, nor ``scale_items`` and ``dropout``.
    5. ``interaction_residual``: Ca-hat = Ca + Attention(Ca) instead of the paper's Attention(Ca).
       ``use_interaction=False`` leaves eq. (5) out, for an ablation: Ca-hat = Ca.
    6. Eq. (5) is scaled by sqrt(L), its own width.
    7. ``category_pooling`` of an item's categories: ``mean``, ``sum``, ``first``. ``use_category=False`` omits H_cate
       from eq. (1); so does a data set without categories.
    8. ``score_with_category``: eq. (11) scores with H_id + H_cate instead of H_id alone.
    9. ``decov_weight``: weight of L_d. For ``label`` it applies to the category embeddings, which are the pool.
    10. ``positions``: eq. (1) says absolute positions, but not where they start. They count back from the ``newest``
        item, or forward from the ``oldest`` item in the window, as in RecBole, which the paper's code uses.
    11. C starts normal with deviation 1 / sqrt(D), so that the norm of its rows is about 1; the paper does not say. It
        determines how sharp the softmax of eq. (9) is at first.
    12. ``aggregator_skip``: e_t = F_t + the sum of eq. (10), which has no such term: all that the encoder knows passes
        through K small nets there.
    13. ``head``: a part in the place of the product of eq. (11), ``model/head=cosines`` or ``distances``.

    Against the collapse of interests (few of them get all the weight), from the mixture-of-experts literature and all
    off by default:

    14. ``relevance="cosine"``: eq. (4) is the cosine of prefix and interest. ``temperature`` divides either.
    15. ``choice_noise``: in training, Gaussian noise on the scores of eq. (6) (``nn.interests.noisy``).
    16. ``balance_weight``: weight of a loss that makes all interests be chosen alike (``nn.interests.imbalance``). With
        ``weights="raw"`` the matrices of eq. (5) learn from it alone.
    17. ``pool_start="kmeans"``: C starts as the centroids of the states of some histories, scaled to length 1. At that
        time the states are those of an untrained encoder.

    Deviations from the paper: (a) the logistic loss includes the sigmoid that is missing in eq. (12); (b) L_ce is a
    mean over steps (see ``NextItem.steps_per_batch``), not a sum, so L_d has a higher relative weight than in eq. (13).
    """

    def __init__(
        self,
        n_items: int,
        max_len: int,
        item_categories: Tensor,
        n_categories: int,
        n_interests: int = 10,
        top_k: int = 3,
        d: int = 64,
        dropout: float = 0.2,
        encoder: EncoderPart = SelfAttention,
        head: HeadPart | None = None,
        variant: str = "sair",
        weights: str = "interacted",
        interest_ffn: str = "per_slot",
        aggregator_skip: bool = False,
        interaction_residual: bool = False,
        use_interaction: bool = True,
        use_category: bool = True,
        category_pooling: str = "mean",
        score_with_category: bool = False,
        decov_weight: float = 1.0,
        positions: str = "newest",
        scale_items: bool = True,
        relevance: str = "product",
        temperature: float = 1.0,
        choice_noise: float = 0.0,
        balance_weight: float = 0.0,
        pool_start: str = "normal",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"variant={variant!r}: choose one of {', '.join(VARIANTS)}")
        if category_pooling not in POOLINGS:  # also on data without categories, where it is not used
            raise UserError(f"category_pooling={category_pooling!r}: choose one of {', '.join(POOLINGS)}")
        if decov_weight < 0:
            raise UserError(f"decov_weight must be 0 or more, not {decov_weight}")
        if balance_weight < 0:
            raise UserError(f"balance_weight must be 0 or more, not {balance_weight}")
        if variant == "full" and (balance_weight or choice_noise):
            raise UserError("balance_weight and choice_noise act on a choice of interests, and SAIR-full keeps all")
        if interaction_residual and not use_interaction:
            raise UserError("interaction_residual has no effect without the interaction: use_interaction=false")
        if pool_start not in POOL_STARTS:
            raise UserError(f"pool_start={pool_start!r}: choose one of {', '.join(POOL_STARTS)}")
        if variant == "label" and pool_start != "normal":
            raise UserError(f"pool_start={pool_start}: the pool of SAIR-label is its categories, and starts as they do")
        needs_category = variant == "label" or score_with_category
        if needs_category and not n_categories:
            raise UserError("SAIR-label and score_with_category need item categories, and this data set has none")
        if variant == "label" and top_k > n_categories:
            raise UserError(f"interests.top_k={top_k} is more than the {n_categories} categories, SAIR-label's pool")
        self.n_items = n_items
        self.scoring = head or ByProducts()
        self.variant = variant
        self.decov_weight = decov_weight
        self.balance_weight = balance_weight
        self.pool_start = pool_start
        self._imbalance: Tensor | None = None
        """Of the steps that ``encode`` saw last in training, for ``auxiliary``."""
        self.score_with_category = score_with_category
        self.categories = (
            CategoryEmbedding(item_categories, n_categories, d, category_pooling)
            if n_categories and (use_category or needs_category)
            else None
        )
        self.encoder = ItemEncoder(
            n_items,
            max_len,
            d,
            dropout,
            encoder,
            positions=positions,
            scale_items=scale_items,
            categories=self.categories if use_category else None,
        )
        timed_by = self.encoder.encoder.needs_times
        self.needs_times = timed_by and f"encoder.{timed_by}"
        pool_size = n_categories if variant == "label" else n_interests
        n_slots = pool_size if variant == "full" else top_k
        self.retrieval = InterestRetrieval(
            *(pool_size, n_slots, weights, interaction_residual, variant != "full", use_interaction),
            *(relevance, temperature, choice_noise),
        )
        self.aggregator = InterestAggregator(n_slots, d, interest_ffn, dropout, aggregator_skip)
        if variant != "label":
            self.learned_pool_LD = nn.Parameter(torch.empty(n_interests, d))
            nn.init.normal_(self.learned_pool_LD, std=d**-0.5)

    @property
    def pool_LD(self) -> Tensor:
        """C: the latent interests, or the category embeddings for SAIR-label."""
        if self.variant == "label":
            assert self.categories is not None
            return self.categories.table.weight[1:]
        return self.learned_pool_LD

    @torch.no_grad()
    def prepare(self, counts_M: Tensor, history: History) -> None:
        if self.pool_start == "kmeans":
            self.eval()
            states_XD = self.encoder(history.items_BN, history.times_BN)[history.items_BN != PAD]
            chosen = torch.randperm(len(states_XD), device=states_XD.device)[:MOST_POINTS]
            self.learned_pool_LD.copy_(normalize(centroids(states_XD[chosen], len(self.learned_pool_LD)), dim=-1))

    def encode(self, history: History) -> Tensor:
        states_BND, retrieved = self.retrieve(history)
        if self.training and self.balance_weight:
            self._imbalance = imbalance(retrieved, history.items_BN != PAD)
        return self.scoring.states(self.aggregator(states_BND, self.pool_LD, retrieved))

    def newest(self, history: History) -> Tensor:
        states_BND, last_B = self.encoder(history.items_BN, history.times_BN), last_steps(history.items_BN)
        retrieved = self.retrieval.at_steps(states_BND, self.pool_LD, last_B)
        return self.scoring.states(self.aggregator(at_steps(states_BND, last_B), self.pool_LD, retrieved))

    @torch.no_grad()
    def explain(self, history: History) -> Explanation:
        last_B = last_steps(history.items_BN)
        states_BND, retrieved = self.retrieve(history)
        newest = Retrieved(*(at_steps(part, last_B) for part in retrieved))
        newest_BD = at_steps(states_BND, last_B)
        parts_BKD, rest_BD = self.aggregator.parts(newest_BD, self.pool_LD, newest), self.aggregator.rest(newest_BD)
        scale_B1 = self.scoring.scale(parts_BKD.sum(1) + rest_BD)
        if scale_B1 is not None:
            parts_BKD, rest_BD = parts_BKD * scale_B1[:, None], rest_BD * scale_B1
        return Explanation(
            retrieved.relevance_BNL,
            retrieved.interacted_BNL,
            retrieved.kept_BNK,
            retrieved.weights_BNK,
            newest.kept_BNK,
            newest.weights_BNK,
            parts_BKD,
            rest_BD,
        )

    @torch.no_grad()
    def interests(self) -> Interests:
        categories_TD = None if self.categories is None else self.categories.table.weight[1:]
        return Interests(self.pool_LD, self.encoder.item_embedding.weight, categories_TD)

    @torch.no_grad()
    def attentions(self, history: History) -> Iterator[tuple[str, Tensor]]:
        """Those of the encoder's blocks, if it has any, and that of eq. (5), ``interaction``."""
        yield from self.encoder.attentions(history.items_BN, history.times_BN)
        if self.retrieval.interaction is not None:
            _, retrieved = self.retrieve(history)
            yield "interaction", self.retrieval.interaction.weights(retrieved.relevance_BNL)

    def retrieve(self, history: History) -> tuple[Tensor, Retrieved]:
        """Prefix vectors F (B, N, D) and what is retrieved; the paper's Figures 2 and 3 show its first two fields."""
        states_BND = self.encoder(history.items_BN, history.times_BN)
        return states_BND, self.retrieval(states_BND, self.pool_LD)

    @property
    def head(self) -> Head:
        return self.scoring.head(self.encoder.item_embedding, self._vectors)

    def _vectors(self, items: Tensor | None) -> Tensor:
        """Item vectors for the scores: H_id, or H_id + H_cate."""
        vectors = self.encoder.item_embedding.of(items)
        if not self.score_with_category or self.categories is None:
            return vectors
        ids = torch.arange(len(vectors), device=vectors.device) if items is None else items
        summed: Tensor = vectors + self.categories(ids)
        return summed

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        parts = {"decov": self.decov_weight * decorrelation(self.pool_LD)}
        if self._imbalance is not None:
            parts["balance"] = self.balance_weight * self._imbalance
            self._imbalance = None  # it would keep the whole graph
        return parts

    @torch.no_grad()
    def diagnose(self, history: History) -> dict[str, Tensor]:
        """Over all real steps: ``interest_share`` (L), each interest's share of the weight; ``kept_share`` (L), how
        often it is among the K kept; ``interest_entropy`` of the latter, 1 = all L equally often, 0 = only one."""
        _, retrieved = self.retrieve(history)
        real_BN = history.items_BN != PAD
        kept = retrieved.kept_BNK[real_BN].flatten()
        size = retrieved.relevance_BNL.shape[-1]
        weights = retrieved.weights_BNK[real_BN].flatten().float()
        weight = weights.new_zeros(size).index_add_(0, kept, weights)  # bincount has no deterministic kernel on CUDA
        count = torch.bincount(kept, minlength=size).float()
        share = count / count.sum()
        entropy = -(share * share.clamp_min(1e-12).log()).sum() / torch.log(torch.tensor(float(max(size, 2))))
        return {
            "interest_share": weight / weight.sum(),
            "kept_share": count / real_BN.sum(),
            "interest_entropy": entropy,
        }
