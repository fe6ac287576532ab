"""Splits: which actions train, and which are held out as targets."""

import hashlib
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from sairlib.data.dataset import Dataset
from sairlib.data.ids import Ints
from sairlib.errors import UserError

MIN_ACTIONS = 3


class Part(Enum):
    """A held-out part of the data."""

    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Targets:
    """Held-out actions: target e is action number ``positions_E[e]`` (from 0) of user ``users_E[e]``.

    A model may look at everything before it. A user may have several targets, or none.
    """

    users_E: Ints
    positions_E: Ints

    def __len__(self) -> int:
        return len(self.users_E)


@dataclass(frozen=True)
class Split:
    """A data set, the part of it that trains, and the targets held out for validation and test.

    The first ``train_lengths[u]`` (U) actions of user u train. ValueError if a target is not among its user's later
    actions. ``name`` is the rule that made the split; it is part of the hash, ``notes`` are not.
    """

    dataset: Dataset
    train_lengths: Ints
    validation: Targets
    test: Targets
    name: str = "leave-one-out 1"
    notes: tuple[str, ...] = ()
    """What was left out, in one line each, with counts."""

    def __post_init__(self) -> None:
        lengths = np.diff(self.dataset.offsets)
        for targets in (self.validation, self.test):
            users, positions = targets.users_E, targets.positions_E
            if not ((self.train_lengths[users] <= positions) & (positions < lengths[users])).all():
                raise ValueError("a target must be one of its user's actions, after those that train")

    def targets(self, part: Part) -> Targets:
        """The targets of a part."""
        return self.validation if part is Part.VALIDATION else self.test

    @property
    def eval_users(self) -> Ints:
        """Users with a target in validation or test, ascending."""
        users: Ints = np.union1d(self.validation.users_E, self.test.users_E)
        return users

    @property
    def n_short(self) -> int:
        """How many users have no target."""
        return self.dataset.n_users - len(self.eval_users)

    def sha256(self) -> str:
        """Hash of the data, its order and the role of each action. Two runs are comparable iff theirs are equal."""
        digest = hashlib.sha256(f"sairlib {self.name}{self.dataset.sha256()}".encode())
        digest.update(self.train_lengths.astype("<i8").tobytes())
        users = np.flatnonzero(self.train_lengths + 2 <= np.diff(self.dataset.offsets))
        # If the targets are the two actions after the training part, train_lengths already determines them.
        for after, part in enumerate((Part.VALIDATION, Part.TEST)):
            pairs = np.stack([self.targets(part).users_E, self.targets(part).positions_E])
            if not np.array_equal(pairs, [users, self.train_lengths[users] + after]):
                digest.update(part.value.encode() + pairs.astype("<i8").tobytes())
        return digest.hexdigest()


def leave_one_out(dataset: Dataset, min_actions: int = MIN_ACTIONS) -> Split:
    """Each user's last action is the test target, the one before it the validation target; the rest trains.

    Users with fewer than ``min_actions`` actions train on all of them and are not evaluated (as in SASRec's code). A
    user with exactly 3 actions has a single training action, so nothing to predict: ``min_actions=4`` excludes these.
    UserError if ``min_actions`` is below 3, if no user has that many, or if the data has a single item.
    """
    lengths = np.diff(dataset.offsets)
    return _cut(dataset, lengths - 2, min_actions, "leave-one-out 1")


def chronological(dataset: Dataset, share: float = 0.8, min_actions: int = MIN_ACTIONS) -> Split:
    """The past is the first ``share`` of each user's actions, rounded up. Its last action is the validation target, the
    first action after it the test target; the rest of the past trains, and later actions are not used.

    Users with fewer than ``min_actions`` actions, or with no training action, train on all of theirs and are not
    evaluated. UserError as in ``leave_one_out``, and for a share not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UserError(f"split.share={share}: must be between 0 and 1")
    lengths = np.diff(dataset.offsets)
    past = np.ceil(np.round(share * lengths, 9)).astype(np.int64)  # 0.55 * 100 is 55.00000000000001
    return _cut(dataset, np.minimum(past, lengths - 1) - 1, min_actions, f"chronological {share} 1")


def leave_last(dataset: Dataset, n_targets: int = 10, min_actions: int | None = None, n_validation: int = 1) -> Split:
    """Each user's last ``n_targets`` actions are test targets, each predicted from all before it; the ``n_validation``
    before them validate, the rest trains.

    Several targets a user make intervals over users narrower than leave-one-out's, and the choice of an epoch less a
    matter of chance. Users with fewer than ``min_actions`` actions (by default one more than are held out) train on
    all of them and are not evaluated. UserError as in ``leave_one_out``, and for numbers of targets below 1.
    """
    for name, n in (("n_targets", n_targets), ("n_validation", n_validation)):
        if n < 1:
            raise UserError(f"split.{name}={n}: must be 1 or more")
    least = n_targets + n_validation + 1
    if min_actions is not None and min_actions < least:
        raise UserError(
            f"split.min_actions={min_actions}: must be {least} or more: {n_targets} test, {n_validation} validate, one"
            " trains"
        )
    lengths = np.diff(dataset.offsets)
    cut = _cut(dataset, lengths - least + 1, min_actions or least, f"leave-last {n_targets} {n_validation}")
    users = cut.test.users_E

    def before(ends_U: Ints, n: int) -> Targets:
        positions_E = np.repeat(ends_U, n) - np.tile(np.arange(n, 0, -1), len(users))
        return Targets(np.repeat(users, n), positions_E)

    test, validation = before(lengths[users], n_targets), before(lengths[users] - n_targets, n_validation)
    return replace(cut, test=test, validation=validation)


def _cut(dataset: Dataset, train_lengths: Ints, min_actions: int, name: str) -> Split:
    if min_actions < MIN_ACTIONS:
        raise UserError(
            f"split.min_actions={min_actions}: must be {MIN_ACTIONS} or more: training, validation, test take one each"
        )
    lengths = np.diff(dataset.offsets)
    evaluated = (lengths >= min_actions) & (train_lengths >= 1)
    if not evaluated.any():
        raise UserError(
            f"none of the {dataset.n_users} users has {min_actions} or more actions: nobody to evaluate;"
            " check the filters and that the file's first column is the user"
        )
    if dataset.n_items < 2:
        raise UserError("the data has a single item, so nothing to rank; check the item column and the filters")
    train_lengths, users = np.where(evaluated, train_lengths, lengths), np.flatnonzero(evaluated)
    validation, test = (Targets(users, train_lengths[users] + after) for after in (0, 1))
    return Split(dataset, train_lengths, validation, test, name)
