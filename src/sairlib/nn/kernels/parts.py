"""Costs of very many scores, computed in parts: the memory depends on neither the number of steps nor of items."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sairlib.nn.kernels.switch import allowed, fast_on

SCORES_IN_CACHE = 2**20
"""Scores computed at once on CPU: 4 MB in fp32 (with eight times as many, the same work takes 1.3 times as long)."""
SCORES_AT_ONCE = 2**25
"""Scores computed at once otherwise: 128 MB."""


def in_parts(cost: Callable[..., Tensor], scores_per_row: int, real_X: Tensor, *rows: Tensor) -> Tensor:
    """``cost(*rows)``: for each of the X rows of the arguments a row of numbers, computed in parts of limited size.

    The backward pass computes each part again. The cost of a row that is not ``real_X`` is not used; on CPU it is not
    computed. The plain version is ``cost(*rows)`` itself, whose memory is not limited.
    """
    size = part_size(rows[0], scores_per_row)
    if len(rows[0]) <= size or not allowed():
        return cost(*rows)
    real = real_X.nonzero().squeeze(1) if fast_on(rows[0]) else None  # a GPU would have to wait for their number
    if real is not None:
        rows = tuple(tensor[real] for tensor in rows)
    parts = zip(*(tensor.split(size) for tensor in rows), strict=True)
    costs = torch.cat([checkpoint(cost, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])
    return costs if real is None else spread(costs, real, real_X)


def part_size(rows: Tensor, scores_per_row: int) -> int:
    """Rows of a part: at least 32, because each part reads the vectors of all items.

    Under torch.compile parts are large, because it unrolls the loop over them.
    """
    return max(32, (SCORES_IN_CACHE if fast_on(rows) else SCORES_AT_ONCE) // scores_per_row)


def spread(costs: Tensor, real: Tensor, real_X: Tensor) -> Tensor:
    """The costs of all X rows: ``costs`` at the indices ``real``, 0 elsewhere."""
    return costs.new_zeros(len(real_X), costs.shape[1]).index_copy(0, real, costs)


def in_blocks(function: Callable[..., Tensor], numbers_per_row: int, *rows: Tensor) -> Tensor:
    """``function(*rows)``, one row of the result for each row of the arguments, computed in blocks of rows.

    ``numbers_per_row``: how many ``function`` holds at once for each row. With a gradient, the backward pass computes
    each block again. The plain version is ``function(*rows)`` itself, whose memory is not limited.
    """
    size = rows_at_once(rows[0], numbers_per_row)
    if size is None or len(rows[0]) <= size:
        return function(*rows)
    blocks = zip(*(tensor.split(size) for tensor in rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([function(*block) for block in blocks])
    return torch.cat([checkpoint(function, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks])


def rows_at_once(rows: Tensor, numbers_per_row: int) -> int | None:
    """Rows of a block of ``in_blocks``; None: all, where plain versions run, and while torch.compile or torch.export
    traces the code."""
    if torch.compiler.is_compiling() or not allowed():
        return None
    return max(1, (SCORES_IN_CACHE if fast_on(rows) else SCORES_AT_ONCE) // numbers_per_row)
