"""Checkpoints: written completely or not at all, checked when read, plain tensors and numbers only.

A checkpoint is a file of ``torch.save``, and ``torch.load`` reads it. The zip's comment, at the end of the file, holds
the SHA-256 of all bytes before it.
"""

import hashlib
import io
import struct
from pathlib import Path
from typing import IO, Any

import torch

from sairlib.errors import UserError
from sairlib.files import not_written, whole_file
from sairlib.run.contents import check_contents

FORMAT = 2
READABLE = (1, 2)
"""1: without the checksum over the whole file; the zip has one for each of its members."""
_WORD = b"sairlib sha256 "
_COMMENT = len(_WORD) + 64
_LENGTH = struct.pack("<H", _COMMENT)
"""The last two bytes of a zip before its comment; torch leaves them 0, and so does the checksum."""
_BLOCK = 2**20


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically.

    UserError if that fails (no space left, read-only); an earlier checkpoint at ``path`` is then intact.
    """
    try:
        with whole_file(path) as file:
            summed = _Summed(file)
            try:
                torch.save({"format": FORMAT, **state}, summed)  # type: ignore[arg-type]  # it only writes
            except RuntimeError:  # what torch makes of a failed write
                if summed.failed is None:
                    raise
                raise summed.failed from None
            file.seek(-len(_LENGTH), io.SEEK_END)
            file.write(_LENGTH + _WORD + summed.sha256.hexdigest().encode())
    except OSError as error:
        raise UserError(not_written(path, error, "checkpoint ")) from error


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of ``save``, with its tensors on ``device``.

    UserError for a file that is missing, truncated, damaged, malicious or of another format. Whether the state fits a
    model is checked by ``sairlib.training.state``.
    """
    if not path.is_file():
        what = "it is not a file" if path.exists() else "there is no such file"
        raise UserError(f"no checkpoint at {path}: {what}")
    try:
        with open(path, "rb") as file:
            whole = _is_whole(file)
            if whole is False:
                raise UserError(f"{path} is damaged: its checksum is wrong; use another copy of it")
            try:
                check_contents(file, every_member=whole is None)
            except Exception as error:  # a damaged zip or pickle may raise almost anything
                raise UserError(f"{path} is not a complete checkpoint ({_reason(error)})") from error
            try:
                file.seek(0)
                state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
            except Exception as error:
                # Do not retry with weights_only=False: that would run any code in the file.
                raise UserError(f"{path} is not a sairlib checkpoint ({_reason(error)})") from error
    except OSError as error:
        raise UserError(f"could not read checkpoint {path} ({_reason(error)})") from error
    number = state.get("format") if isinstance(state, dict) else None
    if type(number) is not int:
        raise UserError(f"{path} is not a sairlib checkpoint")
    if number not in READABLE:
        newest = f"this sairlib reads {', '.join(map(str, READABLE))}: upgrade sairlib"
        raise UserError(f"{path} has checkpoint format {number}, {newest}")
    if whole is None and number > 1:
        raise UserError(f"{path} is damaged: its checksum is missing; use another copy of it")
    return state


class _Summed:
    """A file to write to that keeps the SHA-256 of what was written, and the error if a write failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.failed: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            n = self.file.write(data)
        except OSError as error:
            self.failed = error
            raise
        self.sha256.update(data)
        return n

    def flush(self) -> None:
        """torch calls it; ``whole_file`` flushes."""


def _is_whole(file: IO[bytes]) -> bool | None:
    """Whether the checksum at the end of the file is that of the bytes before it; None if there is none."""
    n_bytes = file.seek(0, io.SEEK_END)
    left = n_bytes - _COMMENT - len(_LENGTH)
    file.seek(max(0, left))
    end = file.read()
    if end[len(_LENGTH) : len(_LENGTH) + len(_WORD)] != _WORD:
        return None
    sha256 = hashlib.sha256()
    file.seek(0)
    while left > 0:
        block = file.read(min(_BLOCK, left))
        sha256.update(block)
        left -= max(1, len(block))
    sha256.update(bytes(len(_LENGTH)))
    return end == _LENGTH + _WORD + sha256.hexdigest().encode()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
