"""Small data sets, splits and histories for tests, written as lists of items."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sairlib.batch import PAD, History
from sairlib.data.dataset import Dataset
from sairlib.data.split import Split, Targets, leave_one_out


def make_dataset(sequences: Sequence[Sequence[int]], n_items: int, timed: bool = False) -> Dataset:
    """Users 0, 1, ... with these items of 1..n_items, without categories.

    ``timed``: an action's time is its number among all actions, from 1.
    """
    items = np.concatenate([np.array(sequence, np.int64) for sequence in sequences])
    offsets = np.cumsum([0, *map(len, sequences)])
    no_categories = np.full((n_items + 1, 0), PAD, np.int64)
    times = np.arange(1, len(items) + 1) if timed else None
    return Dataset(items, offsets, np.arange(len(sequences)), np.arange(1, n_items + 1), no_categories, (), times)


def make_split(sequences: Sequence[Sequence[int]], n_items: int, timed: bool = False) -> Split:
    """The leave-one-out split of these sequences."""
    return leave_one_out(make_dataset(sequences, n_items, timed))


def make_targets(*pairs: tuple[int, int]) -> Targets:
    """Targets of these (user, position) pairs."""
    users_E, positions_E = np.array(pairs, np.int64).reshape(-1, 2).T
    return Targets(users_E.copy(), positions_E.copy())


def history(items_BN: Tensor) -> History:
    """Row b is user b's history, with gaps of time that grow."""
    times_BN = torch.where(items_BN != PAD, (10 + torch.arange(items_BN.shape[1])) ** 3, 0)
    return History(torch.arange(len(items_BN)), items_BN, times_BN)
