"""Hashes of large files, remembered: of 20 million rows, hashing takes longer than loading them from the cache."""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sairlib.data.source import Source
from sairlib.files import whole_file

LARGE = 32 << 20
"""Smaller files are hashed each time."""
SETTLED = 5.0
"""Seconds since the last change of a file. In a shorter time it may change once more and look the same."""


def remembered(source: Source, names: Sequence[str], cache: Path) -> str:
    """``source.sha256(names)``. Of large files it is kept in ``cache``, under their paths, sizes, times of change and
    inodes: it is found again only while all of these are the same.

    A memory that is damaged or cannot be written is no error.
    """
    before = _looks(source, names)
    if sum(size for _, size, _, _ in before) < LARGE:
        return source.sha256(names)
    key = hashlib.sha256(json.dumps([list(names), before, sorted(source.given.items())]).encode()).hexdigest()[:32]
    path = cache / f"{key}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_text())[key] if path.is_file() else None
        if isinstance(found, str) and len(found) == 64:
            return found
    digest = source.sha256(names)
    settled = all(time.time_ns() - changed > SETTLED * 1e9 for _, _, changed, _ in before)
    if settled and _looks(source, names) == before:
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                file.write(json.dumps({key: digest}).encode())
    return digest


def _looks(source: Source, names: Sequence[str]) -> list[tuple[str, int, int, int]]:
    found = []
    for path in dict.fromkeys(source.on_disk(name).absolute() for name in names):
        with suppress(OSError):  # whoever opens it says what is wrong
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns, status.st_ino))
    return found
