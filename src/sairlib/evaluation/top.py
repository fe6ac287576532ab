"""The items that a model ranks first."""

from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from sairlib.batch import PAD, State, as_rows, map_state
from sairlib.errors import NonFiniteError
from sairlib.evaluation.tiles import rows_at_once, tiles
from sairlib.models.recommender import Head

COLUMNS = 8192
"""Items of a tile."""
GROUP = 8
"""How many scores of a tile stand together for the first look."""


class LeftOut(NamedTuple):
    """Pairs of a row and an item that is not to be chosen for it. ``rows_X`` ascend; repeats are allowed."""

    rows_X: Tensor
    items_X: Tensor


class Top(NamedTuple):
    """The K best items of each row, best first. Where fewer are left: PAD, with the score -inf."""

    items_BK: Tensor
    scores_BK: Tensor


@torch.no_grad()
def top(
    head: Head, states: State, n_items: int, k: int, left_out: LeftOut | Tensor, allowed_C: Tensor | None = None
) -> Top:
    """The ``k`` items with the highest scores against each state, without those in ``left_out``.

    ``left_out`` may also be a tensor of items (B, X), padded by PAD. ``allowed_C``: choose among these items only,
    ascending and without duplicates; None: among all. NonFiniteError if a score is NaN or inf.
    """
    device = as_rows(states)[0].device
    if isinstance(left_out, Tensor):
        rows_X, at_X = left_out.nonzero(as_tuple=True)  # PAD is 0
        left_out = LeftOut(rows_X, left_out[rows_X, at_X])
    if allowed_C is None:
        items_C, left_out = torch.arange(1, n_items + 1, device=device), LeftOut(left_out.rows_X, left_out.items_X - 1)
    else:
        items_C, left_out = allowed_C, _columns(left_out, allowed_C)
    at_once = rows_at_once(device)
    starts = range(0, max(1, len(as_rows(states)[0])), at_once)
    ends = torch.searchsorted(left_out.rows_X, torch.tensor([*starts, 2**62], device=device)).tolist()
    pieces = []
    for number, start in enumerate(starts):
        own = slice(ends[number], ends[number + 1])
        rows = map_state(itemgetter(slice(start, start + at_once)), states)
        pieces.append(_top(head, rows, k, left_out.rows_X[own] - start, left_out.items_X[own], items_C))
    return Top(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


def top_counts(counts_M: Tensor, k: int, allowed_C: Tensor | None = None) -> Top:
    """The ``k`` items that occur most often (1, K), for people of whom nothing is known."""
    items_C = torch.arange(1, len(counts_M), device=counts_M.device) if allowed_C is None else allowed_C
    counts_K, at_K = counts_M[items_C].float().topk(min(k, len(items_C)))
    return Top(items_C[at_K][None], counts_K[None])


def _columns(left_out: LeftOut, items_C: Tensor) -> LeftOut:
    """The same pairs with the places of their items in ``items_C``, without those that are not there."""
    columns_X = torch.searchsorted(items_C, left_out.items_X).clamp_(max=len(items_C) - 1)
    there_X = items_C[columns_X] == left_out.items_X
    return LeftOut(left_out.rows_X[there_X], columns_X[there_X])


def _top(head: Head, states: State, k: int, rows_X: Tensor, columns_X: Tensor, items_C: Tensor) -> Top:
    """Tile by tile: scores, and the best of these and of the tiles before."""
    n_rows, k = len(as_rows(states)[0]), min(k, len(items_C))
    best = Top(items_C.new_full((n_rows, k), PAD), torch.full((n_rows, k), -torch.inf, device=items_C.device))
    for start, scores_BC, left_out_X in tiles(head, states, items_C, rows_X, columns_X, COLUMNS):
        if not torch.isfinite(scores_BC.sum(1)).all():  # a sum is finite iff all its terms are, but for overflow
            raise NonFiniteError("the model gives NaN or inf as a score")
        scores_BC.view(-1).index_fill_(0, left_out_X, -torch.inf)
        found = _best(scores_BC, k)
        scores_BK = torch.cat([best.scores_BK, found.scores_BK], 1)
        items_BK = torch.cat([best.items_BK, items_C[start + found.items_BK]], 1)
        scores_BK, at_BK = scores_BK.topk(k)
        best = Top(items_BK.gather(1, at_BK), scores_BK)
    return Top(best.items_BK.where(best.scores_BK > -torch.inf, PAD), best.scores_BK)


def _best(scores_BC: Tensor, k: int) -> Top:
    """The best columns of each row, in any order, and their scores.

    The scores are cut into groups. The k best are in the k groups with the highest maxima, so only these are sorted:
    on a CPU about a third of the time of ``topk`` over all.
    """
    n_rows, n_columns = scores_BC.shape
    n_groups = n_columns // GROUP
    if k >= n_groups:
        scores_BK, columns_BK = scores_BC.topk(min(k, n_columns))
        return Top(columns_BK, scores_BK)
    grouped = n_groups * GROUP
    groups_BK = scores_BC[:, :grouped].view(n_rows, GROUP, n_groups).amax(1).topk(k, sorted=False).indices
    columns_BX = (groups_BK[:, :, None] + n_groups * torch.arange(GROUP, device=scores_BC.device)).flatten(1)
    if grouped < n_columns:
        rest = torch.arange(grouped, n_columns, device=scores_BC.device)
        columns_BX = torch.cat([columns_BX, rest.expand(n_rows, -1)], 1)
    scores_BK, at_BK = scores_BC.gather(1, columns_BX).topk(k)
    return Top(columns_BX.gather(1, at_BK), scores_BK)
