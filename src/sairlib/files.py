"""The one way in which files are written: whole, or not at all."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sairlib.errors import UserError


@contextmanager
def whole_file(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[IO[bytes]]:
    """A new file beside ``path``, flushed to the disk and put in its place when the block is left without an error.

    What stood at ``path`` before is untouched until then. ``check`` may look at the new file first, and raise.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two processes may write the same file
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(partial)
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:  # there after a failure only, or when interrupted
        with suppress(OSError):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file; UserError if that fails."""
    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UserError(f"could not write {path} ({error.strerror or error})") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON, readable; UserError if that fails."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
