"""Times in all forms that files have: seconds to nanoseconds since 1970, or ISO dates with or without a zone."""

import re
from datetime import date
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sairlib.data.columns import Coded, Moments, Numbers, Place, Values, first_bad, joined, number, shown, size
from sairlib.data.ids import Ints
from sairlib.errors import UserError

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""How many there are in a second."""
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_AT_LEAST = {"ms": 10**11, "us": 10**14, "ns": 10**17}
"""Seconds reach the first in the year 5138, milliseconds in 1973; and so on."""
DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?(?: ?(Z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?))?)?"
)
"""Year, month, day, hour, minute, second, fraction, zone."""
_INTEGER = re.compile("[+-]?[0-9]{1,18}")
_EXPECTED = (
    "expected a number (of seconds or milliseconds since 1970), or a date such as 2024-01-31 or"
    " 2024-01-31T18:05:00+02:00"
)
AnyTimes: TypeAlias = Ints | NDArray[np.float64]


class TimeColumn:
    """Times of one column. They become whole seconds if that loses nothing, else the coarsest of milli-, micro- and
    nanoseconds that loses nothing; decimals that are not whole in the file's unit become decimal seconds.

    ``unit`` is that of numbers: s, ms, us or ns, or auto, which decides by their size. Dates without a zone are UTC.
    """

    def __init__(self, name: str, unit: str) -> None:
        self._name = name
        self._unit = unit
        self._parts: list[NDArray[np.generic]] = []
        self._first: tuple[bool, str, str] | None = None  # whether it is a date, the value, and where it stands
        self._n_naive = 0
        self._cut = False

    def add(self, values: Values, place: Place) -> None:
        """UserError, naming the place, for a value that is no time, or a date where others are numbers."""
        if size(values) == 0:
            return
        if isinstance(values, Numbers):
            if values.values.dtype.kind not in "iuf":
                raise UserError(f"{place(0)}: {self._name} is {values.values[0]}; {_EXPECTED}")
            self._expect(False, str(values.values[0]), place(0))
            self._add_numbers(values.values, place)
        elif isinstance(values, Moments):
            self._expect(True, str(values.values[:1].astype("datetime64[us]")[0]), place(0))
            self._n_naive += len(values.values) if values.naive else 0
            self._cut |= values.cut
            self._parts.append(values.values)
        else:
            self._add_texts(values, place)

    def _add_numbers(self, values: NDArray[np.generic], place: Place) -> None:
        if values.dtype.kind == "f":
            numbers = values.astype(np.float64, copy=False)
            if not np.isfinite(numbers).all():
                row = int((~np.isfinite(numbers)).argmax())
                raise UserError(f"{place(row)}: {self._name} is {numbers[row]}, not a finite number")
            whole = bool((numbers % 1 == 0).all()) and bool((np.abs(numbers) < 2**53).all())
            self._parts.append(numbers.astype(np.int64) if whole else numbers)
            return
        self._parts.append(values.astype(np.int64, copy=False))

    def _add_texts(self, values: Coded, place: Place) -> None:
        texts = [text.strip() for text in values.texts]
        row = int(np.flatnonzero(values.codes == values.codes[0])[0])
        first = texts[values.codes[row]]
        is_date = DATE.fullmatch(first) is not None
        self._expect(is_date, first, place(row))
        found = [microseconds(text) if is_date else _number(text) for text in texts]
        if None in found:
            row = first_bad([value is None for value in found], values)
            text = texts[values.codes[row]]
            if (number(text) if is_date else DATE.fullmatch(text)) is not None:
                self._expect(not is_date, text, place(row))
            raise UserError(f"{place(row)}: {self._name} is {shown(text)}; {_EXPECTED}")
        if is_date:
            parts = [DATE.fullmatch(text) for text in texts]
            naive = np.array([part is not None and part[8] is None for part in parts], bool)
            self._n_naive += int(naive[values.codes].sum())
            self._cut |= any(part is not None and (part[7] or "")[6:].strip("0") != "" for part in parts)
        whole = all(isinstance(value, int) for value in found)
        self._parts.append(np.array(found, np.int64 if whole else np.float64)[values.codes])

    def _expect(self, is_date: bool, text: str, where: str) -> None:
        """UserError if earlier values were of the other kind."""
        if self._first is None:
            self._first = (is_date, text, where)
        elif self._first[0] != is_date:
            kinds = ("a date", "a number") if is_date else ("a number", "a date")
            raise UserError(
                f"{where}: {self._name} is {shown(text)}, {kinds[0]}, where {self._first[2]} has {kinds[1]}"
                f" ({self._first[1]}); write all of them in one way"
            )

    def finish(self) -> tuple[AnyTimes, list[str]]:
        """The times, and one line for each thing that was decided about them."""
        notes = []
        if any(part.dtype.kind == "f" for part in self._parts):
            self._parts = [part.astype(np.float64) for part in self._parts]
        times: AnyTimes = joined(self._parts)  # type: ignore[assignment]
        if self._first is not None and self._first[0]:
            if self._n_naive:
                notes.append(f"{self._n_naive:,} of {len(times):,} times name no zone: they are taken as UTC")
            if self._cut:
                notes.append("times are finer than a microsecond: the rest is cut off")
            return _coarsest(times, 10**6), notes
        unit = self._unit
        if unit == "auto":
            unit = _by_size(times)
            notes.append(
                f"times are taken as {_NAMES[unit]} since 1970, by their size ({times.min()} to {times.max()});"
                " dataset.time_unit says otherwise"
            )
        return _coarsest(times, UNITS[unit]), notes


def _by_size(times: AnyTimes) -> str:
    """The unit that all numbers are of, by their size; seconds if they are of several (which is said elsewhere)."""
    magnitudes = [unit for unit, least in _AT_LEAST.items() if np.abs(times).min() >= least]
    return magnitudes[-1] if magnitudes else "s"


def _coarsest(times: AnyTimes, per_second: int) -> AnyTimes:
    if times.dtype.kind == "f":
        return times / per_second
    while per_second > 1 and not (times % 1000).any():
        times, per_second = times // 1000, per_second // 1000
    return times


def _number(text: str) -> int | float | None:
    if _INTEGER.fullmatch(text):
        return int(text)
    value = number(text)
    return int(value) if value is not None and value % 1 == 0 and abs(value) < 2**53 else value


def microseconds(text: str) -> int | None:
    """Microseconds since 1970 of an ISO date, in UTC if it names no zone; None if it is none."""
    found = DATE.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    fraction = (found[7] or "").ljust(9, "0")
    try:
        days = date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        return None
    offset = zone_minutes(found[8])
    if hour > 23 or minute > 59 or second > 59 or offset is None:
        return None
    return (((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 10**6 + int(fraction[:6])


def zone_minutes(zone: str | None) -> int | None:
    """How many minutes a zone is ahead of UTC; None for one that does not exist."""
    if zone is None or zone in ("Z", "UTC"):
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    ahead = hours * 60 + minutes if hours < 24 and minutes < 60 else None
    return -ahead if ahead is not None and zone[0] == "-" else ahead
