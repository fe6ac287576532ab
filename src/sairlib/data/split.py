"""Leave-one-out: each user's last item tests, the last but one validates, the rest trains."""

import hashlib
from dataclasses import dataclass
from enum import Enum

import numpy as np

from sairlib.data.dataset import Dataset, Ints
from sairlib.errors import UserError

MIN_ACTIONS = 3


class Part(Enum):
    """Which held-out item is to be found; the value is how many items from the end it stands."""

    VALIDATION = 2
    TEST = 1


@dataclass(frozen=True)
class Split:
    """A data set and who is evaluated on it.

    ``train_lengths[u]`` is how many of user u's first actions train. Users with fewer than 3 actions keep all of
    them for training and are not evaluated (SASRec's authors do the same).
    """

    dataset: Dataset
    train_lengths: Ints
    eval_users: Ints

    @property
    def n_short(self) -> int:
        """Users too short to be evaluated."""
        return self.dataset.n_users - len(self.eval_users)

    def sha256(self) -> str:
        """Hash of the data, the order and the roles: two runs are comparable iff theirs are equal."""
        digest = hashlib.sha256(b"sairlib leave-one-out 1" + self.dataset.sha256().encode())
        digest.update(self.train_lengths.astype("<i8").tobytes())
        return digest.hexdigest()


def leave_one_out(dataset: Dataset) -> Split:
    """Split every user's sequence; UserError if nobody has 3 actions or there is nothing to tell apart."""
    lengths = np.diff(dataset.offsets)
    enough = lengths >= MIN_ACTIONS
    if not enough.any():
        raise UserError(
            f"none of the {dataset.n_users} users has {MIN_ACTIONS} or more actions: leave-one-out has nobody to"
            " evaluate; check the filters and that the file's first column is the user"
        )
    if dataset.n_items < 2:
        raise UserError("the data has a single item: there is nothing to rank; check the item column and the filters")
    return Split(dataset, np.where(enough, lengths - 2, lengths), np.flatnonzero(enough))
