"""What files say of items: categories, from names separated by '|', and titles."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pandas as pd

from sairlib.data.interactions import CATEGORY, ITEM, TITLE
from sairlib.data.readers.table import csv_rows, header_positions, open_text, read_id, readable
from sairlib.data.source import Source
from sairlib.errors import UserError

NONE = frozenset({"", "(no genres listed)", "unknown"})
"""Names that mean: no category."""

Described: TypeAlias = tuple[int, str, Iterable[str]]
"""An item, its title ("": none), and the names of its categories."""


def item_tables(rows: Iterable[Described]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of (item, category) pairs and of (item, title) pairs, in the order of ``rows``."""
    listed = [(item, readable(title).strip(), names) for item, title, names in rows]
    found = ((item, readable(name).strip()) for item, _, names in listed for name in names)
    pairs = [(item, name) for item, name in found if name.lower() not in NONE]
    titled = [(item, title) for item, title, _ in listed if title]
    return pair_table(pairs, CATEGORY), pair_table(titled, TITLE)


def pair_table(pairs: list[tuple[int, str]], column: str) -> pd.DataFrame:
    """The pairs as a table with the columns ``item`` and ``column``."""
    items = np.array([item for item, _ in pairs], np.int64)
    table: pd.DataFrame = pd.DataFrame({ITEM: items, column: np.array([text for _, text in pairs], object)})
    return table


def read_items_csv(source: Source, name: str, item: str, title: str, categories: str) -> Iterable[Described]:
    """The rows of a csv with a header, from its columns ``item``, ``title`` (which may be missing) and ``categories``.

    UserError, naming the line, if another column is missing or a line is malformed.
    """
    where = source.where(name)
    with open_text(source, name, errors="surrogateescape") as lines:
        rows = csv_rows(lines, where)
        _, header = next(rows, (1, []))
        item_at, categories_at = header_positions(header, [item, categories], where)
        stripped = [column.strip() for column in header]
        title_at = stripped.index(title) if title in stripped else None
        for line, fields in rows:
            if len(fields) != len(header):
                raise UserError(
                    f"{where}, line {line}: {len(fields)} fields where the header has {len(header)}: {fields[0][:40]!r}"
                )
            yield (
                read_id(fields[item_at], item, where, line),
                "" if title_at is None else fields[title_at],
                fields[categories_at].split("|"),
            )
