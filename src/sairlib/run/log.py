"""The record of a run: TensorBoard, metrics.jsonl, checkpoints, and the lines on the terminal."""

import json
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from sairlib.errors import UserError
from sairlib.files import write_text
from sairlib.run import checkpoint

Item = TypeVar("Item")


class RunLog:
    """Writes the record of a run to ``directory``. Resuming after ``epoch`` whole epochs, and
    ``step`` steps, drops what comes later from the earlier record.

    UserError if the directory cannot be written.
    """

    def __init__(self, directory: Path, epoch: int = 0, step: int = 0) -> None:
        self.directory = directory
        path = directory / "metrics.jsonl"
        with self._writing():
            if (epoch or step) and path.exists():
                lines = [line for line in path.read_text().splitlines() if _epoch_of(line) <= epoch]
                write_text(path, "".join(line + "\n" for line in lines))
            self._jsonl = open(path, "a", buffering=1)  # noqa: SIM115 (open during the whole run)
            self.board = SummaryWriter(str(directory), purge_step=step + 1 if epoch or step else None)
        self._excepthook, threading.excepthook = threading.excepthook, self._on_thread_error

    def text(self, tag: str, text: str) -> None:
        """A text on TensorBoard."""
        with self._writing():
            self.board.add_text(tag, f"```\n{text}\n```", 0)

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """Points of the TensorBoard curves ``group/name``."""
        with self._writing():
            for name, value in values.items():
                self.board.add_scalar(f"{group}/{name}", value, step)

    def diagnosis(self, values: dict[str, Tensor], step: int) -> None:
        """Points of a model's diagnosis: one curve for a scalar, one for each entry of a vector."""
        for name, value in values.items():
            entries = (
                {name: value.item()} if value.ndim == 0 else {f"{name}/{i}": v for i, v in enumerate(value.tolist())}
            )
            self.scalars("diagnosis", entries, step)

    def record(self, epoch: int, step: int, **values: Any) -> None:
        """One line of metrics.jsonl."""
        with self._writing():
            self._jsonl.write(json.dumps({"epoch": epoch, "step": step, **values}) + "\n")

    def final(self, settings: dict[str, Any], metrics: dict[str, float]) -> None:
        """Hyper-parameters and final metrics, for TensorBoard's HParams page."""
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
        with self._writing():
            for summary in hparams(plain, metrics):
                self.board._get_file_writer().add_summary(summary)
            for name, value in metrics.items():
                self.board.add_scalar(name, value, 0)

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint of this name into the run directory."""
        checkpoint.save(self.directory / name, state)

    def say(self, line: str) -> None:
        """Print a line to standard output."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def progress(self, items: list[Item], title: str) -> "tqdm[Item]":
        """Iterate over ``items`` with a progress bar on a terminal, and without one elsewhere."""
        return tqdm(items, desc=title, leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def close(self) -> None:
        """Write what is pending and close the files."""
        with self._writing():
            try:
                self.board.close()
            finally:
                threading.excepthook = self._excepthook
                self._jsonl.close()

    def _on_thread_error(self, args: threading.ExceptHookArgs) -> None:
        """Print no traceback for a failed write of TensorBoard's thread: the next call raises the error."""
        if not (type(args.thread).__module__.startswith("tensorboard") and isinstance(args.exc_value, OSError)):
            self._excepthook(args)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # no space left, or the directory was removed
            raise UserError(f"could not write the record in {self.directory} ({error.strerror or error})") from error


class Silent:
    """Records nothing: for all processes but the first of several that train together."""

    def text(self, tag: str, text: str) -> None: ...

    def scalars(self, group: str, values: dict[str, float], step: int) -> None: ...

    def diagnosis(self, values: dict[str, Tensor], step: int) -> None: ...

    def record(self, epoch: int, step: int, **values: Any) -> None: ...

    def final(self, settings: dict[str, Any], metrics: dict[str, float]) -> None: ...

    def save(self, name: str, state: dict[str, Any]) -> None: ...

    def say(self, line: str) -> None: ...

    def progress(self, items: list[Item], title: str) -> list[Item]:
        return items

    def close(self) -> None: ...


def _epoch_of(line: str) -> float:
    """The epoch of a record; infinity for a line that a killed process left incomplete."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return math.inf
