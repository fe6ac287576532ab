"""Who trains on what, and which items are held out: each user's sequence is cut once, the past from what is to come."""

import hashlib
from dataclasses import dataclass
from enum import Enum

import numpy as np

from sairlib.data.dataset import Dataset, Ints
from sairlib.errors import UserError

MIN_ACTIONS = 3


class Part(Enum):
    """Which held-out item is to be found; the value is how many items after the training part it stands."""

    VALIDATION = 0
    TEST = 1


@dataclass(frozen=True)
class Split:
    """A data set and who is evaluated on it.

    ``train_lengths[u]`` is how many of user u's first actions train; the next one validates, the one after it tests.
    Users too short for that keep all of them for training and are not evaluated (SASRec's authors do the same).
    """

    dataset: Dataset
    train_lengths: Ints
    eval_users: Ints
    name: str = "leave-one-out 1"

    @property
    def n_short(self) -> int:
        """Users too short to be evaluated."""
        return self.dataset.n_users - len(self.eval_users)

    def sha256(self) -> str:
        """Hash of the data, the order and the roles: two runs are comparable iff theirs are equal."""
        digest = hashlib.sha256(f"sairlib {self.name}{self.dataset.sha256()}".encode())
        digest.update(self.train_lengths.astype("<i8").tobytes())
        return digest.hexdigest()


def leave_one_out(dataset: Dataset) -> Split:
    """Each user's last item tests, the last but one validates, the rest trains.

    UserError if nobody has 3 actions or there is nothing to tell apart.
    """
    lengths = np.diff(dataset.offsets)
    return _cut(dataset, lengths - 2, "leave-one-out 1")


def chronological(dataset: Dataset, share: float = 0.8) -> Split:
    """The first ``share`` of each user's actions, rounded up, trains but for its last one, which validates; the first
    action after it tests, and what comes later is left alone.

    UserError as in ``leave_one_out``, and for a share that leaves nothing to train on or to test.
    """
    if not 0 < share < 1:
        raise UserError(f"split.share={share}: must be between 0 and 1")
    lengths = np.diff(dataset.offsets)
    past = np.ceil(share * lengths).astype(np.int64)
    return _cut(dataset, np.minimum(past, lengths - 1) - 1, f"chronological {share} 1")


def _cut(dataset: Dataset, train_lengths: Ints, name: str) -> Split:
    lengths = np.diff(dataset.offsets)
    enough = (lengths >= MIN_ACTIONS) & (train_lengths >= 1)
    if not enough.any():
        raise UserError(
            f"none of the {dataset.n_users} users has {MIN_ACTIONS} or more actions: there is nobody to"
            " evaluate; check the filters and that the file's first column is the user"
        )
    if dataset.n_items < 2:
        raise UserError("the data has a single item: there is nothing to rank; check the item column and the filters")
    return Split(dataset, np.where(enough, train_lengths, lengths), np.flatnonzero(enough), name)
