"""One table of who did what and when, checked on construction. All column names are defined here."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sairlib.data.ids import Ids
from sairlib.errors import UserError

USER, ITEM, TIMESTAMP, RATING = "user", "item", "timestamp", "rating"
CATEGORY, TITLE = "category", "title"
_KINDS = {USER: "id", ITEM: "id", TIMESTAMP: "number", RATING: "number"}


def no_categories() -> pd.DataFrame:
    """An empty table of (item, category) pairs."""
    return _pairs(CATEGORY)


def no_titles() -> pd.DataFrame:
    """An empty table of (item, title) pairs."""
    return _pairs(TITLE)


def _pairs(column: str) -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame({ITEM: np.empty(0, np.int64), column: np.empty(0, object)})
    return table


@dataclass(frozen=True)
class Interactions:
    """Actions in file order, with the file's ids.

    ``frame`` has the columns ``user`` and ``item`` (integers, not negative) and may have ``timestamp``
    (epoch seconds, or any number that grows with time) and ``rating``. ``categories`` holds one
    (item, category) row for each category of an item; an item may have several or none. ``titles`` holds one
    (item, title) row for each item that has a title.

    ``user_ids`` and ``item_ids`` are for ids that are no such integers: the integers in all three tables are then
    indices into them. Both ascend and have no duplicates. ``dropped`` says in one line for each reason how many rows
    of the source were left out, ``notes`` what else was decided.

    Raises UserError, naming the source and the first bad row, for a table that is empty, lacks a column, or
    holds a missing, negative or non-numeric value.
    """

    frame: pd.DataFrame
    source: str
    categories: pd.DataFrame = field(default_factory=no_categories)
    titles: pd.DataFrame = field(default_factory=no_titles)
    user_ids: Ids | None = None
    item_ids: Ids | None = None
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for column in (USER, ITEM):
            if column not in self.frame:
                raise UserError(f"{self.source}: no column '{column}' (found: {', '.join(map(str, self.frame))})")
        if len(self.frame) == 0:
            raise UserError(f"{self.source}: no interactions in it")
        for column in self.frame.columns.intersection(list(_KINDS)):
            self._check(column)
        for column, ids in ((USER, self.user_ids), (ITEM, self.item_ids)):
            if ids is not None and int(self.frame[column].max()) >= len(ids):
                raise ValueError(f"{self.source}: column {column} points past the last of {len(ids)} ids")

    def _check(self, column: str) -> None:
        values = self.frame[column]
        is_id = _KINDS[column] == "id"
        plain = isinstance(values.dtype, np.dtype)
        if plain and values.dtype.kind in "iu":
            bad = (values < 0).to_numpy() if is_id else np.zeros(len(values), bool)
            if is_id and values.dtype == np.uint64:
                bad = (values > np.iinfo(np.int64).max).to_numpy()
        elif plain and values.dtype.kind == "f" and not is_id:
            bad = ~np.isfinite(values.to_numpy())
        else:
            # Text, objects and fractions would sort or index wrongly even if they look like numbers.
            numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
            bad = ~np.isfinite(numbers)
            if is_id and not bad.any():
                bad = (numbers < 0) | (numbers % 1 != 0) | (numbers >= 2**63)
            if not bad.any():
                expected = "int64" if is_id else "int64 or float64"
                raise UserError(f"{self.source}: column {column} has the type {values.dtype}; convert it to {expected}")
        if bad.any():
            row = int(bad.argmax())
            expected = "an integer >= 0 (and < 2^63)" if is_id else "a finite number"
            value = values.iloc[row]
            shown = repr(value.item() if isinstance(value, np.generic) else value)
            raise UserError(f"{self.source}: row {row + 1}: {column} is {shown}, not {expected}")

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def from_pandas(
        cls,
        frame: Any,
        *,
        user: str = USER,
        item: str = ITEM,
        time: str | None = None,
        rating: str | None = None,
        category: str | None = None,
        title: str | None = None,
        items: Any = None,
        missing: str = "error",
        time_unit: str = "auto",
        category_separator: str = "|",
        source: str = "the frame",
    ) -> "Interactions":
        """The actions in a frame of pandas, or of any library that speaks Arrow or the interchange protocol (polars,
        pyarrow); a row is an action.

        ``user``, ``item``, ... are names of its columns. ``items``: another frame that describes the items, with the
        columns ``item``, ``title`` and ``category`` (which then need not be in ``frame``). Ids may be of any type;
        times are numbers, dates, or texts of these. Without ``time`` the order of the rows counts. ``missing``,
        ``time_unit`` and ``category_separator`` are as for files: docs/data.md. ``source`` names the data in messages.

        UserError, naming the row, for a missing column, a missing value (unless ``missing="drop"``), or a time or
        rating that cannot be read.
        """
        from sairlib.data.frames import read_frame  # here: it needs what is defined above

        names = {USER: user, ITEM: item, TIMESTAMP: time, RATING: rating, CATEGORY: category, TITLE: title}
        rules = {"missing": missing, "time_unit": time_unit, "category_separator": category_separator}
        return read_frame(frame, names, items, rules, source)
