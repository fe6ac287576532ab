"""SAIR's InterestRetrieval and InterestAggregator: from a prefix vector to K interests and back to one vector."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from sairlib.batch import at_steps
from sairlib.errors import UserError
from sairlib.nn.attention import CausalAttention
from sairlib.nn.kernels.lookup import rows
from sairlib.nn.layers import Dropout

WEIGHTS = ("interacted", "raw")
INTEREST_FFNS = ("per_slot", "shared")
RELEVANCES = ("product", "cosine")


class Retrieved(NamedTuple):
    """The results of InterestRetrieval at every step."""

    relevance_BNL: Tensor
    """Ca, eq. (4): the relevance of every interest of the pool to the prefix."""
    interacted_BNL: Tensor
    """Ca-hat, eq. (5); Ca if there is no interaction layer."""
    kept_BNK: Tensor
    """C_k, eq. (6): indices into the pool, strongest first; without selection, 0..L-1 in order."""
    weights_BNK: Tensor
    """W, eq. (9): softmax over the kept scores."""


class InterestRetrieval(nn.Module):
    """Relevance to L latent interests, their interaction along the sequence, and the K strongest (eq. 4 to 6, 9).

    The pool C (L, D) is an argument of ``forward``, because SAIR-label uses the category embeddings for it.

    The interaction attends over positions and is always causal: without the mask, step t would see the item that it
    predicts. ``weights``: the scores of eq. (9), ``interacted`` (Ca-hat) or ``raw`` (Ca, as the paper writes it; then
    eq. (5) affects only indices, and its matrices get no gradient). ``interact=False`` leaves eq. (5) out: Ca-hat is
    Ca. ``select=False`` is SAIR-full: no interaction, no selection, and all L interests weighed by softmax of Ca.

    Not in the paper: ``relevance="cosine"`` divides the products of eq. (4) by both norms, ``temperature`` divides
    them by a number, and ``choice_noise`` adds Gaussian noise to the scores of eq. (6) in training (``noisy``).
    """

    def __init__(
        self,
        n_interests: int,
        top_k: int,
        weights: str,
        interaction_residual: bool,
        select: bool,
        interact: bool = True,
        relevance: str = "product",
        temperature: float = 1.0,
        choice_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if relevance not in RELEVANCES:
            raise UserError(f"relevance={relevance!r}: choose one of {', '.join(RELEVANCES)}")
        if not 0 < temperature < math.inf:
            raise UserError(f"temperature={temperature}: must be greater than 0")
        if not 0 <= choice_noise < math.inf:
            raise UserError(f"choice_noise={choice_noise}: must be 0 or more")
        if weights not in WEIGHTS:
            raise UserError(f"weights={weights!r}: choose one of {', '.join(WEIGHTS)}")
        if n_interests < 1:
            raise UserError(f"interests.n_interests={n_interests}: must be at least 1")
        if not 1 <= top_k <= n_interests:
            raise UserError(f"interests.top_k={top_k} must be between 1 and interests.n_interests={n_interests}")
        self.top_k = top_k
        self.weigh_raw = weights == "raw"
        self.residual = interaction_residual
        self.cosine = relevance == "cosine"
        self.temperature = temperature
        self.choice_noise = choice_noise
        self.select = select
        self.interaction = CausalAttention(n_interests) if select and interact else None

    def forward(self, states_BND: Tensor, pool_LD: Tensor) -> Retrieved:
        relevance_BNL = self._relevance(states_BND, pool_LD)
        return self._keep(relevance_BNL, self.interaction(relevance_BNL) if self.interaction else relevance_BNL)

    def at_steps(self, states_BND: Tensor, pool_LD: Tensor, steps_B: Tensor) -> Retrieved:
        """``forward`` at only one step of each row, for evaluation: the same shapes without N."""
        relevance_BNL = self._relevance(states_BND, pool_LD)
        relevance_BL = at_steps(relevance_BNL, steps_B)
        interacted_BL = self.interaction.at_steps(relevance_BNL, steps_B) if self.interaction else relevance_BL
        return self._keep(relevance_BL, interacted_BL)

    def _relevance(self, states_BND: Tensor, pool_LD: Tensor) -> Tensor:
        if self.cosine:
            states_BND, pool_LD = normalize(states_BND, dim=-1), normalize(pool_LD, dim=-1)
        products_BNL = states_BND @ pool_LD.T
        return products_BNL if self.temperature == 1 else products_BNL / self.temperature

    def _keep(self, relevance: Tensor, interacted: Tensor) -> Retrieved:
        if not self.select:
            all_L = torch.arange(relevance.shape[-1], device=relevance.device)
            return Retrieved(relevance, relevance, all_L.expand_as(relevance), relevance.softmax(-1))
        if self.residual:
            interacted = interacted + relevance
        noise = self.choice_noise if self.training else 0.0
        kept = (noisy(interacted, noise) if noise else interacted).topk(self.top_k, dim=-1).indices
        scores = (relevance if self.weigh_raw else interacted).gather(-1, kept)
        return Retrieved(relevance, interacted, kept, scores.softmax(-1))


class InterestAggregator(nn.Module):
    """e_t = sum_i W_i FFN_i(I_i + F_t) over the kept interests (eq. 7, 8, 10).

    FFN is eq. (3): LayerNorm(Linear(ReLU(Dropout(Linear(.))))). ``interest_ffn``: ``per_slot`` is one net for each of
    the K ranks ("respectively, like multi-head"), ``shared`` one net for all. ``skip`` adds F_t to the sum, which the
    paper does not.
    """

    def __init__(self, n_slots: int, width: int, interest_ffn: str, dropout: float, skip: bool = False) -> None:
        super().__init__()
        if interest_ffn not in INTEREST_FFNS:
            raise UserError(f"interest_ffn={interest_ffn!r}: choose one of {', '.join(INTEREST_FFNS)}")
        nets = n_slots if interest_ffn == "per_slot" else 1
        self.n_slots = n_slots
        self.skip = skip
        self.nets = nn.ModuleList(InterestFeedForward(width, dropout) for _ in range(nets))

    def forward(self, states_BND: Tensor, pool_LD: Tensor, retrieved: Retrieved) -> Tensor:
        """One vector per step (B, N, D); (B, D) for a single step of each row."""
        fused_BND = self.rest(states_BND)
        for slot in range(self.n_slots):
            fused_BND = fused_BND + self._part(slot, states_BND, pool_LD, retrieved)
        return fused_BND

    def rest(self, states_BND: Tensor) -> Tensor:
        """What the sum has beside its terms: F_t with ``skip``, else zeros."""
        return states_BND if self.skip else torch.zeros_like(states_BND)

    def parts(self, states_BD: Tensor, pool_LD: Tensor, retrieved: Retrieved) -> Tensor:
        """The terms of that sum, one for each kept interest (B, K, D)."""
        return torch.stack([self._part(slot, states_BD, pool_LD, retrieved) for slot in range(self.n_slots)], -2)

    def _part(self, slot: int, states_BND: Tensor, pool_LD: Tensor, retrieved: Retrieved) -> Tensor:
        interest_BND = rows(pool_LD, retrieved.kept_BNK[..., slot])
        active_BND: Tensor = self.nets[slot % len(self.nets)](interest_BND + states_BND)
        return retrieved.weights_BNK[..., slot, None] * active_BND


class InterestFeedForward(nn.Module):
    """LayerNorm(Linear(ReLU(Dropout(Linear(x))))), all of width D (SAIR, eq. 3)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.second = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.second(relu(self.dropout(self.first(x)))))
        return out


def decorrelation(pool_LD: Tensor) -> Tensor:
    """DecovLoss: 1/2 (||Z||_F^2 - ||diag Z||^2), Z = (C - mean)(C - mean)^T / D, mean of each row's D entries."""
    centred_LD = pool_LD - pool_LD.mean(1, keepdim=True)
    covariance_LL = centred_LD @ centred_LD.T / pool_LD.shape[1]
    return 0.5 * (covariance_LL.square().sum() - covariance_LL.diagonal().square().sum())


def noisy(scores: Tensor, deviation: float) -> Tensor:
    """Scores (..., L) plus Gaussian noise of ``deviation`` times their own standard deviation over the interests.

    Noisy top-K gating (Shazeer et al., 2017, eq. 4), with a given instead of a learned deviation.
    """
    return scores + deviation * scores.detach().std(-1, keepdim=True) * torch.randn_like(scores)


def imbalance(retrieved: Retrieved, real_BN: Tensor) -> Tensor:
    """L sum_i f_i P_i over the real steps: the load-balancing loss of Switch Transformers (Fedus et al., 2021, eq. 4).

    f_i: the share of interest i among all that are kept. P_i: the mean of softmax(Ca-hat)_i, through which the gradient
    passes. 1 if all interests are chosen alike.
    """
    chances_XL = retrieved.interacted_BNL[real_BN].softmax(-1)
    kept = retrieved.kept_BNK[real_BN].flatten()
    n_interests = chances_XL.shape[-1]
    counts_L = chances_XL.new_zeros(n_interests).index_add_(0, kept, chances_XL.new_ones(len(kept)))
    return n_interests * (counts_L / max(1, len(kept)) * chances_XL.mean(0)).sum()


@torch.no_grad()
def centroids(points_XD: Tensor, n: int, rounds: int = 20) -> Tensor:
    """k-means (Lloyd): the means (n, D) of ``n`` groups of points, from random points as a start.

    Draws from torch's global generator. A group without points keeps its mean. With fewer points than groups, some
    groups are the same.
    """
    centres = points_XD[torch.randperm(len(points_XD), device=points_XD.device).repeat(-(-n // len(points_XD)))[:n]]
    for _ in range(rounds):
        nearest_X = torch.cdist(points_XD, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest_X, points_XD)
        counts = torch.bincount(nearest_X, minlength=n)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return centres
