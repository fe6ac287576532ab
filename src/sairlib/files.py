"""The one way to write files: completely, or not at all."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sairlib.errors import UserError


@contextmanager
def whole_file(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[IO[bytes]]:
    """Write ``path`` atomically: the block writes a temporary file beside it, which replaces it if nothing is raised.

    Until then an earlier file at ``path`` is unchanged. ``check`` gets the path of the temporary file, complete and
    flushed to the disk, and may raise.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # its own name: two processes may write the same file
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(partial)
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:  # it exists after a failure or an interruption only
        with suppress(OSError):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file; UserError if that fails."""
    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UserError(not_written(path, error)) from error


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; UserError if that fails."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def not_written(path: Path, error: OSError, kind: str = "") -> str:
    """One line that says why ``path``, a file of this kind, could not be written, and what is intact."""
    intact = "; the previous one is intact" if os.path.isfile(path) else ""
    return f"could not write {kind}{path} ({reason(path.parent, error)}){intact}"


def reason(directory: Path, error: OSError) -> str:
    """Why a file in ``directory`` could not be written."""
    if not os.path.isdir(directory):
        return f"there is no directory {directory}"
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


def _sync_folder(folder: Path) -> None:
    """Flush the folder, so that the new name survives a power cut, on systems that can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
