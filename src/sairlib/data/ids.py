"""Ids as the data gives them: integers, or text. Models number users and items densely; people see these."""

import itertools
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Ids: TypeAlias = Ints | NDArray[np.object_]
"""int64, or an object array of str."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")


def as_ids(values: Iterable[object]) -> Ids:
    """int64 if all values are integers, else their text."""
    listed = list(values)
    if all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in listed):
        return np.array(listed, np.int64)
    return text_array(str(value) for value in listed)


def text_array(values: Iterable[str]) -> NDArray[np.object_]:
    """An object array of these strings."""
    listed = list(values)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def find(known: Ids, wanted: Iterable[object]) -> Ints:
    """The index in ``known`` of each id in ``wanted``; -1 where it is not there.

    Ids may be given as text, as on a command line: ``"42"`` finds 42. A number finds the text that shows it.
    """
    listed = list(wanted)
    if known.dtype.kind == "O":
        return _positions(known, [str(value) for value in listed])
    numbers = [_whole(value) for value in listed]
    found = _positions(known, [0 if number is None else number for number in numbers])
    return np.where([number is None for number in numbers], -1, found)


def _positions(known: Ids, wanted: list[Any]) -> Ints:
    found = pd.Index(known, dtype=known.dtype).get_indexer(pd.Index(wanted, dtype=known.dtype))
    return found.astype(np.int64)


def _whole(value: object) -> int | None:
    """The integer that a value is or shows, if it has 64 bits."""
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and abs(int(value)) < 2**63:
        return int(value)
    return None


def pack(texts: Iterable[str]) -> tuple[NDArray[np.uint8], Ints]:
    """Texts as one array of UTF-8 bytes, and where each of them ends: to be stored without pickle."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def unpack(content: NDArray[np.uint8], ends: Ints) -> NDArray[np.object_]:
    """The inverse of ``pack``; ValueError if the ends are not those of texts in ``content``."""
    if content.dtype != np.uint8 or ends.dtype != np.int64 or (len(ends) and ends[-1] != len(content)):
        raise ValueError("the ends of texts do not belong to them")
    bounds, data = [0, *ends.tolist()], content.tobytes()
    if data.isascii():  # characters are bytes: one text is decoded instead of a million
        return text_array(map(data.decode().__getitem__, map(slice, bounds, bounds[1:])))
    return text_array(data[a:b].decode("utf-8", "surrogatepass") for a, b in itertools.pairwise(bounds))
