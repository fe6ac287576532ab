"""Who trains on what, and which actions are held out to be found."""

import hashlib
from dataclasses import dataclass
from enum import Enum

import numpy as np

from sairlib.data.dataset import Dataset, Ints
from sairlib.errors import UserError

MIN_ACTIONS = 3


class Part(Enum):
    """Which held-out actions are to be found."""

    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Targets:
    """Held-out actions, one a row: whose (``users_E``), and which of the user's actions, from 0 (``positions_E``).

    What came before it may be looked at. A user may have several rows, or none.
    """

    users_E: Ints
    positions_E: Ints

    def __len__(self) -> int:
        return len(self.users_E)


@dataclass(frozen=True)
class Split:
    """A data set, what of it trains, and what is to be found.

    ``train_lengths[u]`` is how many of user u's first actions train. ``validation`` and ``test`` are held out.
    ValueError if a target is not a held-out action.
    """

    dataset: Dataset
    train_lengths: Ints
    validation: Targets
    test: Targets
    name: str = "leave-one-out 1"

    def __post_init__(self) -> None:
        lengths = np.diff(self.dataset.offsets)
        for targets in (self.validation, self.test):
            users, positions = targets.users_E, targets.positions_E
            if not ((self.train_lengths[users] <= positions) & (positions < lengths[users])).all():
                raise ValueError("a target must be one of its user's actions, after those that train")

    def targets(self, part: Part) -> Targets:
        """What is to be found in validation, or in the test."""
        return self.validation if part is Part.VALIDATION else self.test

    @property
    def eval_users(self) -> Ints:
        """Users with anything to be found, ascending."""
        users: Ints = np.union1d(self.validation.users_E, self.test.users_E)
        return users

    @property
    def n_short(self) -> int:
        """Users with nothing to be found."""
        return self.dataset.n_users - len(self.eval_users)

    def sha256(self) -> str:
        """Hash of the data, the order and the roles: two runs are comparable iff theirs are equal.

        Where the two actions after each training part validate and test, the training parts say it all.
        """
        digest = hashlib.sha256(f"sairlib {self.name}{self.dataset.sha256()}".encode())
        digest.update(self.train_lengths.astype("<i8").tobytes())
        users = np.flatnonzero(self.train_lengths + 2 <= np.diff(self.dataset.offsets))
        for after, part in enumerate((Part.VALIDATION, Part.TEST)):
            pairs = np.stack([self.targets(part).users_E, self.targets(part).positions_E])
            if not np.array_equal(pairs, [users, self.train_lengths[users] + after]):
                digest.update(part.value.encode() + pairs.astype("<i8").tobytes())
        return digest.hexdigest()


def leave_one_out(dataset: Dataset, min_actions: int = MIN_ACTIONS) -> Split:
    """Each user's last action tests, the last but one validates, the rest trains.

    Users with fewer than ``min_actions`` keep all of them for training and are not evaluated (as in SASRec's code). A
    user with exactly 3 has a single training action, which is nothing to predict: 4 leaves these out too.
    UserError if nobody has that many, or there is nothing to tell apart.
    """
    lengths = np.diff(dataset.offsets)
    return _cut(dataset, lengths - 2, min_actions, "leave-one-out 1")


def chronological(dataset: Dataset, share: float = 0.8, min_actions: int = MIN_ACTIONS) -> Split:
    """The first ``share`` of each user's actions, rounded up, trains but for its last one, which validates; the first
    action after it tests, and what comes later is left alone.

    UserError as in ``leave_one_out``, and for a share that leaves nothing to train on or to test.
    """
    if not 0 < share < 1:
        raise UserError(f"split.share={share}: must be between 0 and 1")
    lengths = np.diff(dataset.offsets)
    past = np.ceil(np.round(share * lengths, 9)).astype(np.int64)  # 0.55 * 100 is 55.00000000000001
    return _cut(dataset, np.minimum(past, lengths - 1) - 1, min_actions, f"chronological {share} 1")


def _cut(dataset: Dataset, train_lengths: Ints, min_actions: int, name: str) -> Split:
    if min_actions < MIN_ACTIONS:
        raise UserError(
            f"split.min_actions={min_actions}: must be {MIN_ACTIONS} or more; one trains, one validates, one tests"
        )
    lengths = np.diff(dataset.offsets)
    enough = (lengths >= min_actions) & (train_lengths >= 1)
    if not enough.any():
        raise UserError(
            f"none of the {dataset.n_users} users has {min_actions} or more actions: there is nobody to"
            " evaluate; check the filters and that the file's first column is the user"
        )
    if dataset.n_items < 2:
        raise UserError("the data has a single item: there is nothing to rank; check the item column and the filters")
    train_lengths, users = np.where(enough, train_lengths, lengths), np.flatnonzero(enough)
    validation, test = (Targets(users, train_lengths[users] + after) for after in (0, 1))
    return Split(dataset, train_lengths, validation, test, name)
