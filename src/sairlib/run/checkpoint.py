"""Checkpoints: written completely or not at all, checked when read, plain tensors and numbers only."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from sairlib.errors import UserError
from sairlib.files import whole_file

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically.

    UserError if that fails (no space left, read-only); an earlier checkpoint at ``path`` is then intact.
    """
    try:
        with whole_file(path) as file:
            torch.save({"format": FORMAT, **state}, file)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        intact = "; the previous one is intact" if path.exists() else ""
        raise UserError(f"could not write checkpoint {path} ({_reason(error)}){intact}") from error


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of ``save``, with its tensors on ``device``.

    UserError for a file that is missing, truncated, damaged, malicious or of another format.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not verify the checksums
            # Nor does it notice a tensor that is marked as a folder: it would read uninitialised memory as its values.
            folders = [info.filename for info in archive.infolist() if info.external_attr & 0x10]
    except Exception as error:  # a damaged zip may raise almost anything
        raise UserError(f"{path} is not a complete checkpoint ({_reason(error)})") from error
    if damaged is not None or folders:
        raise UserError(f"{path} is damaged: {damaged or folders[0]} has a wrong checksum or is marked as a folder")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        # Do not retry with weights_only=False: that would run any code in the file.
        raise UserError(f"{path} is not a sairlib checkpoint ({_reason(error)})") from error
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"{path} is not a sairlib checkpoint")
    if state["format"] != FORMAT:
        raise UserError(f"{path} has checkpoint format {state['format']}, this sairlib reads {FORMAT}: upgrade sairlib")
    return state


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
