"""The directory of a run: it belongs to one living process, and only what a run wrote in it is ever removed."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import final

from sairlib import processes
from sairlib.errors import UserError
from sairlib.files import write_text
from sairlib.run import lock

LOCK = lock.NAME
"""Held by the process that writes the run. Its lines: process and host, then the names of the files that are the run's.

The system lets go of it when the process ends, however that happens. The file of a killed run stays, unheld, and says
which files a later run may replace.
"""
WORDS = ".hydra/overrides.yaml"
CONFIG = "config.yaml"
STATE = "last.pt"
DOCUMENTS = (WORDS, ".hydra/config.yaml", ".hydra/hydra.yaml", CONFIG)
EARLY = ("run.json", "metrics.jsonl", "best.pt")
"""What a run writes before its first checkpoint, beside its documents and the file for TensorBoard."""
LATE = (STATE, "ranks.npz", "test.json")
_EVENTS = re.compile(r"events\.out\.tfevents\.\d+\.[^/]+\.\d+\.\d+")


@final
class RunDirectory:
    """A directory that this process alone writes a run into, until ``close``. It is created where it is missing.

    A new run takes a directory that holds no run; what a run left that was killed before its first checkpoint is
    removed. With ``resume`` it must hold a run: one with a state (``has_state``), or such a leftover.

    UserError if that is not so, if another process writes there, or if the directory cannot be written.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        self.resumed = resume
        self._made: list[Path] = []
        self._own: list[str] | None = None
        self._lock: int | None = None
        if processes.rank():  # the first of several processes holds it for all
            processes.wait()
            return
        if resume and not holds_run(path):
            raise UserError(f"no checkpoint at {path / STATE}: there is nothing to resume")
        try:
            try:
                str(path).encode()  # TensorBoard's writer needs that
                self._make()
                self._lock, text = lock.take(path / LOCK)
                self._take_over(text)
            except (OSError, ValueError) as error:  # a ValueError: a character that no path can have
                if isinstance(error, UserError):
                    raise
                raise UserError(f"cannot write in the run directory {path} ({_reason(error)})") from error
            processes.wait()
        except BaseException:
            self.close()
            raise

    @property
    def has_state(self) -> bool:
        """Whether there is a state to resume from."""
        return (self.path / STATE).is_file()

    def write(self, documents: Mapping[str, str]) -> None:
        """Write these texts, by file name. ``config.yaml`` is the last: where it is, the others are."""
        if processes.rank():
            return
        for name in sorted(documents, key=lambda name: name == CONFIG):
            path = self.path / name
            try:
                path.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise UserError(f"could not write {path} ({_reason(error)})") from error
            write_text(path, documents[name])

    def clear_record(self) -> None:
        """Remove what the run wrote before it was killed, but for its documents: it starts from the beginning."""
        self._remove(name for name in self._own or () if name not in DOCUMENTS)

    def close(self) -> None:
        """Let go of the directory. A new run that has no checkpoint yet is removed, as if it had not been started."""
        if self._lock is not None:
            there = lock.is_file_of(self._lock, self.path / LOCK)  # else the directory was removed
            if self._own is not None and there:
                new = not self.resumed and not self.has_state
                if new:
                    events = self._events(*lock.this_process())
                    self._remove([*self._own, *(name for name in events if name not in self._there)])
                if new or self.has_state:  # else the lock says which files are the run's
                    self._remove([LOCK])
            lock.release(self._lock)
            self._lock = None
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()  # only if it is empty
        self._made = []

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _make(self) -> None:
        """Create the directory, and remember the folders that this needed, the innermost first."""
        missing = [folder for folder in (self.path, *self.path.parents) if not os.path.lexists(folder)]
        for folder in reversed(missing):
            with suppress(FileExistsError):  # another process was faster
                folder.mkdir()
                self._made.insert(0, folder)
        if not self.path.is_dir():
            raise UserError(f"run_dir={self.path} is not a directory: choose another")

    def _take_over(self, text: str) -> None:
        """Deal with what the last owner left, whose lock held ``text``; then write the lock for this one."""
        assert self._lock is not None
        left = self._left(text)
        taken = [name for name in (*EARLY, *LATE, CONFIG) if os.path.lexists(self.path / name) and name not in left]
        if not self.resumed and (taken or self.has_state):
            if not text:
                self._remove([LOCK])
            how = f", or resume it by {how_to_resume(self.path)}" if holds_run(self.path) else ""
            what = f" ({taken[-1]} in it)" if taken else ""
            raise UserError(f"run_dir={self.path} already holds a run{what}: choose another directory{how}")
        if not self.resumed:
            self._remove(left)
        else:
            self._remove(name for name in left if name.endswith(".tmp"))
        self._there = set(os.listdir(self.path))
        here = (name for name in (*DOCUMENTS, *EARLY) if self.resumed or not os.path.lexists(self.path / name))
        self._own = [*here, *(name for name in left if _EVENTS.fullmatch(name))]
        lines = [" ".join(lock.this_process()), *self._own]
        os.lseek(self._lock, 0, os.SEEK_SET)
        length = os.write(self._lock, "".join(line + "\n" for line in lines).encode())
        os.ftruncate(self._lock, length)  # not before: a run that is killed here still has its names
        os.fsync(self._lock)

    def _left(self, text: str) -> list[str]:
        """Names of files that the last owner left, according to the text of its lock."""
        first, *names = text.splitlines() or [""]
        own = [name for name in names if name in (*DOCUMENTS, *EARLY) or _EVENTS.fullmatch(name)]
        owner = re.fullmatch(lock.OWNER, first)
        if owner:  # the names of files that it was just writing
            own += [f"{name}.{owner[1]}.tmp" for name in (*DOCUMENTS, *EARLY, *LATE)]
            own += self._events(owner[1], owner[2])
        return own

    def _events(self, process: str, host: str) -> list[str]:
        """Names of the files for TensorBoard that a process wrote."""
        with suppress(OSError):
            return [n for n in os.listdir(self.path) if _EVENTS.fullmatch(n) and f".{host}.{process}." in n]
        return []

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.path / name
            with suppress(OSError):
                path.unlink()
                if path.parent != self.path:
                    path.parent.rmdir()  # only if it is empty


def holds_run(path: Path) -> bool:
    """Whether there is a run to resume: one with a state, or one that was killed before its first checkpoint."""
    try:
        words, proof = (path / WORDS).is_file(), (path / CONFIG).is_file() or (path / LOCK).is_file()
        return (path / STATE).is_file() or (words and proof)
    except (OSError, ValueError):  # too long a name, or a character that no path can have
        return False


def how_to_resume(path: Path) -> str:
    """The command that resumes the run in ``path``, to be pasted into a shell."""
    place = shown(path)
    quoted = "'" + place.replace("\\", "\\\\").replace("'", "\\'") + "'" if place[:1] in ("'", '"') else place
    return f"python -m sairlib.resume {shell_word('run=' + quoted)}"


def shown(path: Path) -> str:
    """The path as it is shorter: as it is, or from the working directory."""
    with suppress(OSError, ValueError):  # no working directory any more; on another drive
        return min(str(path), os.path.relpath(path), key=len)
    return str(path)


def shell_word(text: str) -> str:
    """The text as one word for a shell. It stays one line: what is not printable is written as bash's ``$'\\n'``."""
    if text.isprintable() and "  " not in text:
        return shlex.quote(text)
    safe = (c if c.isprintable() and c not in " '\\" else _escaped(c) for c in text)
    return "$'" + "".join(safe) + "'"


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "its name is not UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
