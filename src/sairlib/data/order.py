"""Other orders of the same actions: how much of a figure is the rule for ties in time, and how much is order at all?"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sairlib.data.dataset import Dataset
from sairlib.data.ids import Ints
from sairlib.data.split import Split
from sairlib.errors import UserError

SHUFFLED = "shuffled"
_DRAWN = 2**31


@dataclass(frozen=True)
class Order:
    """In which order a user's actions stand. Whatever is shuffled keeps its items: times and lengths stay in place.

    ties: actions of a user at the same time stand as in the ``file``, or ``shuffled``, which may hold out other items.
    train: a user's training actions stand by ``time``, or ``shuffled``. The held-out items are the same. A model is
        trained on the shuffled actions, and in evaluation sees them shuffled in the same way, followed by the actions
        after the training part in their order, such as the validation item before the test item.
    ties_seed, train_seed: determine the order, with the data. Other seeds of one run are other seeds of its training.

    What is shuffled is another split, with another hash. UserError for a value out of range, and in ``applied`` for
    ties of data without times.
    """

    ties: str = "file"
    ties_seed: int = 1
    train: str = "time"
    train_seed: int = 1

    def __post_init__(self) -> None:
        for name, value, usual in (("ties", self.ties, "file"), ("train", self.train, "time")):
            if value not in (usual, SHUFFLED):
                raise UserError(f"split.order.{name}={value}: choose one of {usual}, {SHUFFLED}")
        for name, seed in (("ties_seed", self.ties_seed), ("train_seed", self.train_seed)):
            if seed < 0:
                raise UserError(f"split.order.{name}={seed}: must be 0 or more")

    def applied(self, rule: Callable[[Dataset], Split], data: Dataset) -> Split:
        """The split of ``data`` by ``rule``, in this order."""
        if self.ties == SHUFFLED:
            data = shuffled_ties(data, self.ties_seed)
        split = rule(data)
        if self.ties == SHUFFLED:
            split = replace(split, name=f"{split.name}, ties shuffled {self.ties_seed}")
        return shuffled_training(split, self.train_seed) if self.train == SHUFFLED else split


def shuffled_ties(data: Dataset, seed: int) -> Dataset:
    """The actions of each user at the same time in a random order; UserError for data without times."""
    if data.times is None:
        raise UserError("split.order.ties=shuffled needs times, and the data has none")
    groups = tied_groups(data)
    at = np.flatnonzero(groups >= 0)
    note = f"{len(at):,} actions have the time of another one of the same user: they are in a random order, seed {seed}"
    return replace(data, items=_shuffled(data.items, at, groups[at], seed), notes=(*data.notes, note))


def shuffled_training(split: Split, seed: int) -> Split:
    """The training actions of each user in a random order."""
    data = split.dataset
    owners = np.repeat(np.arange(data.n_users), np.diff(data.offsets))
    at = np.flatnonzero(np.arange(len(data.items)) - data.offsets[owners] < split.train_lengths[owners])
    note = f"the {len(at):,} training actions are in a random order, each user's among themselves, seed {seed}"
    items = _shuffled(data.items, at, owners[at], seed)
    shuffled = replace(data, items=items, notes=(*data.notes, note))
    return replace(split, dataset=shuffled, name=f"{split.name}, training shuffled {seed}")


def tied_groups(data: Dataset) -> Ints:
    """The number of each action's user and time among those of several actions, ascending from 0; -1 for an action
    that is alone. ``data`` must have times."""
    assert data.times is not None
    begins = np.ones(len(data.items), bool)
    np.not_equal(data.times[1:], data.times[:-1], out=begins[1:])
    begins[data.offsets[:-1]] = True
    numbers = np.cumsum(begins) - 1
    several = np.bincount(numbers) > 1
    groups: Ints = np.where(several[numbers], (np.cumsum(several) - 1)[numbers], -1)
    return groups


def _shuffled(items: Ints, at: NDArray[np.intp], groups: Ints, seed: int) -> Ints:
    """``items`` with those ``at`` these places permuted within their ``groups``, which ascend."""
    keys = groups.astype(np.int64) * _DRAWN + np.random.default_rng(seed).integers(0, _DRAWN, len(at))
    shuffled: Ints = items.copy()
    shuffled[at] = items[at[np.argsort(keys, kind="stable")]]
    return shuffled
