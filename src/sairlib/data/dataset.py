"""Interactions in time order with dense ids. All models and evaluations of a data set share them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sairlib.batch import PAD
from sairlib.data.ids import Ids, Ints, find, text_array
from sairlib.data.interactions import CATEGORY, ITEM, TIMESTAMP, TITLE, USER, Interactions
from sairlib.data.notes import find_notes

Times = NDArray[np.int64] | NDArray[np.float64]
UNKNOWN = "[UNK]"


@dataclass(frozen=True)
class Dataset:
    """All sequences as one flat array (CSR), and the file's ids behind the dense ids.

    ``items[offsets[u]:offsets[u + 1]]`` are user u's items, 1..M, oldest first. ``user_ids[u]`` and
    ``item_ids[m - 1]`` are the ids in the file. ``item_categories`` (M + 1, G) holds each item's category ids
    1..T in the file's order, right-padded with PAD; ``category_names[t - 1]`` is the name of category t. An item
    without a category gets the category [UNK], which exists only if an item needs it. G = 0 means that the data
    has no categories. ``times`` holds one timestamp of the file for each entry of ``items``; None if the file has none.
    ``titles_M`` (M + 1) holds each item's title, PAD first, "" where it has none; None if the data has no titles.
    ``notes`` says in one line each what is odd in the data, with counts, and how many rows were left out.
    """

    items: Ints
    offsets: Ints
    user_ids: Ids
    item_ids: Ids
    item_categories: Ints
    category_names: tuple[str, ...]
    times: Times | None = None
    notes: tuple[str, ...] = ()
    titles_M: NDArray[np.object_] | None = None

    def users(self, ids: Iterable[object]) -> Ints:
        """The numbers of the users with these ids; -1 for an id that no user has."""
        return find(self.user_ids, ids)

    def item_numbers(self, ids: Iterable[object]) -> Ints:
        """The numbers, 1..M, of the items with these ids; PAD for an id that no item has."""
        return find(self.item_ids, ids) + 1

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
        """Hash of who did what in which order, in the file's ids, and of the categories.

        The times are left out: they affect a sequence only through its order. So are the titles and the notes.
        """
        digest = hashlib.sha256(b"sairlib dataset 1")
        arrays = (self.user_ids, self.offsets, self.item_ids, self.items, self.item_categories)
        for array in arrays:
            digest.update(repr(array.shape).encode())
            if array.dtype.kind == "O":
                digest.update(json.dumps(array.tolist()).encode())
            else:
                digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        digest.update("\n".join(self.category_names).encode())
        return digest.hexdigest()


def index(interactions: Interactions) -> Dataset:
    """Sort by user, then timestamp, then original row, and number the file's ids densely in ascending order."""
    frame = interactions.frame
    users, user_codes = _dense(frame[USER].to_numpy())
    items, item_codes = _dense(frame[ITEM].to_numpy())
    times: Times | None = frame[TIMESTAMP].to_numpy() if TIMESTAMP in frame else None
    order = _order(users, np.zeros(1, np.int64) if times is None else times)
    offsets = np.zeros(len(user_codes) + 1, np.int64)
    np.cumsum(np.bincount(users, minlength=len(user_codes)), out=offsets[1:])
    table, names = _category_table(interactions.categories, item_codes)
    ordered_items = items[order].astype(np.int64, copy=False)
    ordered_items += 1
    ordered_times = None if times is None else times[order]
    notes = (*interactions.dropped, *interactions.notes, *find_notes(ordered_items, offsets, ordered_times))
    user_ids = user_codes if interactions.user_ids is None else interactions.user_ids[user_codes]
    item_ids = item_codes if interactions.item_ids is None else interactions.item_ids[item_codes]
    titles = _titles(interactions.titles, item_codes)
    return Dataset(ordered_items, offsets, user_ids, item_ids, table, names, ordered_times, notes, titles)


def _dense(values: NDArray[np.generic]) -> tuple[NDArray[np.generic], Ints]:
    """Each value's number among the distinct values, which ascend, and these."""
    top = int(values.max())
    if top > 4 * len(values) + 1_000_000:  # a table of all values would be large
        codes, distinct = pd.factorize(values.astype(np.int64, copy=False), sort=True)
        return codes, distinct
    there = np.zeros(top + 1, bool)
    there[values] = True
    numbers = np.cumsum(there, dtype=np.int32 if top < 2**31 - 1 else np.int64)
    numbers -= 1
    return numbers[values], np.flatnonzero(there).astype(np.int64, copy=False)


def _order(users: NDArray[np.generic], times: Times) -> NDArray[np.intp]:
    """The order by user, then time, then row; ``users`` are dense ids."""
    if times.dtype == np.int64:
        first, span = int(times.min()), int(times.max()) - int(times.min()) + 1
        if span * (int(users.max()) + 1) < 2**63:  # user and time fit into one integer: one sort instead of two
            keys = users.astype(np.int64)  # a copy, changed in place
            keys *= span
            keys += times - first  # type: ignore[arg-type]
            return np.argsort(keys, kind="stable")
    return np.lexsort((times, users))


def _titles(titles: pd.DataFrame, item_codes: Ints) -> NDArray[np.object_] | None:
    of_items = titles[titles[ITEM].isin(item_codes)].drop_duplicates(ITEM)
    if of_items.empty:
        return None
    found = text_array([""] * (len(item_codes) + 1))
    found[np.searchsorted(item_codes, of_items[ITEM].to_numpy(np.int64)) + 1] = of_items[TITLE].to_numpy(object)
    return found


def _category_table(categories: pd.DataFrame, item_ids: Ints) -> tuple[Ints, tuple[str, ...]]:
    pairs = categories[categories[ITEM].isin(item_ids)].drop_duplicates([ITEM, CATEGORY])
    if len(pairs) == 0:
        return np.full((len(item_ids) + 1, 0), PAD, np.int64), ()
    items = np.searchsorted(item_ids, pairs[ITEM].to_numpy(np.int64)) + 1
    names, codes = np.unique(pairs[CATEGORY].to_numpy(str), return_inverse=True)
    order = np.argsort(items, kind="stable")
    items, codes = items[order], codes[order]
    first = np.searchsorted(items, items)  # where each item's run of categories begins
    column = np.arange(len(items)) - first
    table = np.full((len(item_ids) + 1, int(column.max()) + 1), PAD, np.int64)
    table[items, column] = codes + 1
    uncategorised = table[1:, 0] == PAD
    if uncategorised.any():
        table[1:][uncategorised, 0] = len(names) + 1
        names = np.append(names.astype(object), UNKNOWN)
    return table, tuple(str(name) for name in names)
