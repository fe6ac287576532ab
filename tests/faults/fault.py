"""What a fault is: something bad done to a run, a file or a process, many times, each time in another way.

A fault's function gets an empty directory and a random generator seeded by the number of the try. It returns if the
program survived: a valid result, or one clear line. It raises ``LostError`` if work was lost, a file was half-written,
data was dropped without a word, or a traceback came out; any other exception counts as lost too.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Once = Callable[[Path, random.Random], None]
FAULTS: list["Fault"] = []


class LostError(AssertionError):
    """Something was lost; the message says what."""


@dataclass(frozen=True)
class Fault:
    name: str
    once: Once
    tries: int
    few: int
    """How many tries the test suite takes."""


def fault(name: str, tries: int, few: int = 2) -> Callable[[Once], Once]:
    """Register a function as a fault of this name, to be tried so many times."""

    def register(once: Once) -> Once:
        FAULTS.append(Fault(name, once, tries, few))
        return once

    return register
