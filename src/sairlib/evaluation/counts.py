"""How many items score above a target, and equal to it."""

import torch
from torch import Tensor

from sairlib.batch import State
from sairlib.errors import NonFiniteError
from sairlib.evaluation.tiles import tiles
from sairlib.models.recommender import Recommender

COLUMNS = 4096
"""Items of a tile: fewer than for the best items, because each score is looked at five times."""


def better_and_tied(scores_BC: Tensor, target_B1: Tensor, left_out_BX: Tensor | None = None) -> Tensor:
    """How many scores of each row are above, and equal to, the target's (2, B), without columns ``left_out_BX``."""
    # Summing floats is exact below 2^24 items, and on a CPU takes a fifth of the time of summing booleans.
    ones_BC = torch.empty_like(scores_BC)
    sums = []
    for compare in (torch.gt, torch.ge):
        compare(scores_BC, target_B1, out=ones_BC)
        if left_out_BX is not None:
            ones_BC.scatter_(1, left_out_BX, 0.0)  # not in scores_BC, which belongs to the model
        sums.append(ones_BC.sum(1))
    better_B, at_least_B = sums
    return torch.stack([better_B, at_least_B - better_B]).long()


def better_and_tied_of_all(
    model: Recommender, states: State, users_B: Tensor, targets_B: Tensor, left_out_BX: Tensor
) -> Tensor:
    """``better_and_tied`` (2, B) of all items but the target and ``left_out_BX`` (padded by PAD), tile by tile.

    For so many items that scores of few rows fit into the memory: then each of these would read all items' vectors.
    NonFiniteError as in ``require_finite``.
    """
    target_B1 = model.head.score_shared(states, targets_B).float().diagonal()[:, None]
    left_out_BX = torch.cat([left_out_BX, targets_B[:, None]], 1)
    rows_X, at_X = left_out_BX.nonzero(as_tuple=True)  # PAD is 0
    items_M = torch.arange(1, model.n_items + 1, device=targets_B.device)
    counts = torch.zeros(2, len(targets_B), dtype=torch.long, device=targets_B.device)
    for tile in tiles(model.head, states, items_M, rows_X, left_out_BX[rows_X, at_X] - 1, COLUMNS):
        require_finite(tile.scores_BC, target_B1, model, users_B)
        tile.scores_BC.view(-1).index_fill_(0, tile.left_out_X, -torch.inf)
        counts += better_and_tied(tile.scores_BC, target_B1)
    return counts


def require_finite(scores_BC: Tensor, target_B1: Tensor, model: Recommender, users_B: Tensor) -> None:
    """NonFiniteError, naming model and user, if a score is NaN or inf."""
    # A sum is finite iff all its terms are, but for overflow, which is an error too. This needs no mask in memory.
    sums_B = scores_BC.sum(1) + target_B1[:, 0]
    if not torch.isfinite(sums_B).all():
        user = int(users_B[int((~torch.isfinite(sums_B)).nonzero()[0])])
        raise NonFiniteError(f"{type(model).__name__} gives NaN or inf as a score of user number {user}")
