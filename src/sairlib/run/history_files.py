"""Files with histories of people, and with ids of items, as a person or a program writes them."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from sairlib.data.interactions import ITEM, TIMESTAMP, USER
from sairlib.errors import UserError, one_line
from sairlib.files import reason

Read: TypeAlias = Mapping[object, Sequence[object]] | pd.DataFrame
LAYOUTS = ("auto", "items", "lines", "csv", "jsonl")


def read_histories(path: str, layout: str = "auto") -> Read:
    """Histories of people, as ``Run.recommend`` takes them, from a file in UTF-8; ``-`` is standard input.

    ``layout``:

    * ``items``: a line for each person, ids of items between blanks, oldest first. The first word is the person's id if
      it ends with a colon (``anna: 296 318``), else the person is called by the number of the line, from 1.
    * ``lines``: the same, but the first word is always the person's id (``anna 296 318``).
    * ``csv``: a header with ``item`` and perhaps ``user`` and ``timestamp`` (numbers, or ISO dates), a line for each
      action, in order if it has no timestamp. Other columns are not read.
    * ``jsonl``: a line for each person, ``{"user": ..., "items": [...]}`` or only ``[...]``.
    * ``auto``: ``jsonl`` if the file begins with a brace or bracket, ``csv`` if its first line is such a header,
      else ``items``.

    UserError, naming the line, for a file that is missing, empty or not as said.
    """
    if layout not in LAYOUTS:
        raise UserError(f"history_format={layout}: choose one of {', '.join(LAYOUTS)}")
    where, lines = _lines(path, "history")
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise UserError(f"{where}: no history in it")
    if layout == "auto":
        layout = "jsonl" if first.lstrip()[0] in "{[" else "csv" if ITEM in _cells(first) else "items"
    if layout == "csv":
        return _of_csv(where, lines)
    rows = _of_json(where, lines) if layout == "jsonl" else _of_lines(where, lines, layout == "lines")
    histories: dict[object, Sequence[object]] = {}
    at: dict[object, int] = {}
    for number, person, items in rows:
        if str(person) in at:
            raise UserError(
                f"{where}: line {number}: {person} stands on line {at[str(person)]}, too; one line a person"
            )
        at[str(person)], histories[person] = number, items
    return dict(zip(_integers(list(histories)), histories.values(), strict=True))


def read_ids(path: str, setting: str) -> list[str]:
    """Ids, one a line; ``-`` is standard input. UserError if the file cannot be read or has none."""
    where, lines = _lines(path, setting)
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise UserError(f"{where}: no id in it; give one a line")
    return ids


def _lines(path: str, setting: str) -> tuple[str, list[str]]:
    """What a file is called in messages, and its lines; UserError if it cannot be read."""
    where = f"{setting}={path}"
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError) as error:
        why = reason(Path(path).parent, error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"{where}: cannot be read ({why})") from error
    try:
        return where, content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}: line {number}: not text in UTF-8") from error


def _of_lines(where: str, lines: Sequence[str], named: bool) -> Iterator[tuple[int, object, list[object]]]:
    for number, line in enumerate(lines, 1):
        words: list[Any] = line.split()
        if named and words:
            yield number, words[0], words[1:]
        elif words and words[0].endswith(":"):
            yield number, words[0][:-1], words[1:]
        elif words:
            yield number, number, words


def _of_json(where: str, lines: Sequence[str]) -> Iterator[tuple[int, object, list[object]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: line {number}: not JSON ({one_line(error)})") from error
        items = row.get("items") if isinstance(row, dict) else row
        person = row.get(USER, number) if isinstance(row, dict) else number
        if not isinstance(items, list) or not all(_is_id(item) for item in items) or not _is_id(person):
            raise UserError(f'{where}: line {number}: give {{"user": ID, "items": [ID, ...]}}, or a list of ids')
        yield number, person, items


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _of_csv(where: str, lines: Sequence[str]) -> pd.DataFrame:
    rows = csv.reader(lines, skipinitialspace=True)
    columns: dict[str, list[str]] = {}
    try:
        header = [cell.strip() for cell in next(row for row in rows if row)]
        if ITEM not in header:
            raise UserError(f"{where}: no column '{ITEM}' (found: {one_line(ValueError(', '.join(header)))})")
        places = {name: header.index(name) for name in (USER, ITEM, TIMESTAMP) if name in header}
        columns = {name: [] for name in places}
        for row in rows:
            if not row:
                continue
            for name, at in places.items():
                if at >= len(row) or not row[at].strip():
                    raise UserError(f"{where}: line {rows.line_num}: no {name}")
                columns[name].append(row[at].strip())
    except csv.Error as error:
        raise UserError(f"{where}: line {rows.line_num}: {one_line(error)}") from error
    if not columns[ITEM]:
        raise UserError(f"{where}: no action in it, only a header")
    frame: pd.DataFrame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    if USER in frame:
        frame[USER] = pd.Series(_integers(columns[USER]), dtype=object)
    if TIMESTAMP in frame:
        frame[TIMESTAMP] = _times(where, columns[TIMESTAMP])
    return frame


def _times(where: str, texts: Sequence[str]) -> "pd.Series[Any]":
    """Numbers; of ISO dates, seconds since 1970."""
    column = pd.Series(texts, dtype=object)
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all():
        return numbers
    dates = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    if dates.isna().any():
        bad = texts[int(dates.isna().argmax())]
        raise UserError(f"{where}: {TIMESTAMP} {bad!r} is neither a number nor an ISO date, as all the others must be")
    seconds: pd.Series[Any] = (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return seconds


def _integers(people: Sequence[object]) -> list[object]:
    """People's ids as integers, if all are written as such: so are those of the data."""
    texts = [str(person) for person in people]
    if all(text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 19 for text in texts):
        numbers = [int(text) for text in texts]
        if all(str(number) == text for number, text in zip(numbers, texts, strict=True)):
            return list(numbers)
    return list(people)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]
