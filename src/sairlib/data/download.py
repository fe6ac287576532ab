"""Find a data set on disk, or download it."""

import contextlib
import hashlib
import http.client
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from sairlib.data.source import Source
from sairlib.errors import UserError
from sairlib.files import whole_file

TIMEOUT = 30.0
"""A download fails after this many seconds without data."""

_PACKAGE = Path(__file__).resolve().parents[1]
_log = logging.getLogger(__name__)


def locate(
    *,
    name: str,
    root: Path,
    archive: str,
    url: str | None = None,
    checksum: str | None = None,
    homepage: str | None = None,
) -> Source:
    """Find the data set ``name``: the folder ``root/name``, else the zip ``root/archive``, else the copy that ships
    with sairlib, else a download of ``url`` to ``root/archive``.

    ``checksum`` ("md5:..." or "sha256:...") applies to downloads only, not to a zip that is already on disk.
    Raises UserError, which says which file to put where, if none of these works.
    """
    for file in (name, archive):
        if file in ("", "..") or file != Path(file).name:
            raise UserError(f"dataset name and archive must be plain file names, not '{file}'")
    folder, target = root / name, root / archive
    try:
        if folder.is_dir() and any(folder.iterdir()):
            return Source(folder)
        for candidate in (target, *_shipped(archive)):
            if candidate.exists() and not candidate.is_dir():
                return Source(candidate)
    except OSError as error:  # not permitted, or a name that is too long
        raise UserError(f"data set '{name}': cannot look into {root.absolute()} ({error.strerror})") from error
    by_hand = (
        f"get it from {homepage or url or 'its authors'} and put its files into {folder.absolute()}{os.sep}"
        f" or the zip at {target.absolute()}"
    )
    if url is None:
        raise UserError(f"data set '{name}' is missing and cannot be downloaded: {by_hand}")
    try:
        _download(url, target, checksum)
    except (OSError, http.client.HTTPException, ValueError, UserError) as error:
        raise UserError(f"data set '{name}' is missing and its download failed ({error}): {by_hand}") from error
    return Source(target)


def _shipped(archive: str) -> list[Path]:
    """Where data that ships with sairlib may be: in the installed package, or in a checkout."""
    places = [_PACKAGE / "shipped" / archive]
    if _PACKAGE.parent.name == "src":
        places.append(_PACKAGE.parents[1] / "data" / archive)
    return places


def _download(url: str, target: Path, checksum: str | None) -> None:
    """Download ``url`` to ``target``, which appears complete or not at all."""
    digest = _digest(checksum)
    created = not target.parent.exists()
    try:
        with _locked(target.with_name(f".{target.name}.lock")):
            if target.is_file():  # another process has just downloaded it
                return
            # We hold the lock, so temporary files are leftovers of a killed process.
            for leftover in target.parent.glob(f"{target.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
            with whole_file(
                target, lambda part: _verify(part, checksum, digest.hexdigest() if digest else None)
            ) as file:
                _fetch(url, file, digest.update if digest else lambda block: None)
    except BaseException:
        if created:
            with contextlib.suppress(OSError):
                target.parent.rmdir()
        raise


def _digest(checksum: str | None) -> "hashlib._Hash | None":
    if checksum is None:
        return None
    algorithm = checksum.partition(":")[0]
    if algorithm not in ("md5", "sha256"):
        raise UserError(f"checksum '{checksum}' must begin with 'md5:' or 'sha256:'")
    return hashlib.new(algorithm, usedforsecurity=False)


def _fetch(url: str, file: IO[bytes], update_digest: Callable[[bytes], None]) -> None:
    if not url.startswith(("https://", "http://")):
        raise UserError(f"'{url}' is not an http(s) address")
    _log.info("downloading %s", url)
    request = urllib.request.Request(url, headers={"User-Agent": "sairlib"})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # the error is also the open response
        raise UserError(f"the server says {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise UserError(f"no connection: {error.reason}") from error
    with response:
        length = response.headers.get("Content-Length")
        expected = int(length) if length else None
        received = 0
        # disable=None: a bar on a terminal, nothing in a log file.
        with tqdm(total=expected, unit="B", unit_scale=True, desc=Path(url).name, disable=None) as bar:
            while block := response.read(1 << 18):
                file.write(block)
                update_digest(block)
                received += len(block)
                bar.update(len(block))
    if expected is not None and received != expected:
        raise UserError(f"the connection broke after {received:,} of {expected:,} bytes; try again")


def _verify(part: Path, checksum: str | None, actual: str | None) -> None:
    with part.open("rb") as file:
        if file.read(64).lstrip().startswith(b"<"):
            raise UserError("the server sent a web page instead of the file")
    if checksum is not None and actual != checksum.partition(":")[2].lower():
        raise UserError(f"the checksum of the downloaded file is {actual}, not {checksum.partition(':')[2]}")
    try:
        Source(part)
    except UserError as error:
        raise UserError("the downloaded file is not a complete zip file") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock on ``path`` against other processes. The system releases it if this process dies."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
        try:
            _lock(file.fileno(), path)
            if _is_at(file.fileno(), path):
                break
        except BaseException:
            file.close()
            raise
        file.close()  # its last owner removed it while we waited: lock the new file
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows cannot remove an open file: leave it there
            path.unlink()
        file.close()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, path: Path) -> None:
    waiting = False
    while not _try_lock(descriptor):
        if not waiting:
            _log.info("waiting for another process that downloads the same file (%s)", path)
            waiting = True
        time.sleep(0.1)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
