"""SINE: sparse-interest network for sequential recommendation (Tan et al., WSDM 2021)."""

from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sairlib.batch import PAD, Batch, History, State, positions
from sairlib.errors import UserError
from sairlib.models.recommender import Head, PrefixModel, Products
from sairlib.nn.interests import decorrelation
from sairlib.nn.kernels.parts import in_blocks
from sairlib.nn.layers import Table
from sairlib.nn.running_softmax import running_softmax

ASSIGNMENTS = ("weights", "logits")
NORMS = ("layer", "l2")
BLOCK = 32
"""Prefixes of a block of ``encode_prefixes``: enough for fast products, few enough to skip most of the later steps."""


@final
class SINE(PrefixModel):
    """v = sum_k e_k phi_k, scored by inner product: K of L concepts, each with an interest phi_k of the user.

    X_t is the vector of the item at t, C (L, D) the pool of concepts. Every softmax over t is over real steps only:

    (1) a = softmax_t(tanh(X W1) w2), z = a^T X, s = C z, idx = the K largest of s, strongest first,
        C^u_k = sigmoid(s_idx(k)) C_idx(k). Through the gate, the selection gets a gradient.
    (2) P_{k|t} = softmax_k(LN1(X_t W3) . LN2(C^u_k)): to which interest a step belongs.
    (3) P_{t|k} = softmax_t(tanh((X_t + position_t) W_{k,1}) w_{k,2}): which steps matter to an interest.
    (4) phi_k = LN3(sum_t P_{k|t} P_{t|k} X_t)
    (5) X'_t = sum_k P_{k|t} C^u_k, C_apt = LN4(softmax_t(tanh(X' W3) w4)^T X'): the expected next intention;
        e_k = softmax_k(phi_k . C_apt / tau).

    ``n_concepts`` is L, ``top_k`` K. ``decov_weight``, the paper's lambda, weighs 1/2 (||M||_F^2 - ||diag M||^2) with
    M = (C - mean)(C - mean)^T / D, the covariance of the concepts, with the mean of each concept's D entries.

    The defaults follow the paper's equations. The arguments are for differences of public code:

    - ``positional_embedding=False``: no positions, as in RecBole's port; the order of the items then has no effect.
      (The authors' code also adds positions before the attention of (1) and (5).)
    - ``assignment="logits"``: multiplies P_{k|t} into the logits of (3), and (4) weighs only by that softmax, as in the
      authors' code. ``weights`` is the paper's and RecBole's.
    - ``shared_w3=False``: (5) has its own matrix, as in the authors' code. The paper and RecBole use W3 twice.
    - ``norm="l2"``: divides by the length instead of LN1 and LN3, as in RecBole. With ``layer``, phi_k . C_apt can grow
      to D, and a tau of 0.1 then makes e select almost only one interest.

    Deviations from the paper, and differences from public code without an argument:

    1. No softmax over t sees padding (the authors' code masks it too, RecBole does not).
    2. W_{k,1} and w_{k,2} belong to the rank k, not to a concept. The authors' code has one W_1 for all ranks.
    3. Positions count back from the newest item; in the authors' code from the oldest.
    4. The authors' code has, unlike the paper: biases and hidden layers of 512; in (2) the cosine of X_t and the
       concept over a temperature of 0.07; no LayerNorm; X added to X' in (5); phi weighed, without tau, by a layer over
       their mean and C_apt; and, instead of the concepts' covariance, a penalty on the cosines of a user's phi.
    5. All weights start Xavier-uniform (the default in the authors' framework); the paper does not say.
    """

    def __init__(
        self,
        n_items: int,
        max_len: int,
        n_concepts: int = 50,
        top_k: int = 4,
        d: int = 64,
        tau: float = 0.1,
        decov_weight: float = 0.1,
        positional_embedding: bool = True,
        assignment: str = "weights",
        shared_w3: bool = True,
        norm: str = "layer",
    ) -> None:
        super().__init__()
        if assignment not in ASSIGNMENTS:
            raise UserError(f"assignment={assignment!r}: choose one of {', '.join(ASSIGNMENTS)}")
        if norm not in NORMS:
            raise UserError(f"norm={norm!r}: choose one of {', '.join(NORMS)}")
        if d < 1:
            raise UserError(f"the width d must be at least 1, not {d}")
        if n_concepts < 1:
            raise UserError(f"n_concepts={n_concepts}: must be at least 1")
        if not 1 <= top_k <= n_concepts:
            raise UserError(f"top_k={top_k} must be between 1 and n_concepts={n_concepts}")
        if not tau > 0:
            raise UserError(f"tau={tau}: must be more than 0")
        if not decov_weight >= 0:
            raise UserError(f"decov_weight must be 0 or more, not {decov_weight}")
        self.n_items = n_items
        self.top_k = top_k
        self.tau = tau
        self.decov_weight = decov_weight
        self.assign_logits = assignment == "logits"
        self.item_embedding = Table(n_items + 1, d, padding_idx=PAD)
        self.position_embedding = Table(max_len, d) if positional_embedding else None
        self.concepts = Table(n_concepts, d, whole=True)
        self.w1 = nn.Linear(d, d, bias=False)
        self.w2 = nn.Linear(d, 1, bias=False)
        self.w3 = nn.Linear(d, d, bias=False)
        self.w3_apt = None if shared_w3 else nn.Linear(d, d, bias=False)
        self.w4 = nn.Linear(d, 1, bias=False)
        self.w_k1 = nn.Parameter(torch.empty(top_k, d, d))
        self.w_k2 = nn.Parameter(torch.empty(top_k, d))
        self.ln1 = nn.LayerNorm(d) if norm == "layer" else UnitLength()
        self.ln2 = nn.LayerNorm(d)
        self.ln3 = nn.LayerNorm(d) if norm == "layer" else UnitLength()
        self.ln4 = nn.LayerNorm(d)
        for layer in (self.w1, self.w2, self.w3, self.w3_apt, self.w4):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
        for k in range(top_k):
            nn.init.xavier_uniform_(self.w_k1[k])
            nn.init.xavier_uniform_(self.w_k2[k : k + 1])

    def newest(self, history: History) -> Tensor:
        items_BN = history.items_BN
        x_BND, real_BN = self.item_embedding(items_BN), items_BN != PAD
        active_BKD, _ = self._activate(self._summary(x_BND, real_BN))
        seen_BND = x_BND
        if self.position_embedding is not None:
            seen_BND = seen_BND + self.position_embedding(positions(items_BN))
        logits_BNK = self._importance(self._hidden(seen_BND))
        states_BQD = self._states(
            active_BKD[:, None], x_BND, self._own(x_BND), logits_BNK.mT[:, None], real_BN[:, None]
        )
        return states_BQD[:, 0]

    def encode_prefixes(self, history: History) -> Tensor:
        """Relates each prefix to each of its steps: N^2 (K + 1) D tanh, but no matrix is multiplied for each pair."""
        x_BND = self.item_embedding(history.items_BN)
        active_BNKD, _ = self._activate(running_softmax(self._first_logits(x_BND), x_BND))
        own_BND, hidden_BNKD = self._own(x_BND), self._hidden(x_BND)
        steps_N = torch.arange(x_BND.shape[1], device=x_BND.device)
        back_NN = steps_N[:, None] - steps_N
        states = []
        for block in steps_N.split(BLOCK):
            first, end = int(block[0]), int(block[-1]) + 1
            back_QN = back_NN[first:end, :end]
            later_QNKD = None
            if self.position_embedding is not None:
                later_QNKD = self._hidden(self.position_embedding(back_QN.clamp_min(0)))
            rows = active_BNKD[:, first:end], x_BND[:, :end], own_BND[:, :end], hidden_BNKD[:, :end]
            of_users = partial(self._of_users, back_QN >= 0, later_QNKD)
            states.append(in_blocks(of_users, back_QN.numel() * hidden_BNKD[0, 0].numel(), *rows))
        return torch.cat(states, 1)

    def _of_users(
        self,
        seen_QN: Tensor,
        later_QNKD: Tensor | None,
        active_BQKD: Tensor,
        x_BND: Tensor,
        own_BND: Tensor,
        hidden_BNKD: Tensor,
    ) -> Tensor:
        """States (B, Q, D) of Q prefixes. ``later_QNKD``: what a step's distance adds to ``hidden_BNKD``."""
        hidden = hidden_BNKD[:, None]
        logits_BQNK = self._importance(hidden if later_QNKD is None else hidden + later_QNKD)
        return self._states(active_BQKD, x_BND, own_BND, logits_BQNK.mT, seen_QN[None])

    def _summary(self, x_BND: Tensor, real_BN: Tensor) -> Tensor:
        """z of (1), (B, D)."""
        share_BN = over_steps(self._first_logits(x_BND), real_BN)
        return (share_BN[:, None] @ x_BND)[:, 0]

    def _first_logits(self, x_BND: Tensor) -> Tensor:
        """Those of a in (1), (B, N)."""
        logits_BN1: Tensor = self.w2(self.w1(x_BND).tanh())
        return logits_BN1[..., 0]

    def _activate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Of z (..., D): C^u (..., K, D), gated, strongest first; and the indices of these concepts (..., K)."""
        scores, kept = (z @ self.concepts.weight.T).topk(self.top_k, -1)
        return self.concepts(kept) * scores.sigmoid()[..., None], kept

    def _own(self, x_BND: Tensor) -> Tensor:
        own_BND: Tensor = self.ln1(self.w3(x_BND))
        return own_BND

    def _hidden(self, x: Tensor) -> Tensor:
        """X W_{k,1} (..., K, D)."""
        hidden: Tensor = (x @ self.w_k1.permute(1, 0, 2).flatten(1)).unflatten(-1, self.w_k2.shape)
        return hidden

    def _importance(self, hidden: Tensor) -> Tensor:
        """The logits of P_{t|k} (..., K), from what ``_hidden`` gives."""
        logits: Tensor = (hidden.tanh() * self.w_k2).sum(-1)
        return logits

    def _states(
        self, active_BQKD: Tensor, x_BND: Tensor, own_BND: Tensor, logits_BQKN: Tensor, seen_BQN: Tensor
    ) -> Tensor:
        """(2) to (5) for Q prefixes of each sequence (B, Q, D), each with steps and concepts of its own."""
        seen_BQ1N = seen_BQN.unsqueeze(-2)
        # P_{k|t}, to which interest a step belongs, and P_{t|k}, which steps matter to an interest.
        keys_BXD = self.ln2(active_BQKD).flatten(1, 2)
        interest_BQKN = (keys_BXD @ own_BND.mT).unflatten(1, active_BQKD.shape[1:3]).softmax(-2)
        if self.assign_logits:
            share_BQKN = over_steps(interest_BQKN * logits_BQKN, seen_BQ1N)
        else:
            share_BQKN = interest_BQKN * over_steps(logits_BQKN, seen_BQ1N)
        phi_BQKD = self.ln3((share_BQKN.flatten(1, 2) @ x_BND).view(active_BQKD.shape))
        # The expected next intention, and the weight of each interest in it.
        w3 = self.w3 if self.w3_apt is None else self.w3_apt
        logits_BQN = self.w4((interest_BQKN.mT @ w3(active_BQKD)).tanh())[..., 0]
        share_BQN1 = over_steps(logits_BQN, seen_BQN)[..., None]
        apt_BQ1D = self.ln4((interest_BQKN @ share_BQN1).mT @ active_BQKD)
        weights_BQK1 = ((phi_BQKD * apt_BQ1D).sum(-1, keepdim=True) / self.tau).softmax(-2)
        states_BQD: Tensor = (weights_BQK1 * phi_BQKD).sum(2)
        return states_BQD

    @property
    def head(self) -> Head:
        return Products(self.item_embedding.of)

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        return {"decov": self.decov_weight * decorrelation(self.concepts.weight)}

    @torch.no_grad()
    def diagnose(self, history: History) -> dict[str, Tensor]:
        """``kept_share`` (L): the share of the sequences in which each concept is among the K kept."""
        _, kept_BK = self._activate(self._summary(self.item_embedding(history.items_BN), history.items_BN != PAD))
        counts_L = torch.bincount(kept_BK.flatten(), minlength=len(self.concepts.weight))
        return {"kept_share": counts_L.float() / len(kept_BK)}


class UnitLength(nn.Module):
    """x / ||x||; 0 stays 0."""

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, dim=-1)


def over_steps(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the last dimension, the steps that are ``seen``; 0 at the others, so all 0 for an empty history."""
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1) * seen
