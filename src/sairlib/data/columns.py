"""Columns of a table as they come in, in pieces: texts, numbers or moments; and what becomes of ids and numbers."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sairlib.data.ids import Ids, Ints, text_array
from sairlib.data.source import one_line
from sairlib.errors import UserError

Scalar = TypeVar("Scalar", bound=np.generic)
Flags: TypeAlias = NDArray[np.bool_]
Place: TypeAlias = Callable[[int], str]
"""Says where a row stands, from its number in a chunk: ``my.csv, line 17``."""

ABSENT = frozenset({"nan", "null", "none", "n/a", "\\n"})
"""Words (in lower case) that stand for a missing number or time. As ids they are kept, and said."""
_BLANKS = " \t\r\n\x0b\x0c"
_CANONICAL = re.compile("0|[1-9][0-9]{0,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Texts(Sequence[str]):
    """Texts of ASCII letters as words of 8 bytes (n, words), padded with zeros; decoded when they are first needed."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.words = words
        self._decoded: list[str] | None = None

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: Any) -> Any:
        return self._texts()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts())

    def _texts(self) -> list[str]:
        if self._decoded is None:
            content = np.ascontiguousarray(self.words).view(f"S{8 * self.words.shape[1]}").ravel().tolist()
            self._decoded = [text.decode() for text in content]
        return self._decoded


def distinct(words: NDArray[np.uint64]) -> tuple[NDArray[np.int32], Ints] | None:
    """The number of each row of ``words`` among the distinct ones, and where each of these first stands.

    A mix of a row's words finds equal rows; None if two rows that differ have the same mix.
    """
    mixed = words[:, 0].copy()
    for word in range(1, words.shape[1]):
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed += words[:, word]
    codes, found = pd.factorize(mixed)
    first = np.empty(len(found), np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    if words.shape[1] > 1 and bool((words != words[first[codes]]).any()):
        return None
    return codes.astype(np.int32), first


def _none_begins_blank(texts: Sequence[str]) -> bool:
    if isinstance(texts, Texts):
        return bool((np.ascontiguousarray(texts.words).view(np.uint8)[:, 0] > 32).all())
    return min(texts, default="!") >= "!"


@dataclass(frozen=True)
class Coded:
    """Row n holds the text ``texts[codes[n]]``. A text may occur twice among ``texts``, or in no row."""

    codes: NDArray[np.int32]
    texts: Sequence[str]


@dataclass(frozen=True)
class Numbers:
    """Integers or floats; ``missing``: where there is none. So is NaN."""

    values: NDArray[np.generic]
    missing: Flags | None = None


@dataclass(frozen=True)
class Moments:
    """Microseconds since 1970 in UTC; ``naive``: they were written without a zone; ``cut``: with more digits."""

    values: Ints
    naive: bool
    missing: Flags | None = None
    cut: bool = False


Values: TypeAlias = Coded | Numbers | Moments


@dataclass(frozen=True)
class Chunk:
    """Some rows of a table: the wanted columns by sairlib's names, and where each row stands."""

    columns: Mapping[str, Values]
    place: Place


def size(values: Values) -> int:
    return len(values.codes if isinstance(values, Coded) else values.values)


def missing(values: Values, words: frozenset[str] = frozenset()) -> Flags | None:
    """Where a column has no value: an empty text or blanks, or one of ``words``; None if it has one everywhere."""
    if isinstance(values, Coded):
        if not words and _none_begins_blank(values.texts):
            return None
        empty = np.array([not text.strip(_BLANKS) or text.strip().lower() in words for text in values.texts], bool)
        flags: Flags | None = empty[values.codes] if empty.any() else None
    else:
        flags = values.missing
        if values.values.dtype.kind == "f":
            nan = np.isnan(values.values.astype(np.float64, copy=False))
            flags = nan if flags is None else flags | nan
    return flags if flags is not None and flags.any() else None


def kept(values: Values, keep: Flags) -> Values:
    """The rows of a column that ``keep`` marks."""
    if isinstance(values, Coded):
        used, codes = np.unique(values.codes[keep], return_inverse=True)
        return Coded(codes.astype(np.int32), [values.texts[code] for code in used.tolist()])
    if isinstance(values, Moments):
        return Moments(values.values[keep], values.naive, None, values.cut)
    return Numbers(values.values[keep])


def coded(values: Values) -> Coded:
    """The column as text: of numbers, what Python writes for them."""
    if isinstance(values, Coded):
        return values
    codes, found = pd.factorize(values.values)
    if isinstance(values, Moments):
        found = found.astype("datetime64[us]")
    return Coded(codes.astype(np.int32), [str(value) for value in found.tolist()])


def is_integer(text: str) -> bool:
    """Whether a text is written as an integer from 0 to 2^63 - 1 is: no sign, no leading zeros."""
    return _CANONICAL.fullmatch(text) is not None and int(text) < 2**63


def number(text: str) -> float | None:
    """The finite number that a text shows, or None."""
    value = float(text) if _NUMBER.fullmatch(text.strip()) else math.inf
    return value if math.isfinite(value) else None


def first_bad(bad_of_texts: Sequence[bool], values: Coded) -> int:
    """The first row whose text is marked."""
    return int(np.array(bad_of_texts, bool)[values.codes].argmax())


class TextColumn:
    """A column whose texts are numbered in some order. Texts that come as words are merged at the end, as words: of
    millions, looking up each text anew in every chunk would take most of the time."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._parts: list[tuple[NDArray[np.int32], Texts | NDArray[np.int32]]] = []  # codes; what they stand for

    def add(self, values: Values) -> None:
        values = coded(values)
        packed = isinstance(values.texts, Texts)
        self._parts.append((values.codes, values.texts if packed else self._numbers(values.texts)))  # type: ignore[arg-type]

    def _numbers(self, texts: Sequence[str]) -> NDArray[np.int32]:
        known = self._known  # its length is the number of the next new text
        return np.array([known.setdefault(text, len(known)) for text in texts], np.int32)

    def finish(self) -> tuple[NDArray[np.int32], Sequence[str]]:
        """Each row's number among the texts, and these, each once."""
        packed = [texts for _, texts in self._parts if isinstance(texts, Texts)]
        if len(packed) == len(self._parts):
            width = max((texts.words.shape[1] for texts in packed), default=1)
            padded = [np.pad(texts.words, ((0, 0), (0, width - texts.words.shape[1]))) for texts in packed]
            merged = distinct(np.concatenate(padded)) if padded else None
            if merged is not None:
                numbers, first = merged
                ends = np.cumsum([len(texts) for texts in packed])
                parts = zip(self._parts, np.split(numbers, ends[:-1]), strict=True)
                return joined([of_texts[codes] for (codes, _), of_texts in parts]), list(
                    Texts(np.concatenate(padded)[first])
                )
        rows = []
        for codes, stand_for in self._parts:
            rows.append((self._numbers(stand_for) if isinstance(stand_for, Texts) else stand_for)[codes])
        return joined(rows), list(self._known)


class IdColumn:
    """Ids of users or items: int64 if every one is written as an integer from 0 on, without sign and leading zeros;
    else text, exactly as written.

    Columns of decimals that are all whole, which is what missing values make of integers in a frame, count as integers;
    ``from_decimals`` says so.
    """

    def __init__(self) -> None:
        self._texts = TextColumn()
        self._numbers: list[NDArray[np.generic]] = []
        self._lengths: list[int | None] = []  # of chunks that came as texts, in rows; None for numbers
        self.from_decimals = False

    def add(self, values: Values) -> None:
        if isinstance(values, Numbers) and self._integers(values.values):
            numbers = values.values
            small = size(values) == 0 or int(numbers.max()) < 2**31
            self._numbers.append(numbers.astype(np.int32 if small else np.int64, copy=False))
            self._lengths.append(None)
        else:
            self._texts.add(values)
            self._lengths.append(size(values))

    def _integers(self, values: NDArray[np.generic]) -> bool:
        if values.dtype.kind == "f":
            numbers = values.astype(np.float64, copy=False)
            whole = bool(((numbers % 1 == 0) & (numbers >= 0) & (numbers < 2**53)).all())
            self.from_decimals |= whole
            return whole
        return values.dtype.kind in "iu" and (len(values) == 0 or 0 <= int(values.min()) <= int(values.max()) < 2**63)

    def finish(self) -> "FinishedIds":
        if None not in self._lengths:
            return self._of_texts(self._texts)
        if set(self._lengths) == {None}:
            return FinishedIds(joined(self._numbers), None)
        mixed, numbers = TextColumn(), iter(self._numbers)  # numbers in some chunks: text too, where others are none
        (codes, texts), at = self._texts.finish(), 0
        for length in self._lengths:
            if length is None:
                mixed.add(Numbers(next(numbers)))
            else:
                mixed.add(Coded(codes[at : at + length], texts))
                at += length
        return self._of_texts(mixed)

    @staticmethod
    def _of_texts(column: TextColumn) -> "FinishedIds":
        codes, texts = column.finish()
        if all(map(is_integer, texts)):
            values = np.array([int(text) for text in texts], np.int64)
            small = len(values) == 0 or int(values.max()) < 2**31
            return FinishedIds(values.astype(np.int32 if small else np.int64)[codes], None)
        order = sorted(range(len(texts)), key=texts.__getitem__)
        ranks = np.empty(len(texts), np.int32)
        ranks[order] = np.arange(len(texts), dtype=np.int32)
        return FinishedIds(ranks[codes], text_array(texts[number] for number in order))


@dataclass(frozen=True)
class FinishedIds:
    """Integers that are the ids, or, with ``ids``, indices into these."""

    values: NDArray[np.generic]
    ids: Ids | None

    def numbers_of(self, texts: Sequence[str]) -> Ints:
        """The integers that stand for these ids; -1 where there can be none."""
        if self.ids is None:
            return np.array([int(text) if is_integer(text) else -1 for text in texts], np.int64)
        places = {text: number for number, text in enumerate(self.ids.tolist())}
        return np.array([places.get(text, -1) for text in texts], np.int64)

    def odd(self) -> dict[str, int]:
        """Ids that are words for a missing value, with the number of their rows."""
        if self.ids is None:
            return {}
        found = [
            number for number, text in enumerate(self.ids.tolist()) if len(text) < 9 and text.strip().lower() in ABSENT
        ]
        return {str(self.ids[number]): int((self.values == number).sum()) for number in found}


class NumberColumn:
    """Ratings: finite numbers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._parts: list[NDArray[np.float64]] = []

    def add(self, values: Values, place: Place) -> None:
        """UserError, naming the place, for a value that is no finite number."""
        if isinstance(values, Moments):
            raise UserError(f"{place(0)}: {self._name} is a date, not a number")
        if isinstance(values, Coded):
            found = [number(text) for text in values.texts]
            if None in found:
                row = first_bad([value is None for value in found], values)
                raise UserError(f"{place(row)}: {self._name} is {shown(values.texts[values.codes[row]])}, not a number")
            self._parts.append(np.array(found, np.float64)[values.codes])
            return
        numbers = values.values.astype(np.float64)
        if not np.isfinite(numbers).all():
            row = int((~np.isfinite(numbers)).argmax())
            raise UserError(f"{place(row)}: {self._name} is {numbers[row]}, not a finite number")
        self._parts.append(numbers)

    def finish(self) -> NDArray[np.float64]:
        return joined(self._parts)


def joined(parts: list[NDArray[Scalar]]) -> NDArray[Scalar]:
    """The parts as one array; the list is emptied, so that the memory of each can be used again."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def shown(text: str) -> str:
    """A value for a message."""
    return repr(text[:40])


def check_columns(found: list[str], wanted: Mapping[str, str], where: str) -> None:
    """UserError unless each wanted column is there, once."""
    for ours, theirs in wanted.items():
        if found.count(theirs) != 1:
            problem = "several columns" if theirs in found else "no column"
            raise UserError(f"{where}: {problem} '{theirs}' for the {ours} (found: {one_line(', '.join(found))[:200]})")
