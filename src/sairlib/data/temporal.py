"""A split at points in time, the same for everybody: no model sees what came later."""

import numpy as np
from numpy.typing import NDArray

from sairlib.data.dataset import Dataset
from sairlib.data.ids import Ints
from sairlib.data.split import Split, Targets
from sairlib.errors import UserError

TARGETS = ("last", "first", "all")


def temporal(dataset: Dataset, test_share: float = 0.1, validation_share: float = 0.1, targets: str = "last") -> Split:
    """Everybody's actions before a first point in time train; those up to a second one validate, later ones test.

    The points are chosen so that ``test_share`` of all actions lie after the second, and ``validation_share`` between
    the two; actions of one time are never parted. Of a user's actions in a part, the ``last``, the ``first`` or
    ``all`` are targets ("Time to Split", 2025, compares these). A target is predicted from all that its user did before
    it, whenever that was.

    Targets of users without a training action, and items without one, are left out: no model here knows them. They are
    counted in the split's ``notes``. UserError for data without times, a share out of range, another kind of targets,
    or if a part has no target left.
    """
    if targets not in TARGETS:
        raise UserError(f"split.targets={targets}: choose one of {', '.join(TARGETS)}")
    for name, share in (("test_share", test_share), ("validation_share", validation_share)):
        if not 0 < share < 1:
            raise UserError(f"split.{name}={share}: must be between 0 and 1")
    if test_share + validation_share >= 1:
        raise UserError(
            f"split.test_share={test_share}, validation_share={validation_share}: nothing is left to train on"
        )
    if dataset.times is None:
        raise UserError("a split in time needs times, and the data has none: choose split=leave-one-out")
    times, ordered = dataset.times, np.sort(dataset.times)
    later_shares = (test_share + validation_share, test_share)
    first, second = (ordered[int(np.round(len(ordered) * (1 - share), 6))] for share in later_shares)
    owners = np.repeat(np.arange(dataset.n_users), np.diff(dataset.offsets))
    train_lengths = np.bincount(owners[times < first], minlength=dataset.n_users)
    trained = np.bincount(dataset.items[times < first], minlength=dataset.n_items + 1) > 0

    def held_out(part: str, within: NDArray[np.bool_]) -> tuple[Targets, str]:
        chosen = _chosen(np.flatnonzero(within), owners, targets)
        known_user, known_item = train_lengths[owners[chosen]] > 0, trained[dataset.items[chosen]]
        kept = chosen[known_user & known_item]
        if not len(kept):
            raise UserError(
                f"the {part} part has no target whose user and item have training actions: choose other shares,"
                " or split=leave-one-out"
            )
        users = owners[kept]
        note = (
            f"{part}: {len(kept):,} targets of {len(np.unique(users)):,} users; left out {np.sum(~known_user):,} of"
            f" users without a training action and {np.sum(known_user & ~known_item):,} of items without one"
        )
        return Targets(users, kept - dataset.offsets[users]), note

    validation, of_validation = held_out("validation", (times >= first) & (times < second))
    test, of_test = held_out("test", times >= second)
    name = f"temporal {test_share} {validation_share} {targets} 1"
    return Split(dataset, train_lengths, validation, test, name, (of_validation, of_test))


def _chosen(actions: NDArray[np.intp], owners: Ints, targets: str) -> NDArray[np.intp]:
    """Of these actions (ascending), each owner's last, first, or all."""
    if targets == "all" or not len(actions):
        return actions
    changes = owners[actions[1:]] != owners[actions[:-1]]
    keep = np.append(changes, True) if targets == "last" else np.insert(changes, 0, True)
    chosen: NDArray[np.intp] = actions[keep]
    return chosen
