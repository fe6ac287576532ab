"""The items that a model ranks first."""

from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from sairlib.batch import PAD, State, map_state
from sairlib.errors import NonFiniteError
from sairlib.models.recommender import Head

SCORES_AT_ONCE = 2**23
"""How many scores are held at once: 32 MB in fp32, for any number of histories and items."""


class Top(NamedTuple):
    """The K best items of each row, best first. Where fewer are left: PAD, with the score -inf."""

    items_BK: Tensor
    scores_BK: Tensor


@torch.no_grad()
def top(head: Head, states: State, n_items: int, k: int, left_out_BX: Tensor, allowed_C: Tensor | None = None) -> Top:
    """The ``k`` items with the highest scores against each state, without those in ``left_out_BX`` (PAD pads).

    ``allowed_C``: choose among these items only, ascending and without duplicates; None: among all. NonFiniteError if
    a score is NaN or inf.
    """
    columns_C = None if allowed_C is None else torch.cat([allowed_C.new_full((1,), PAD), allowed_C])
    n_rows = len(left_out_BX)
    at_once = max(1, SCORES_AT_ONCE // (n_items + 1 if columns_C is None else len(columns_C)))
    pieces = []
    for start in range(0, max(1, n_rows), at_once):
        rows = slice(start, start + at_once)
        pieces.append(_top(head, map_state(itemgetter(rows), states), k, left_out_BX[rows], columns_C))
    return Top(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


def top_counts(counts_M: Tensor, k: int, allowed_C: Tensor | None = None) -> Top:
    """The ``k`` items that occur most often (1, K), for people of whom nothing is known."""
    counts_1M = counts_M[None].float()
    counts_1M[:, PAD] = -torch.inf
    if allowed_C is not None:
        only_1M = torch.full_like(counts_1M, -torch.inf)
        only_1M[:, allowed_C] = counts_1M[:, allowed_C]
        counts_1M = only_1M
    return _best(counts_1M, k, None)


def _top(head: Head, states: State, k: int, left_out_BX: Tensor, columns_C: Tensor | None) -> Top:
    if columns_C is None:
        scores_BC = head.score_all(states).float().clone()  # they may belong to the model
    else:
        scores_BC = head.score_shared(states, columns_C).float()
        at_BX = torch.searchsorted(columns_C, left_out_BX).clamp_(max=len(columns_C) - 1)
        left_out_BX = at_BX.where(columns_C[at_BX] == left_out_BX, PAD)
    scores_BC[:, PAD] = 0.0
    if not torch.isfinite(scores_BC.sum(1)).all():  # a sum is finite iff all its terms are, but for overflow
        raise NonFiniteError("the model gives NaN or inf as a score")
    scores_BC[:, PAD] = -torch.inf
    scores_BC.scatter_(1, left_out_BX, -torch.inf)
    return _best(scores_BC, k, columns_C)


def _best(scores_BC: Tensor, k: int, columns_C: Tensor | None) -> Top:
    scores_BK, at_BK = scores_BC.topk(min(k, scores_BC.shape[1]), dim=1)
    items_BK = at_BK if columns_C is None else columns_C[at_BK]
    return Top(items_BK.where(scores_BK > -torch.inf, PAD), scores_BK)
