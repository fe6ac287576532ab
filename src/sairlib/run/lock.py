"""A lock that belongs to one living process: the system lets go of it when the process ends, however that happens."""

import errno
import os
import re
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path

from sairlib.errors import UserError

OWNER = r"(\d{1,10}) (\S{1,255})"
"""The first line in the file of a lock: its process and host, as ``this_process`` gives them."""
NAME = ".lock"
"""The file of a directory's lock."""

_HELD: set[int] = set()
"""Descriptors of the locks of this process."""


def this_process() -> tuple[str, str]:
    """Its number and its machine."""
    return str(os.getpid()), socket.gethostname()


def take(path: Path) -> tuple[int, str]:
    """Take the lock in the file ``path``; returns its descriptor and the text that its last owner left.

    UserError if another holds it.
    """
    while True:
        descriptor, made = _open(path)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"{path} is not a file: remove it, or choose another run_dir")
            advice = _lock(descriptor, made)
            text = os.read(descriptor, 2**16).decode(errors="replace")
            if advice is not None:
                owner = re.match(OWNER, text)
                whose = f"process {owner[1]} on {owner[2]}" if owner else "another process"
                raise UserError(f"run_dir={path.parent} is in use by {whose}: {advice}")
            if is_file_of(descriptor, path):  # else the last owner has just removed it
                _HELD.add(descriptor)
                return descriptor, text
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(path: Path) -> tuple[int, bool]:
    """Open a file to read and write; returns its descriptor, and whether it was created."""
    flags = os.O_RDWR if sys.platform == "win32" else os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    for _ in range(100):
        with suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
        with suppress(FileNotFoundError):  # removed since
            return os.open(path, flags), False
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def release(descriptor: int) -> None:
    """Let go of a lock."""
    _HELD.discard(descriptor)
    with suppress(OSError):
        os.close(descriptor)


def is_file_of(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is the file that ``descriptor`` has open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


_WAIT = "choose another directory, or wait for its end"
_REMOVE = f"choose another directory; if it has ended, remove {NAME} in the directory (locks do not work here)"

if sys.platform == "win32":

    def _lock(descriptor: int, made: bool) -> str | None:
        return None if made else _REMOVE

else:
    import fcntl

    def _lock(descriptor: int, made: bool) -> str | None:
        """Try to take the lock; None if that went well, else what a user can do.

        Where the file system has no locks, it belongs to the process that ``made`` the file.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return _WAIT
        except OSError:
            return None if made else _REMOVE
        return None

    def _forget_locks() -> None:
        """In a forked child: else it would hold them for as long as it lives, though its parent has ended."""
        for descriptor in list(_HELD):
            release(descriptor)

    os.register_at_fork(after_in_child=_forget_locks)
