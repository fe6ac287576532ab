"""A data set on disk, a folder or a zip file, read in place: nothing is extracted."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from sairlib.errors import UserError

_GIGABYTE = 1 << 30
_MAX_RATIO = 200  # rating tables compress about 5 times, repetitive text perhaps 50 times
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError)


class Source:
    """The files of a data set, found by base name at any depth.

    Raises UserError if ``path`` is neither a folder nor a complete zip file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zipped = not path.is_dir()
        self._members: dict[str, list[str]] = {}
        for member in self._list_zip() if self._zipped else self._list_folder():
            self._members.setdefault(PurePosixPath(member).name, []).append(member)

    def has(self, name: str) -> bool:
        """Whether there is at least one file of this name."""
        return name in self._members

    def where(self, name: str) -> str:
        """The path of the one file of this name, for messages; UserError as in ``open``."""
        return str(self.path / self._find(name))

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open the one file of this name for reading; UserError if there is none, or several, or it is damaged."""
        member = self._find(name)
        try:
            if self._zipped:
                with zipfile.ZipFile(self.path) as archive, self._open_member(archive, member) as stream:
                    yield stream
            else:
                with (self.path / member).open("rb") as stream:
                    yield stream
        except _BROKEN as error:
            raise UserError(f"{self.path / member}: cannot be read, get a new copy ({error})") from error

    def sha256(self, names: Iterable[str]) -> str:
        """Hash of the names and contents of these files; the same for a folder and for its zip."""
        digest = hashlib.sha256()
        for name in sorted(names):
            content = hashlib.sha256()
            with self.open(name) as stream:
                while block := stream.read(1 << 20):
                    content.update(block)
            digest.update(f"{content.hexdigest()}  {name}\n".encode())
        return digest.hexdigest()

    def _find(self, name: str) -> str:
        members = self._members.get(name, [])
        if not members:
            present = ", ".join(sorted(self._members)[:8]) or "nothing"
            raise UserError(f"{self.path}: no file '{name}' in it (found: {present})")
        if len(members) > 1:
            raise UserError(f"{self.path}: several files '{name}' in it ({', '.join(members)}); keep one")
        return members[0]

    def _list_folder(self) -> list[str]:
        members = []
        for folder, subfolders, files in os.walk(self.path):
            subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
            members += [(Path(folder) / file).relative_to(self.path).as_posix() for file in sorted(files)]
        return members

    def _list_zip(self) -> list[str]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return [info.filename for info in archive.infolist() if not info.is_dir()]
        except (*_BROKEN, RuntimeError, ValueError) as error:
            raise UserError(f"{self.path}: not a complete zip file, get a new copy ({error})") from error

    def _open_member(self, archive: zipfile.ZipFile, member: str) -> IO[bytes]:
        info = archive.getinfo(member)
        # zipfile never reads past the declared size, so checking the declared size is enough.
        if info.file_size > _GIGABYTE and info.file_size > _MAX_RATIO * info.compress_size:
            raise UserError(f"{self.path / member}: would unpack to {info.file_size:,} bytes, too many for a data set")
        try:
            return archive.open(info)
        except RuntimeError as error:  # encrypted, or compressed in a way that this Python lacks
            raise UserError(f"{self.path / member}: cannot be unpacked ({error})") from error
