"""Text tables of any columns, in chunks. Plain blocks are cut by array operations; all others field by field.

A block is plain if it has no quotes and every line has the same number of fields: then the separators and line ends
alone say where each field is.
"""

import io
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import numpy as np

from sairlib.data import fields
from sairlib.data.columns import Chunk, Coded, Values, shown
from sairlib.data.interactions import TIMESTAMP
from sairlib.data.readers.table import csv_rows
from sairlib.data.source import one_line
from sairlib.errors import UserError

BLOCK = 32 << 20
"""How many bytes are read at once."""
_LONGEST_LINE = 64 << 20
_SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}
_THREADS = 2


@dataclass(frozen=True)
class TextFormat:
    """``separator``: auto, comma, tab, semicolon, pipe, or a character. ``header``: the first line names the columns;
    without it they are named 1, 2, ... ``typed``: the names end in ``:type``, as RecBole writes them.

    UserError for another separator.
    """

    separator: str = "auto"
    header: bool = True
    typed: bool = False

    def __post_init__(self) -> None:
        if self.separator != "auto" and self.separator not in _SEPARATORS and len(self.separator) != 1:
            raise UserError(
                f"separator={self.separator}: choose one of auto, {', '.join(_SEPARATORS)}, or a single character"
            )


@dataclass(frozen=True)
class _Layout:
    """What a file's first line says."""

    separator: str
    names: list[str]
    positions: dict[str, int]  # of the wanted columns, by sairlib's names

    @property
    def quoted(self) -> bool:
        return self.separator != "\t"


def text_chunks(
    stream: IO[bytes], where: str, wanted: Mapping[str, str], how: TextFormat, block: int = BLOCK
) -> Iterator[Chunk]:
    """The columns ``wanted`` (sairlib's names to the file's) of a text in UTF-8, as chunks of rows in the file's order.

    Blank lines are no rows. UserError, naming the line, if a column is missing, if a line has too many or too few
    fields, if a quoted field does not end on its line, or for what is not UTF-8.
    """
    with ThreadPoolExecutor(_THREADS) as pool:  # numpy lets other threads run
        ahead: deque[Future[Chunk]] = deque()
        try:
            for content, layout, line in _bodies(stream, where, wanted, how, block):
                ahead.append(pool.submit(_chunk, content, layout, where, line))
                if len(ahead) > _THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def column_names(stream: IO[bytes], where: str, how: TextFormat) -> list[str]:
    """The names that the first line of a text gives to its columns; UserError as above."""
    for content in _blocks(stream, where, 1 << 16):
        return _layout(content.removeprefix(b"\xef\xbb\xbf"), where, {}, how).names
    raise UserError(f"{where}: the file is empty")


def _bodies(
    stream: IO[bytes], where: str, wanted: Mapping[str, str], how: TextFormat, block: int
) -> Iterator[tuple[bytes, _Layout, int]]:
    """The blocks without the header, what it says, and the line at which each of them begins."""
    layout: _Layout | None = None
    line = 1
    for content in _blocks(stream, where, block):
        if layout is None:
            content = content.removeprefix(b"\xef\xbb\xbf")
            layout = _layout(content, where, wanted, how)
            if how.header:
                content, line = content.partition(b"\n")[2], 2
        if content:
            yield content, layout, line
            line += content.count(b"\n")
    if layout is None:
        raise UserError(f"{where}: the file is empty")


def _blocks(stream: IO[bytes], where: str, size: int) -> Iterator[bytes]:
    """The text in blocks that end with a line's end, a single ``\\n`` in all cases."""
    rest = b""
    while data := stream.read(size):
        if b"\0" in data:
            raise UserError(f"{where}: not a text file in UTF-8")
        data = rest + data
        cut = data.rfind(b"\n", 0, -1 if data.endswith(b"\r") else None) + 1
        if cut == 0 and len(data) > _LONGEST_LINE:
            cut = data.rfind(b"\r", 0, -1) + 1  # lines as in old files of Macs
            if cut == 0:
                raise UserError(f"{where}: a line of more than {_LONGEST_LINE >> 20} MB; is it a table?")
        if cut:
            yield _with_newlines(data[:cut])
        rest = data[cut:]
    if rest:
        yield _with_newlines(rest if rest.endswith((b"\n", b"\r")) else rest + b"\n")


def _with_newlines(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block


def _layout(content: bytes, where: str, wanted: Mapping[str, str], how: TextFormat) -> _Layout:
    """What the first line says; UserError if it lacks a wanted column, whatever the separator."""
    head = content.partition(b"\n")[0]
    if not head.strip():
        raise UserError(
            f"{where}, line 1: it is blank; expected {'the names of the columns' if how.header else 'data'}"
        )
    first = _decoded(head, where, 1)
    tabs_first = ["\t", ",", ";", "|"] if "\t" in first else [",", ";", "|", "\t"]
    candidates = tabs_first if how.separator == "auto" else [_SEPARATORS.get(how.separator, how.separator)]
    layouts = []
    for separator in candidates:
        try:
            _, head_row = next(_rows(first, separator, where, 1), (1, [""]))
        except UserError:
            continue
        names = [name.strip() for name in head_row] if how.header else [str(n + 1) for n in range(len(head_row))]
        if how.typed:
            names = [name.partition(":")[0] for name in names]
        layouts.append(_Layout(separator, names, {ours: _position(names, name) for ours, name in wanted.items()}))
    if not layouts:
        raise UserError(f"{where}, line 1: {shown(first)} cannot be read as the names of columns")
    best = max(layouts, key=lambda layout: sum(position >= 0 for position in layout.positions.values()))
    for ours, position in best.positions.items():
        if position < 0:
            problem = "several columns" if position == -2 else "no column"
            raise UserError(
                f"{where}, line 1: {problem} '{wanted[ours]}' for the {ours}"
                f" (found: {one_line(', '.join(best.names))[:200]})"
            )
    return best


def _position(names: list[str], name: str) -> int:
    """Where a name stands; -1: nowhere, -2: several times."""
    return names.index(name) if names.count(name) == 1 else -2 if name in names else -1


def _chunk(block: bytes, layout: _Layout, where: str, line: int) -> Chunk:
    chunk = _plain(block, layout, where, line)
    return _field_by_field(block, layout, where, line) if chunk is None else chunk


def _plain(block: bytes, layout: _Layout, where: str, line: int) -> Chunk | None:
    """The rows of a block that is plain; None if it is not, or might not be."""
    n_fields, separator = len(layout.names), layout.separator.encode()
    if n_fields < 2 or len(separator) != 1 or (layout.quoted and b'"' in block):
        return None
    content = np.frombuffer(block, np.uint8)
    marks = np.flatnonzero((content == separator[0]) | (content == 10))
    if len(marks) % n_fields:
        return None
    ends = marks.reshape(-1, n_fields)
    is_newline = content[ends] == 10
    if bool(is_newline[:, :-1].any()) or not bool(is_newline[:, -1].all()):
        return None
    starts = np.empty_like(ends)
    starts[:, 1:] = ends[:, :-1] + 1
    starts[0, 0] = 0
    starts[1:, 0] = ends[:-1, -1] + 1
    padded = np.concatenate([content, np.zeros(fields.LONGEST + 8, np.uint8)])
    columns: dict[str, Values] = {}
    for ours, position in layout.positions.items():
        begin, end = np.ascontiguousarray(starts[:, position]), np.ascontiguousarray(ends[:, position])
        found: Values | None = None
        if ours == TIMESTAMP:
            found = fields.integers(padded, begin, end) or fields.moments(padded, begin, end)
        found = found or fields.coded(padded, begin, end)
        if found is None:
            return None
        columns[ours] = found
    return Chunk(columns, lambda row: f"{where}, line {line + row}")


def _field_by_field(block: bytes, layout: _Layout, where: str, line: int) -> Chunk:
    lines: list[int] = []
    columns: dict[str, list[str]] = {ours: [] for ours in layout.positions}
    wanted = [(columns[ours], position) for ours, position in layout.positions.items()]
    for number, row in _rows(_decoded(block, where, line), layout.separator, where, line):
        if len(row) != len(layout.names):
            raise UserError(
                f"{where}, line {number}: {len(row)} fields where {len(layout.names)} separated by"
                f" {shown(layout.separator)} were expected: {shown(layout.separator.join(row))}"
            )
        lines.append(number)
        for column, position in wanted:
            column.append(row[position])
    return Chunk({ours: of_texts(texts) for ours, texts in columns.items()}, lambda row: f"{where}, line {lines[row]}")


def of_texts(texts: Iterable[str]) -> Coded:
    """A column of these texts."""
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int32)
    return Coded(codes, list(numbers))


def _rows(text: str, separator: str, where: str, line: int) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields of all lines that are not blank. Tabs separate without quotes."""
    lines = io.StringIO(text, newline="")
    if separator != "\t":
        yield from csv_rows(lines, where, separator, line)
        return
    for number, row in enumerate(lines, start=line):
        if not row.isspace():
            yield number, row.rstrip("\n").split(separator)


def _decoded(block: bytes, where: str, line: int) -> str:
    try:
        return block.decode()
    except UnicodeDecodeError as error:
        line += block[: error.start].count(b"\n")
        raise UserError(
            f"{where}, line {line}: byte {block[error.start]:#04x} is not UTF-8; save the file in UTF-8"
        ) from error
