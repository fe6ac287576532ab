"""The one way to write files: completely, or not at all."""

import json
import os
import shutil
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


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make the folder ``path`` at once: the block fills a temporary one beside it, which takes its name at the end.

    UserError if something other than an empty folder is there already, or if it cannot be written. If the block
    raises, nothing is left.
    """
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists already; give another name, or remove it first")
    whole = path.absolute()  # "." has no name
    partial = whole.with_name(f"{whole.name}.{os.getpid()}.tmp")
    try:
        partial.mkdir()
        yield partial
        if path.is_dir():
            path.rmdir()  # empty; not every system renames onto it
        partial.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(not_written(path, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file; UserError if that fails."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; UserError if that fails."""
    try:
        with whole_file(path) as file:
            file.write(content)
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
