"""Losses: pure functions of scores, one number for each positive.

``softmax`` sees the scores of every item. All others see those of a positive (column 0) and its negatives, ``scores``
(..., 1 + C), and say of each positive what it costs (...). ``counts``, of the same shape, is True where a score counts:
not for PAD, nor for a negative that is the positive itself. ``log_expected`` (broadcast to (..., C)) is the logarithm
of how often a negative like this one is expected among the C that were drawn; only losses that stand in for the whole
catalogue use it. What a positive that does not count costs means nothing; whoever adds up leaves it out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax, logsigmoid, softplus
from torch.utils.checkpoint import checkpoint

from sairlib.batch import PAD

SCORES_IN_CACHE = 2**20
"""Scores that ``in_parts`` computes at once on CPU: 4 MB in fp32 (eight times as many take 1.3 times as long)."""
SCORES_AT_ONCE = 2**25
"""The same elsewhere: 128 MB."""


def bce(scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
    """-log sigmoid(s+) - sum over negatives of log(1 - sigmoid(s-)) (SASRec, section III-E; SAIR, eq. 12)."""
    return softplus(-scores[..., 0]) + _sum(softplus(scores[..., 1:]), counts)


def gbce(scores: Tensor, counts: Tensor, log_expected: Tensor, t: float = 0.75) -> Tensor:
    """-beta log sigmoid(s+) - sum of log(1 - sigmoid(s-)), beta = a (t (1 - 1/a) + 1/a) (Petrov and Macdonald, 2023).

    a is the share of the negatives that is drawn; t = 0 is BCE, t = 1 undoes the overconfidence whole.
    """
    share = log_expected.exp()
    beta = (share * (t * (1 - 1 / share) + 1 / share)).expand_as(scores[..., 1:])[..., 0]
    return beta * softplus(-scores[..., 0]) + _sum(softplus(scores[..., 1:]), counts)


def bpr(scores: Tensor, counts: Tensor, log_expected: Tensor) -> Tensor:
    """-log sigmoid(s+ - s-), the mean over the negatives (Rendle et al., 2009)."""
    each = softplus(scores[..., 1:] - scores[..., :1])
    return _sum(each, counts) / counts[..., 1:].sum(-1).clamp_min(1)


def bpr_max(scores: Tensor, counts: Tensor, log_expected: Tensor, regularisation: float = 1.0) -> Tensor:
    """-log sum w- sigmoid(s+ - s-) + r sum w- s-^2, w- the softmax of the negatives (Hidasi and Karatzoglou, 2018)."""
    none = ~counts[..., 1:].any(-1, keepdim=True)
    negatives = scores[..., 1:].masked_fill(~(counts[..., 1:] | none), -torch.inf)
    log_weights = log_softmax(negatives, -1)
    log_likelihood = torch.logsumexp(log_weights + logsigmoid(scores[..., :1] - scores[..., 1:]), -1)
    penalty = (log_weights.exp() * scores[..., 1:].square()).sum(-1)
    return (regularisation * penalty - log_likelihood).masked_fill(none[..., 0], 0.0)


def hinge(scores: Tensor, counts: Tensor, log_expected: Tensor, margin: float = 0.5) -> Tensor:
    """Sum over negatives of max(0, margin + s- - s+) (AttRec, eq. 13, where s is a negated distance)."""
    return _sum((margin + scores[..., 1:] - scores[..., :1]).clamp_min(0), counts)


def sampled_softmax(scores: Tensor, counts: Tensor, log_expected: Tensor, logq: bool = True) -> Tensor:
    """-log of the positive's softmax among the drawn.

    ``logq`` takes log(its expected count) from a negative's score: the sum is then the whole catalogue's in expectation
    (Bengio and Senecal, 2008).
    """
    negatives = scores[..., 1:] - log_expected if logq else scores[..., 1:]
    negatives = negatives.masked_fill(~counts[..., 1:], -torch.inf)
    return torch.logsumexp(torch.cat([scores[..., :1], negatives], -1), -1) - scores[..., 0]


def softmax(scores_XM: Tensor, targets: Tensor) -> Tensor:
    """-log of a target's softmax among all items, from scores (X, M + 1), of which column PAD means nothing.

    For targets (X, S), as many numbers; for PAD among them, anything.
    """
    log_chances_XM = log_softmax(scores_XM[:, 1:].float(), -1)
    return -log_chances_XM.gather(1, (targets - 1).clamp_min(0))


def softmax_of_products(
    states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor, asked_X: Tensor
) -> Tensor:
    """``in_parts`` of ``softmax(linear(states, vectors, bias), targets)``; on CPU in two thirds of its time."""
    if not _on_plain_cpu(states_XD) or torch.is_autocast_enabled("cpu"):

        def cost(states: Tensor, targets: Tensor) -> Tensor:
            return softmax(linear(states, vectors_MD, bias_M), targets)

        return in_parts(cost, len(vectors_MD), asked_X, states_XD, targets_XS)
    asked = asked_X.nonzero().squeeze(1)
    costs: Tensor = _SoftmaxOfProducts.apply(states_XD[asked], vectors_MD, bias_M, targets_XS[asked])  # type: ignore[no-untyped-call]
    return _spread(costs, asked, asked_X)


class _SoftmaxOfProducts(torch.autograd.Function):
    """The gradient of a softmax is the softmax, less 1 at the target: written out, it takes few passes over scores."""

    @staticmethod
    def forward(ctx: Any, states_XD: Tensor, vectors_MD: Tensor, bias_M: Tensor | None, targets_XS: Tensor) -> Tensor:
        ctx.at_once = _at_once(states_XD, len(vectors_MD))
        costs, log_sums = [], []
        for states, targets in zip(states_XD.split(ctx.at_once), targets_XS.split(ctx.at_once), strict=True):
            scores = linear(states, vectors_MD, bias_M)
            log_sums.append(scores[:, 1:].logsumexp(1, keepdim=True))
            costs.append(log_sums[-1] - scores.gather(1, targets))
        ctx.save_for_backward(states_XD, vectors_MD, bias_M, targets_XS, torch.cat(log_sums))
        return torch.cat(costs)

    @staticmethod
    def backward(ctx: Any, gradient_XS: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        states_XD, vectors_MD, bias_M, *others = ctx.saved_tensors
        to_states, to_vectors_MD = [], torch.zeros_like(vectors_MD)
        to_bias_M = None if bias_M is None else torch.zeros_like(bias_M)
        parts = (each.split(ctx.at_once) for each in (states_XD, *others, gradient_XS))
        for states, targets, log_sums, gradient in zip(*parts, strict=True):
            to_scores = linear(states, vectors_MD, bias_M).sub_(log_sums).exp_()
            to_scores[:, PAD] = 0
            to_scores.mul_(gradient.sum(1, keepdim=True)).scatter_add_(1, targets, -gradient)
            to_states.append(to_scores @ vectors_MD)
            to_vectors_MD.addmm_(to_scores.T, states)
            if to_bias_M is not None:
                to_bias_M += to_scores.sum(0)
        return torch.cat(to_states), to_vectors_MD, to_bias_M, None


def in_parts(cost: Callable[..., Tensor], scores_per_row: int, asked_X: Tensor, *rows: Tensor) -> Tensor:
    """``cost(*rows)``, a row of numbers for each of the X rows of the arguments, by parts of few enough scores.

    Each part is computed again on the way back, so what is held depends on neither the steps nor the items. What a row
    that is not ``asked_X`` costs means nothing; on CPU it is not computed.
    """
    at_once = _at_once(rows[0], scores_per_row)
    if len(rows[0]) <= at_once:
        return cost(*rows)
    asked = asked_X.nonzero().squeeze(1) if _on_plain_cpu(rows[0]) else None  # elsewhere: a wait for their number
    if asked is not None:
        rows = tuple(each[asked] for each in rows)
    parts = zip(*(each.split(at_once) for each in rows), strict=True)
    costs = torch.cat([checkpoint(cost, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])
    return costs if asked is None else _spread(costs, asked, asked_X)


def _on_plain_cpu(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and not torch.compiler.is_compiling()  # which writes out every part


def _at_once(rows: Tensor, scores_per_row: int) -> int:
    """Rows of a part; of very many items still some, for each part passes over all vectors."""
    return max(32, (SCORES_IN_CACHE if _on_plain_cpu(rows) else SCORES_AT_ONCE) // scores_per_row)


def _spread(costs: Tensor, asked: Tensor, asked_X: Tensor) -> Tensor:
    """The costs of some rows among all X, 0 elsewhere."""
    return costs.new_zeros(len(asked_X), costs.shape[1]).index_copy(0, asked, costs)


def _sum(each: Tensor, counts: Tensor) -> Tensor:
    return each.where(counts[..., 1:], 0.0).sum(-1)
