"""A data set on disk, a folder or a zip file, read in place: nothing is extracted."""

import gzip
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from sairlib.errors import UserError

_MAX_RATIO = 200  # published rating tables compress 2 to 5 times; a bomb 1,000 times or more
_SMALL = 16 << 20  # what unpacks to no more than this does no harm
_MAX_MEMBERS = 100_000
ACTIONS, ITEMS = "actions", "items"
"""What files that a person names hold: who did what, or a description of the items."""


class Source:
    """The files of a data set, found by base name at any depth.

    ``given`` is empty, but for files that were named one by one (``of_files``): their names by what they hold.

    Raises UserError if ``path`` is neither a folder nor a complete zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.given: Mapping[str, Sequence[str]] = {}
        self._zipped = not path.is_dir()
        self._members: dict[str, list[str]] = {}
        for member in self._list_zip() if self._zipped else self._list_folder():
            self._members.setdefault(PurePosixPath(member).name, []).append(member)

    @classmethod
    def of_files(cls, given: Mapping[str, Sequence[Path]]) -> "Source":
        """Files that need not lie together, ``ACTIONS`` and perhaps ``ITEMS``; their names are their whole paths."""
        source = cls.__new__(cls)
        source.path = given[ACTIONS][0]
        source.given = {kind: [str(path) for path in paths] for kind, paths in given.items()}
        source._zipped = False
        source._members = {name: [name] for names in source.given.values() for name in names}
        return source

    def has(self, name: str) -> bool:
        """Whether there is at least one file of this name."""
        return name in self._members

    def where(self, name: str) -> str:
        """The path of the one file of this name, for messages; UserError as in ``open``."""
        return one_line(name if self.given else self.path / self._find(name).lstrip("/"))

    def on_disk(self, name: str) -> Path:
        """The file that holds the one file of this name: itself, or the zip."""
        member = self._find(name)
        return self.path if self._zipped else self.path / member  # a given file's name is its whole path

    @contextmanager
    def open(self, name: str) -> Iterator[io.BufferedReader]:
        """Open the one file of this name for reading.

        UserError if there is none, or several, or it is damaged, or no regular file (a pipe, a device).
        """
        member, where = self._find(name), self.where(name)
        with ExitStack() as stack:
            with _foreign(where):
                size = None
                if self._zipped:
                    archive = stack.enter_context(zipfile.ZipFile(self.path))
                    size = archive.getinfo(member).file_size
                    stream = stack.enter_context(_open_member(archive, member, where))
                else:
                    _demand_regular(self.path / member)
                    stream = stack.enter_context((self.path / member).open("rb"))
            yield stack.enter_context(io.BufferedReader(_Contents(stream, where, size), 1 << 16))

    @contextmanager
    def open_unpacked(self, name: str) -> Iterator[io.BufferedReader]:
        """As ``open``; a file that gzip has packed is unpacked."""
        with self.open(name) as stream:
            if stream.peek(2)[:2] != b"\x1f\x8b":
                if stream.peek(4)[:4] == b"PK\3\4":
                    raise UserError(
                        f"{self.where(name)}: a zip, or a file of an office program; unpack it, or export csv"
                    )
                yield stream
                return
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield io.BufferedReader(_Contents(unpacked, self.where(name), None), 1 << 20)

    def sha256(self, names: Iterable[str]) -> str:
        """Hash of the names and contents of these files; the same for a folder and for its zip.

        Of files that were named one by one their order counts, and what they hold, but not in which folder they are.
        """
        digest = hashlib.sha256()
        if self.given:
            kinds = {kind: [Path(name).name for name in given] for kind, given in self.given.items()}
            digest.update(json.dumps(kinds).encode())
        for name in names if self.given else sorted(names):
            content = hashlib.sha256()
            with self.open(name) as stream:
                while block := stream.read(1 << 20):
                    content.update(block)
            shown = Path(name).name if self.given else name
            digest.update(f"{content.hexdigest()}  {shown}\n".encode())
        return digest.hexdigest()

    def _find(self, name: str) -> str:
        members = self._members.get(name, [])
        if not members:
            present = one_line(", ".join(sorted(self._members)[:8]))[:200] or "nothing"
            raise UserError(f"{self.path}: no file '{name}' in it (found: {present})")
        if len(members) > 1:
            several = one_line(", ".join(members[:8]))[:200]
            raise UserError(f"{self.path}: several files '{name}' in it ({several}); keep one")
        return members[0]

    def _list_folder(self) -> list[str]:
        members = []
        for folder, subfolders, files in os.walk(self.path, onerror=self._cannot_list):
            subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
            members += [(Path(folder) / file).relative_to(self.path).as_posix() for file in sorted(files)]
        return members

    def _cannot_list(self, error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    def _list_zip(self) -> list[str]:
        if self.path.exists():
            _demand_regular(self.path)
        try:
            with zipfile.ZipFile(self.path) as archive, self.path.open("rb") as file:
                infos = archive.infolist()
                _check_count(len(infos), file)
                for info in infos[:_MAX_MEMBERS]:
                    _check_name(info, file)
                members = [info.filename for info in infos if not info.is_dir()]
        except Exception as error:  # a damaged directory of a zip may raise almost anything
            raise UserError(f"{self.path}: not a complete zip file, get a new copy ({_reason(error)})") from error
        if len(members) > _MAX_MEMBERS:
            raise UserError(f"{self.path}: {len(members):,} files in it, too many for a data set")
        return members


class _Contents(io.RawIOBase):
    """The bytes of a file, ``size`` of them if that is known. Whatever a decompressor raises becomes a UserError."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, where: str, size: int | None) -> None:
        self._stream = stream
        self._where = where
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def readall(self) -> bytes:
        return self._read(-1)

    def _read(self, size: int) -> bytes:
        with _foreign(self._where):
            block = self._stream.read(size)
            if self._left is not None:
                self._left -= len(block)
                # zipfile checks the sum of what it gave, but not that it gave everything.
                if self._left and (size < 0 or len(block) < size):
                    raise EOFError(f"it ends {self._left:,} bytes early")
        return block


@contextmanager
def _foreign(where: str) -> Iterator[None]:
    """Around nothing but the opening and reading of a file from elsewhere."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: cannot be read, get a new copy ({_reason(error)})") from error


def _demand_regular(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"{one_line(path)}: not a regular file (a pipe, device, socket or dead link): put the data there"
        )


def _check_count(n: int, file: IO[bytes]) -> None:
    """BadZipFile if the directory of the zip has other than ``n`` entries: a damaged entry can hide those after it."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - (1 << 16) - 22))
    tail = file.read()
    at = tail.rfind(b"PK\5\6") + 10
    written = int.from_bytes(tail[at : at + 2], "little")
    if written not in (n % 2**16, 2**16 - 1):  # the latter: it is written elsewhere
        raise zipfile.BadZipFile(f"{n:,} files in it, not {written:,} as it says")


def _check_name(info: zipfile.ZipInfo, file: IO[bytes]) -> None:
    """BadZipFile if a member's own header has another name than the directory: one is damaged, and a file that may be
    missing (the genres) would seem to be."""
    file.seek(info.header_offset)
    header = file.read(30)
    name = file.read(int.from_bytes(header[26:28], "little"))
    if name.decode("utf-8" if info.flag_bits & 0x800 else "cp437") != info.orig_filename:
        raise zipfile.BadZipFile(f"{info.orig_filename!r} has another name in its own header")


def _open_member(archive: zipfile.ZipFile, member: str, where: str) -> IO[bytes]:
    info = archive.getinfo(member)
    # zipfile never reads past the declared size, so checking the declared size is enough. The declared compressed size
    # is not checked by anybody, but the member cannot be longer than the archive.
    packed = min(info.compress_size, os.fstat(archive.fp.fileno()).st_size) if archive.fp else 0
    if info.file_size > _SMALL and info.file_size > _MAX_RATIO * packed:
        raise UserError(f"{where}: would unpack {packed:,} bytes to {info.file_size:,}, too many for a data set")
    return archive.open(info)


def _reason(error: Exception) -> str:
    return one_line(error)[:160] or type(error).__name__


def one_line(value: object) -> str:
    """Text for a message. Names of files, and errors that cite them, may hold line breaks and control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))
