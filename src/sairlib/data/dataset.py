"""Interactions in time order with dense ids: what every model and every evaluation of a data set shares."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sairlib.batch import PAD
from sairlib.data.interactions import CATEGORY, ITEM, TIMESTAMP, USER, Interactions

Ints = NDArray[np.int64]
Times = NDArray[np.int64] | NDArray[np.float64]
UNKNOWN = "[UNK]"


@dataclass(frozen=True)
class Dataset:
    """All sequences as one flat array (CSR), plus what the dense ids stand for.

    ``items[offsets[u]:offsets[u + 1]]`` are user u's items, 1..M, oldest first. ``user_ids[u]`` and
    ``item_ids[m - 1]`` are the ids of the file. ``item_categories`` (M + 1, G) holds each item's category ids
    1..T in the file's order, right-padded with PAD; ``category_names[t - 1]`` names them. Items without a
    category are [UNK], which gets an id only where it is needed. G = 0: the data has no categories at all.
    ``times``, as many as ``items``, are the file's timestamps; None if it has none.
    """

    items: Ints
    offsets: Ints
    user_ids: Ints
    item_ids: Ints
    item_categories: Ints
    category_names: tuple[str, ...]
    times: Times | None = None

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def n_categories(self) -> int:
        return len(self.category_names)

    def sha256(self) -> str:
        """Hash of who did what in which order, in the ids of the file, and of the categories; not of the times, which
        shape no sequence but by its order."""
        digest = hashlib.sha256(b"sairlib dataset 1")
        arrays = (self.user_ids, self.offsets, self.item_ids, self.items, self.item_categories)
        for array in arrays:
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        digest.update("\n".join(self.category_names).encode())
        return digest.hexdigest()


def index(interactions: Interactions) -> Dataset:
    """Order by user, timestamp, original row (stable), and give dense ids in ascending order of the file's ids."""
    frame = interactions.frame
    users, user_ids = pd.factorize(frame[USER].to_numpy(np.int64), sort=True)
    items, item_ids = pd.factorize(frame[ITEM].to_numpy(np.int64), sort=True)
    times: Times | None = frame[TIMESTAMP].to_numpy() if TIMESTAMP in frame else None
    order = _order(users, np.zeros(1, np.int64) if times is None else times)
    offsets = np.zeros(len(user_ids) + 1, np.int64)
    np.cumsum(np.bincount(users, minlength=len(user_ids)), out=offsets[1:])
    table, names = _category_table(interactions.categories, item_ids)
    ordered_times = None if times is None else times[order]
    return Dataset(items[order].astype(np.int64) + 1, offsets, user_ids, item_ids, table, names, ordered_times)


def _order(users: Ints, times: Times) -> NDArray[np.intp]:
    """By user, then time, then row; ``users`` are dense."""
    if times.dtype == np.int64:
        first, span = int(times.min()), int(times.max()) - int(times.min()) + 1
        if span * (int(users.max()) + 1) < 2**63:  # both in one number: one sort instead of two
            return np.argsort(users * span + (times - first), kind="stable")
    return np.lexsort((times, users))


def _category_table(categories: pd.DataFrame, item_ids: Ints) -> tuple[Ints, tuple[str, ...]]:
    known = categories[categories[ITEM].isin(item_ids)].drop_duplicates([ITEM, CATEGORY])
    if len(known) == 0:
        return np.full((len(item_ids) + 1, 0), PAD, np.int64), ()
    items = np.searchsorted(item_ids, known[ITEM].to_numpy(np.int64)) + 1
    names, codes = np.unique(known[CATEGORY].to_numpy(str), return_inverse=True)
    order = np.argsort(items, kind="stable")
    items, codes = items[order], codes[order]
    first = np.searchsorted(items, items)  # where each item's run of categories begins
    column = np.arange(len(items)) - first
    table = np.full((len(item_ids) + 1, int(column.max()) + 1), PAD, np.int64)
    table[items, column] = codes + 1
    without = table[1:, 0] == PAD
    if without.any():
        table[1:][without, 0] = len(names) + 1
        names = np.append(names.astype(object), UNKNOWN)
    return table, tuple(str(name) for name in names)
