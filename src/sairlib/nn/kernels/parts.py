"""Costs of very many scores, by parts: what is held at once depends on neither the steps nor the items."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sairlib.nn.kernels.switch import allowed, fast_on

SCORES_IN_CACHE = 2**20
"""Scores that are computed at once on CPU: 4 MB in fp32 (eight times as many take 1.3 times as long)."""
SCORES_AT_ONCE = 2**25
"""The same elsewhere: 128 MB."""


def in_parts(cost: Callable[..., Tensor], scores_per_row: int, asked_X: Tensor, *rows: Tensor) -> Tensor:
    """``cost(*rows)``, a row of numbers for each of the X rows of the arguments, by parts of few enough scores.

    Each part is computed again on the way back. What a row that is not ``asked_X`` costs means nothing; on CPU it is
    not computed. The plain version is ``cost(*rows)`` itself, whatever memory that takes.
    """
    size = part_size(rows[0], scores_per_row)
    if len(rows[0]) <= size or not allowed():
        return cost(*rows)
    asked = asked_X.nonzero().squeeze(1) if fast_on(rows[0]) else None  # elsewhere: a wait for their number
    if asked is not None:
        rows = tuple(each[asked] for each in rows)
    parts = zip(*(each.split(size) for each in rows), strict=True)
    costs = torch.cat([checkpoint(cost, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])
    return costs if asked is None else spread(costs, asked, asked_X)


def part_size(rows: Tensor, scores_per_row: int) -> int:
    """Rows of a part; of very many items still some, for each part passes over all vectors.

    torch.compile writes out every part, and gets few.
    """
    return max(32, (SCORES_IN_CACHE if fast_on(rows) else SCORES_AT_ONCE) // scores_per_row)


def spread(costs: Tensor, asked: Tensor, asked_X: Tensor) -> Tensor:
    """The costs of some rows among all X, 0 elsewhere."""
    return costs.new_zeros(len(asked_X), costs.shape[1]).index_copy(0, asked, costs)
