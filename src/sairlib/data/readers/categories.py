"""Item categories as (item, category) pairs, read from names separated by '|'."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from sairlib.data.interactions import CATEGORY, ITEM
from sairlib.data.readers.table import csv_rows, header_positions, open_text, read_id
from sairlib.data.source import Source
from sairlib.errors import UserError

NONE = frozenset({"", "(no genres listed)", "unknown"})
"""Names that mean: no category."""


def category_table(rows: Iterable[tuple[int, Iterable[str]]]) -> pd.DataFrame:
    """A table of (item, category) pairs, in order, from items and the names of their categories."""
    pairs = [(item, name.strip()) for item, names in rows for name in names if name.strip().lower() not in NONE]
    items = np.array([item for item, _ in pairs], np.int64)
    table: pd.DataFrame = pd.DataFrame({ITEM: items, CATEGORY: np.array([name for _, name in pairs], object)})
    return table


def read_category_csv(source: Source, name: str, item: str, categories: str) -> pd.DataFrame:
    """The (item, category) pairs of a csv with a header, from its columns ``item`` and ``categories``.

    UserError, naming the line, if a column is missing or a line is malformed.
    """
    where = source.where(name)
    found: list[tuple[int, list[str]]] = []
    with open_text(source, name) as lines:
        rows = csv_rows(lines, where)
        _, header = next(rows, (1, []))
        item_at, categories_at = header_positions(header, [item, categories], where)
        for line, fields in rows:
            if len(fields) != len(header):
                raise UserError(
                    f"{where}, line {line}: {len(fields)} fields where the header has {len(header)}: {fields[0][:40]!r}"
                )
            found.append((read_id(fields[item_at], item, where, line), fields[categories_at].split("|")))
    return category_table(found)
