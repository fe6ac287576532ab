"""Histories of people, known or not, as numbers that a model takes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sairlib.batch import PAD, STRANGER, History
from sairlib.data.dataset import Dataset, Times
from sairlib.data.ids import Ids, Ints, as_ids
from sairlib.data.interactions import ITEM, TIMESTAMP, USER
from sairlib.data.split import Part, Split
from sairlib.errors import UserError


@dataclass(frozen=True)
class Histories:
    """What each of B people has done, oldest first (CSR): ``items[offsets[b]:offsets[b + 1]]``, as item numbers.

    ``ids`` (B) name them; ``users_B`` are their numbers in the data, STRANGER for people who are not in it.
    ``n_unknown`` (B): how many of each one's actions were left out, because the model has no such item.
    """

    ids: Ids
    users_B: Ints
    items: Ints
    offsets: Ints
    times: Times | None
    n_unknown: Ints

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)

    def take(self, rows_B: NDArray[np.intp], max_len: int, device: torch.device) -> History:
        """The newest ``max_len`` actions of these people, right-padded."""
        ends_B = self.offsets[rows_B + 1]
        starts_B = np.maximum(self.offsets[rows_B], ends_B - max_len)
        steps_N = np.arange(max(1, int((ends_B - starts_B).max(initial=0))))
        index_BN = starts_B[:, None] + steps_N
        real_BN = index_BN < ends_B[:, None]
        index_BN = np.minimum(index_BN, max(0, len(self.items) - 1))

        def padded(values: Ints | Times) -> torch.Tensor:
            found = values[index_BN] if len(values) else np.zeros(index_BN.shape, values.dtype)
            return torch.from_numpy(np.where(real_BN, found, np.zeros(1, values.dtype))).to(device)

        times_BN = None if self.times is None else padded(self.times)
        return History(torch.from_numpy(self.users_B[rows_B]).to(device), padded(self.items), times_BN)

    def pairs(self, rows_B: NDArray[np.intp]) -> tuple[Ints, Ints]:
        """Everything that these people had, as an index of ``rows_B``, ascending, and an item."""
        lengths_B = self.lengths[rows_B]
        rows_X = np.repeat(np.arange(len(rows_B)), lengths_B)
        before_B = np.cumsum(lengths_B) - lengths_B
        return rows_X, self.items[np.arange(len(rows_X)) + (self.offsets[rows_B] - before_B)[rows_X]]

    def chunks(self, size: int) -> Iterator[NDArray[np.intp]]:
        """Row numbers of ``size`` people after the other."""
        rows = np.arange(len(self))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def of_users(data: Dataset, users: object = None) -> Histories:
    """All that people in the data have done, held-out actions included; ``users``: ids, or one id; None: everybody.

    UserError for an id that nobody has.
    """
    if users is None:
        return Histories(
            data.user_ids, np.arange(data.n_users), data.items, data.offsets, data.times, np.zeros(data.n_users, int)
        )
    numbers = _numbers(data, users)
    return _first(data, numbers, np.diff(data.offsets)[numbers])


def before(split: Split, part: Part, users: object = None, n: int | None = None, seed: int = 0) -> Histories:
    """What people had done before their first target of ``part``; what trains, for those who have no target there.

    ``users`` is as in ``of_users``. None: those who have a target and did something before it, ``n`` of them drawn at
    random, or (None) everybody.
    """
    targets, data = split.targets(part), split.dataset
    lengths = split.train_lengths.copy()
    lengths[targets.users_E] = np.diff(data.offsets)[targets.users_E]  # more than any target's position
    np.minimum.at(lengths, targets.users_E, targets.positions_E)
    if users is not None:
        numbers = _numbers(data, users)
    else:
        numbers = np.unique(targets.users_E)
        numbers = numbers[lengths[numbers] > 0]
        if n is not None and n < len(numbers):
            numbers = np.sort(np.random.default_rng(seed).choice(numbers, n, replace=False))
    return _first(data, numbers, lengths[numbers])


def given_ids(value: object) -> list[object]:
    """The ids in ``user=``, each once: integers or text, one or a list of them. UserError for what cannot be an id."""
    ids = list(value) if isinstance(value, list | tuple) else [value]
    for one in ids:
        if isinstance(one, bool) or not isinstance(one, int | str):
            raise UserError(f"user={one}: an id is an integer or text; quote what looks like a number: user='\"1e3\"'")
    if not ids:
        raise UserError("user=[]: give at least one id")
    return list(dict.fromkeys(ids))


def _numbers(data: Dataset, users: object) -> Ints:
    wanted = [users] if isinstance(users, str) or not isinstance(users, Iterable) else list(users)
    numbers = data.users(wanted)
    if (numbers < 0).any():
        unknown = wanted[int((numbers < 0).argmax())]
        raise UserError(
            f"user={unknown}: nobody in the data has this id (it has {data.n_users:,}, such as {data.user_ids[0]});"
            " give a history instead"
        )
    return numbers


def _first(data: Dataset, numbers: Ints, lengths: Ints) -> Histories:
    """The first ``lengths`` actions of these users of the data."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(offsets[-1]) + np.repeat(data.offsets[numbers] - offsets[:-1], lengths)
    times = None if data.times is None else data.times[index]
    return Histories(
        data.user_ids[numbers], numbers, data.items[index], offsets, times, np.zeros(len(numbers), np.int64)
    )


def of_people(
    data: Dataset, given: "pd.DataFrame | Mapping[object, Sequence[object]] | Sequence[Sequence[object]]"
) -> Histories:
    """Histories of people who need not be in the data, as ids of items, oldest first.

    ``given``: a sequence of histories, numbered from 0; a mapping from ids to histories; or a frame with the columns
    ``item``, ``user`` (without it, one person) and ``timestamp`` (without it, in order). They count as strangers, even
    if an id is one of the data's. Items that the model does not know are left out and counted.
    """
    if isinstance(given, pd.DataFrame):
        return _of_frame(data, given)
    named = given if isinstance(given, Mapping) else dict(enumerate(given))
    for name, history in named.items():
        if isinstance(history, str) or not isinstance(history, Iterable):
            raise UserError(f"the history of {name} is {history!r}: give a list of ids of items")
    lists = [history.tolist() if isinstance(history, torch.Tensor) else list(history) for history in named.values()]
    lengths = np.array([len(history) for history in lists], np.int64)
    items = data.item_numbers(item for history in lists for item in history)
    return _known_only(as_ids(named), items, lengths, None)


def _of_frame(data: Dataset, frame: pd.DataFrame) -> Histories:
    if ITEM not in frame:
        raise UserError(f"histories: no column '{ITEM}' (found: {', '.join(map(str, frame))})")
    if frame[ITEM].isna().any():
        raise UserError(f"histories: row {int(frame[ITEM].isna().argmax()) + 1} has no {ITEM}")
    if USER in frame and frame[USER].isna().any():
        raise UserError(f"histories: row {int(frame[USER].isna().argmax()) + 1} has no {USER}")
    people, names = pd.factorize(_ids_in(frame[USER])) if USER in frame else (np.zeros(len(frame), int), [0])
    lengths, items = np.bincount(people, minlength=len(names)), _ids_in(frame[ITEM])
    if TIMESTAMP not in frame:
        order = np.argsort(people, kind="stable")
        return _known_only(as_ids(names), data.item_numbers(items[order]), lengths, None)
    times = frame[TIMESTAMP].to_numpy()
    if times.dtype.kind not in "iuf" or not np.isfinite(times).all():
        raise UserError(f"histories: column {TIMESTAMP} must hold numbers")
    order = np.lexsort((times, people))
    known_times: Any = None if data.times is None else times[order].astype(data.times.dtype)
    return _known_only(as_ids(names), data.item_numbers(items[order]), lengths, known_times)


def _ids_in(column: "pd.Series[Any]") -> NDArray[Any]:
    """The values of a column; integers if pandas made fractions of them, as it does where a value is missing."""
    values = column.to_numpy()
    return values.astype(np.int64) if values.dtype.kind == "f" and not (values % 1).any() else values


def _known_only(ids: Ids, items: Ints, lengths: Ints, times: Times | None) -> Histories:
    people, known = np.repeat(np.arange(len(ids)), lengths), items != PAD
    kept = np.bincount(people[known], minlength=len(ids))
    return Histories(
        ids,
        np.full(len(ids), STRANGER, np.int64),
        items[known],
        np.concatenate([[0], np.cumsum(kept)]),
        None if times is None else times[known],
        lengths - kept,
    )
