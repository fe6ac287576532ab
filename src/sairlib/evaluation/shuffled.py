"""Histories in a random order, for asking how much of a figure is order."""

import torch
from torch import Tensor

from sairlib.batch import PAD, History

_ROWS = 2**31
_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))
"""Shifts and factors of splitmix64."""


def shuffled(history: History, rows_B: Tensor, seed: int) -> History:
    """The same items of each row in a random order, which (``rows_B``, seed) determine: not the batch they are in.

    Times stay in place, and so does padding.
    """
    items_BN = history.items_BN
    steps_N = torch.arange(items_BN.shape[1], device=items_BN.device)
    start = _mixed(torch.tensor(seed, device=items_BN.device))
    keys_BN = _mixed(start ^ (rows_B[:, None] * _ROWS + steps_N)).masked_fill(
        items_BN == PAD, torch.iinfo(torch.long).max
    )
    return history._replace(items_BN=items_BN.gather(1, keys_BN.argsort(stable=True, dim=1)))


def _mixed(x: Tensor) -> Tensor:
    """Numbers of 64 bits that look random, for other ones."""
    for shift, factor in _MIX:
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x
