"""Text tables of numbers. The C parser reads them fast; what it may have read wrongly, a slow reader reads again."""

import csv
import io
import itertools
import math
import re
import warnings
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, TextIO

import numpy as np
import pandas as pd

from sairlib.data.interactions import ITEM, RATING, TIMESTAMP, USER
from sairlib.data.source import Source, one_line
from sairlib.errors import UserError

WHITESPACE = r"\s+"
_DTYPES: dict[str, type[np.generic]] = {USER: np.int64, ITEM: np.int64, RATING: np.float64, TIMESTAMP: np.int64}
_WHOLE = re.compile(r"([+-]?)0*([0-9]{1,19})(\.0*)?")  # of bounded length: int() refuses 4,300 digits
_OPEN = "a quoted field does not end on its line; is there a quote too many?"
_UNIT = "\x1f"  # stands for "::" in the C parser


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
    """The table with sairlib's column names, in file order; UserError naming the first bad line.

    Every line that is not blank is a row. Ids and timestamps are written as integers; ``5.0`` passes as 5.
    """
    names = _column_names(source, name, layout)
    frame = _parse(source, name, layout, names)
    if frame is None:
        frame = _read_slowly(source, name, layout, names)
    if frame.empty:
        raise UserError(f"{source.where(name)}: no rows in it")
    return frame


@contextmanager
def open_text(source: Source, name: str, errors: str = "replace") -> Iterator[TextIO]:
    """Open a file as text in any encoding: ids, numbers and most categories are ASCII.

    With ``errors="surrogateescape"``, ``readable`` gives back what was not UTF-8.
    """
    with source.open(name) as stream, _Text(stream, errors) as lines:
        yield lines


def readable(text: str) -> str:
    """Text as a person reads it: what is not UTF-8 in a line opened with "surrogateescape" is Latin-1."""
    if text.isascii():
        return text
    content = text.encode("utf-8", "surrogateescape")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


class _Text(io.TextIOWrapper):
    def __init__(self, stream: IO[bytes], errors: str = "replace") -> None:
        super().__init__(stream, encoding="utf-8-sig", errors=errors, newline="")

    def read(self, size: int | None = -1, /) -> str:
        return super().read(size).replace("\0", "?")  # where pandas 2 would end the field


def read_id(value: str, column: str, where: str, line: int) -> int:
    """Convert a field to an id; UserError, naming the line, if it is not one."""
    number = _whole(value)
    if number is None or number < 0:
        raise UserError(f"{where}, line {line}: {column} is {_shown(value)}, not an integer from 0 to 2^63 - 1")
    return number


def header_positions(header: list[str], columns: list[str], where: str) -> list[int]:
    """The positions of ``columns`` in the header; UserError, listing the header, if one is missing or there twice."""
    header = [column.strip() for column in header]
    for column in columns:
        if header.count(column) != 1:
            problem = "several columns" if column in header else "no column"
            present = ", ".join(header)[:80]
            raise UserError(
                f"{where}: {problem} '{column}' (found: {one_line(present)}); expected {', '.join(columns)}"
            )
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
    _, header = next(csv_rows(_Text(io.BytesIO(head)), where), (1, []))
    names = [f"{number} {column}" for number, column in enumerate(header)]
    positions = header_positions(header, list(layout.columns), where)
    for position, ours in zip(positions, layout.columns.values(), strict=True):
        names[position] = ours
    return names


def _parse(source: Source, name: str, layout: Layout, names: list[str]) -> pd.DataFrame | None:
    """The table as the C parser reads it; None unless it has certainly read what the file says."""
    if not _first_row_fits(source, name, layout, names):
        return None
    separator = layout.separator
    with source.open(name) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)
        stream: IO[bytes] = opened
        if separator == "::":  # the C parser needs a single character; ml-10m's file, the largest, has 265 MB
            content = opened.read().replace(_UNIT.encode(), b"?").replace(b"::", _UNIT.encode())
            stream, separator = io.BytesIO(content), _UNIT
        try:
            frame: pd.DataFrame = pd.read_csv(
                _Text(stream),
                sep=separator,
                header=0 if layout.header else None,
                names=names,
                index_col=False,
                quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE,
                na_filter=False,  # parsing is faster
                engine="c",
            )
        except UserError:
            raise
        except (ValueError, OverflowError):
            return None
    if not _as_written(frame, names, layout):
        return None
    if RATING in frame:
        frame[RATING] = frame[RATING].astype(np.float64)
    ours = list(layout.columns.values())
    return frame if names == ours else frame[ours]


def _first_row_fits(source: Source, name: str, layout: Layout, names: list[str]) -> bool:
    """Whether the first row has a field for each column; the C parser refuses more fields in later rows only."""
    with open_text(source, name) as lines:
        rows = _rows(lines, layout.separator, source.where(name))
        first = next(itertools.islice(rows, int(layout.header), None), None)
    return first is not None and len(first[1]) == len(names)


def _as_written(frame: pd.DataFrame, names: list[str], layout: Layout) -> bool:
    """Whether the parser's ``frame`` certainly holds each line's fields and the numbers that are written there.

    The parser chose the types: int64 only if every field is written as an integer. Asked for int64, it would convert
    1E2, 4.9999999999999999 and true as well.
    """
    foreign = [column for column in names if column not in layout.columns.values()]
    if foreign and names[-1] == foreign[-1] and (frame[names[-1]] == "").any():  # empty, or not there
        return False
    texts = [frame[column] for column in foreign if frame[column].dtype.kind == "O"]
    if any(text.str.contains("[\r\n]", na=False).any() for text in texts):  # an open quote may have swallowed lines
        return False
    for column in layout.columns.values():
        values = frame[column]
        if column == RATING and values.dtype in (np.int64, np.float64):
            sound = bool(np.isfinite(values).all())
        else:
            sound = values.dtype == np.int64 and (column == TIMESTAMP or int(values.min()) >= 0)
        if not sound:
            return False
    return True


def _read_slowly(source: Source, name: str, layout: Layout, names: list[str]) -> pd.DataFrame:
    """The table, read field by field; UserError naming the first bad line."""
    where = source.where(name)
    columns = [(names.index(ours), theirs, ours) for theirs, ours in layout.columns.items()]
    numbers: dict[str, array[Any]] = {ours: array("d" if ours == RATING else "q") for _, _, ours in columns}
    with open_text(source, name) as lines:
        rows = _rows(lines, layout.separator, where)
        if layout.header:
            next(rows)
        for line, fields in rows:
            if len(fields) != len(names):
                raise UserError(
                    f"{where}, line {line}: {len(fields)} fields where {len(names)} separated by"
                    f" {layout.separator_name()} were expected: {_shown(' '.join(fields))}"
                )
            for position, theirs, ours in columns:
                numbers[ours].append(_number(ours, fields[position], theirs, where, line))
    table: pd.DataFrame = pd.DataFrame({ours: np.array(values, _DTYPES[ours]) for ours, values in numbers.items()})
    return table


def _rows(lines: TextIO, separator: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields of all lines that are not blank."""
    if separator == ",":
        yield from csv_rows(lines, where)
        return
    for line, text in enumerate(lines, start=1):
        if not text.isspace():
            fields = (
                re.split("[ \t]+", text.strip(" \t\r\n"))
                if separator == WHITESPACE
                else text.rstrip("\r\n").split(separator)
            )
            yield line, fields


def csv_rows(lines: TextIO, where: str, separator: str = ",", first: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Line numbers, from ``first``, and fields of all lines of a csv that are not blank.

    UserError, naming the line, if a quoted field does not end on its line.
    """
    reader = csv.reader(lines, strict=True, delimiter=separator)
    line = first - 1
    try:
        for fields in reader:
            line += 1
            if reader.line_num != line - first + 1:
                raise UserError(f"{where}, line {line}: {_OPEN}")
            if len(fields) > 1 or (fields and not fields[0].isspace()):
                yield line, fields
    except csv.Error as error:
        problem = _OPEN if "unexpected end" in str(error) else error
        raise UserError(f"{where}, line {line + 1}: {problem}") from error


def _number(ours: str, value: str, theirs: str, where: str, line: int) -> int | float:
    if ours in (USER, ITEM):
        return read_id(value, theirs, where, line)
    number = _whole(value) if ours == TIMESTAMP else _finite(value)
    if number is None:
        expected = "a whole number of seconds" if ours == TIMESTAMP else "a number"
        raise UserError(f"{where}, line {line}: {theirs} is {_shown(value)}, not {expected}")
    return number


def _whole(value: str) -> int | None:
    match = _WHOLE.fullmatch(value.strip())
    number = int(match[1] + match[2]) if match else 2**63
    return number if abs(number) < 2**63 else None


def _finite(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in value else None


def _shown(value: str) -> str:
    return repr(value.strip()[:40])
