"""Scores of very many items, tile by tile: a tile is still in a CPU's cache when it is looked at."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sairlib.batch import State, as_rows
from sairlib.models.recommender import Head

SCORES_AT_ONCE = 2**23
"""How many scores are held at once: 32 MB in fp32, for any number of histories and items."""
ROWS = 256
"""Rows of a tile on a CPU."""


class Tile(NamedTuple):
    """Scores (B, C) of the items from ``start`` on, and the places in the flat scores that are left out."""

    start: int
    scores_BC: Tensor
    left_out_X: Tensor


def rows_at_once(device: torch.device) -> int:
    """How many rows a tile has."""
    return ROWS if device.type == "cpu" else 4 * ROWS


def tiles(head: Head, states: State, items_C: Tensor, rows_X: Tensor, columns_X: Tensor, width: int) -> Iterator[Tile]:
    """Scores of ``items_C``, ``width`` of them at once, against each state.

    Pairs of a row and a column of ``items_C`` are left out.
    """
    n_rows = len(as_rows(states)[0])
    starts = range(0, len(items_C), width)
    keys_X = columns_X * n_rows + rows_X
    # On a CPU, numpy's sort is much faster than torch's.
    keys_X = torch.from_numpy(np.sort(keys_X.numpy())) if keys_X.device.type == "cpu" else keys_X.sort().values
    edges = torch.tensor([*starts, len(items_C)], device=items_C.device)
    ends = torch.searchsorted(keys_X, edges * n_rows).tolist()
    for number, start in enumerate(starts):
        tile_C = items_C[start : start + width]
        scores_BC = head.score_shared(states, tile_C).float().contiguous()
        own_X = keys_X[ends[number] : ends[number + 1]]
        yield Tile(start, scores_BC, own_X % n_rows * len(tile_C) + own_X // n_rows - start)
