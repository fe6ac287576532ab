"""What is odd in a data set but may be meant: it is kept, and said with counts."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Times = NDArray[np.int64] | NDArray[np.float64]
_MILLISECONDS = 10**11
"""Seconds reach this number in the year 5138, milliseconds in 1973."""


def find_notes(items: Ints, offsets: Ints, times: Times | None) -> tuple[str, ...]:
    """One line for each oddity of sequences as ``Dataset`` holds them: repeated actions, times that are all equal, and
    times of which some are seconds and some milliseconds."""
    return (*_repeated(items, offsets, times), *([] if times is None else _times(times)))


def _repeated(items: Ints, offsets: Ints, times: Times | None) -> list[str]:
    begins = np.zeros(len(items), bool)  # where another user or another time begins
    if times is not None:
        np.not_equal(times[1:], times[:-1], out=begins[1:])
    begins[offsets[:-1]] = True
    tied = ~begins  # of the same user and time as the action before or after: few, and only these can repeat
    tied[:-1] |= tied[1:]
    at = np.flatnonzero(tied)
    keys = np.cumsum(begins[at])  # a number for each user and time
    keys *= int(items.max()) + 1
    keys += items[at]
    keys.sort()
    n = int(np.count_nonzero(keys[1:] == keys[:-1]))
    if n == 0:
        return []
    same = "user and item (there are no times)" if times is None else "user, item and time"
    return [f"{n:,} of {len(items):,} actions repeat an earlier one of the same {same}; all are kept"]


def _times(times: Times) -> list[str]:
    first, last = times.min(), times.max()
    if first == last and len(times) > 1:
        return [f"all {len(times):,} timestamps are {first}: a user's actions keep the order of the file"]
    if first < _MILLISECONDS <= last:
        n = int((times >= _MILLISECONDS).sum())
        return [
            f"{n:,} timestamps look like milliseconds and {len(times) - n:,} like seconds: the order of actions may be"
            " wrong; convert them to one unit"
        ]
    return []
