"""Text tables of numbers. The C parser reads them fast; a slow reader only looks for the line that is wrong."""

import csv
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TextIO

import numpy as np
import pandas as pd

from sairlib.data.interactions import ITEM, RATING, TIMESTAMP, USER
from sairlib.data.source import Source
from sairlib.errors import UserError

WHITESPACE = r"\s+"
_DTYPES: dict[str, type[np.generic]] = {USER: np.int64, ITEM: np.int64, RATING: np.float64, TIMESTAMP: np.int64}
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")


@dataclass(frozen=True)
class Layout:
    """The format of a table. ``columns`` maps its column names, in order, to sairlib's.

    With ``header`` the first line names the columns, in any order and with others among them. Without, every line has
    exactly these columns, and the names are used in messages only.
    """

    separator: str
    columns: Mapping[str, str]
    header: bool = False

    def separator_name(self) -> str:
        return {",": "commas", "\t": "tabs", WHITESPACE: "spaces"}.get(self.separator, f"'{self.separator}'")


def read_table(source: Source, name: str, layout: Layout) -> pd.DataFrame:
    """The table with sairlib's column names, in file order; UserError naming the first bad line."""
    names = _column_names(source, name, layout)
    ours = list(layout.columns.values())
    try:
        frame = _parse(source, name, layout, names)
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:
        fault = _first_fault(source, name, layout, names) or f"{source.where(name)}: not a readable table ({error})"
        raise UserError(" ".join(fault.split())) from error
    if frame.empty:
        raise UserError(f"{source.where(name)}: no rows in it")
    # The parser accepts "-1", "nan" and "inf" as numbers.
    if any(not np.isfinite(frame[c]).all() or (c in (USER, ITEM) and (frame[c] < 0).any()) for c in ours):
        raise UserError(
            _first_fault(source, name, layout, names) or f"{source.where(name)}: negative ids or infinite values"
        )
    return frame


@contextmanager
def open_text(source: Source, name: str) -> Iterator[TextIO]:
    """Open a file as text in any encoding: ids, numbers and categories are ASCII, and titles are not read."""
    with source.open(name) as stream, _decode(stream) as lines:
        yield lines


def _decode(stream: IO[bytes]) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")


def read_id(value: str, column: str, where: str, line: int) -> int:
    """Convert a field to an id; UserError, naming the line, if it is not one."""
    value = value.strip()
    if not _WHOLE.fullmatch(value) or not 0 <= int(value.split(".")[0]) < 2**63:
        raise UserError(f"{where}, line {line}: {column} is {value[:40]!r}, not an integer from 0 to 2^63 - 1")
    return int(value.split(".")[0])


def header_positions(header: list[str], columns: list[str], where: str) -> list[int]:
    """The positions of ``columns`` in the header; UserError, listing the header, if one is missing."""
    header = [column.strip() for column in header]
    for column in columns:
        if column not in header:
            present = ", ".join(header)[:80]
            raise UserError(f"{where}: no column '{column}' (found: {present}); expected {', '.join(columns)}")
    return [header.index(column) for column in columns]


def _column_names(source: Source, name: str, layout: Layout) -> list[str]:
    """sairlib's names for the file's columns, in the file's order; other columns keep their own names."""
    where = source.where(name)
    with source.open(name) as stream:
        head = stream.read(1 << 16)
    if not head.strip():
        raise UserError(f"{where}: the file is empty")
    if b"\0" in head:
        raise UserError(f"{where}: not a text file in UTF-8 or Latin-1")
    if not layout.header:
        return list(layout.columns.values())
    header = next(csv.reader(_decode(io.BytesIO(head)), delimiter=layout.separator))
    names = [f"{number} {column}" for number, column in enumerate(header)]
    positions = header_positions(header, list(layout.columns), where)
    for position, ours in zip(positions, layout.columns.values(), strict=True):
        names[position] = ours
    return names


def _parse(source: Source, name: str, layout: Layout, names: list[str]) -> pd.DataFrame:
    separator = layout.separator
    ours = list(layout.columns.values())
    with source.open(name) as stream, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # surplus fields in the first line
        if separator == "::":  # the C parser needs a single character; ml-10m's file, the largest, has 265 MB
            stream, separator = io.BytesIO(stream.read().replace(b"::", b"\t")), "\t"
        frame: pd.DataFrame = pd.read_csv(
            stream,
            sep=separator,
            header=0 if layout.header else None,
            names=names,
            dtype={column: _DTYPES[column] for column in ours},
            index_col=False,
            na_filter=False,  # an empty field is then an error, and parsing is faster
            encoding="utf-8-sig",
            encoding_errors="replace",
            engine="c",
        )
    return frame if names == ours else frame[ours]


def _rows(lines: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields of all lines that are not blank."""
    if separator == ",":
        reader = csv.reader(lines)
        rows = ((reader.line_num, fields) for fields in reader)
    else:
        split_at: str | None = None if separator == WHITESPACE else separator
        rows = ((number, line.rstrip("\r\n").split(split_at)) for number, line in enumerate(lines, start=1))
    return ((number, fields) for number, fields in rows if any(field.strip() for field in fields))


def _first_fault(source: Source, name: str, layout: Layout, names: list[str]) -> str | None:
    """A message about the first bad line of the file; None if no line is bad."""
    where = source.where(name)
    theirs = {ours: column for column, ours in layout.columns.items()}
    line = 0
    with open_text(source, name) as lines:
        rows = _rows(lines, layout.separator)
        try:
            if layout.header:
                next(rows)
            for line, fields in rows:
                if len(fields) != len(names):
                    return (
                        f"{where}, line {line}: {len(fields)} fields where {len(names)} separated by"
                        f" {layout.separator_name()} were expected: {' '.join(fields)[:40]!r}"
                    )
                for column, value in zip(names, fields, strict=True):
                    if column in theirs:
                        _check(column, value, theirs[column], where, line)
        except csv.Error as error:
            return f"{where}, after line {line}: {error}"
        except UserError as error:
            return str(error)
    return None


def _check(ours: str, value: str, theirs: str, where: str, line: int) -> None:
    value = value.strip()
    if ours in (USER, ITEM):
        read_id(value, theirs, where, line)
    elif ours == TIMESTAMP:
        if not _WHOLE.fullmatch(value) or abs(int(value.split(".")[0])) >= 2**63:
            raise UserError(f"{where}, line {line}: {theirs} is {value[:40]!r}, not a whole number of seconds")
    elif not _is_finite(value):
        raise UserError(f"{where}, line {line}: {theirs} is {value[:40]!r}, not a number")


def _is_finite(value: str) -> bool:
    try:
        return math.isfinite(float(value)) and "_" not in value
    except ValueError:
        return False
