"""The run directory's record: TensorBoard, metrics.jsonl, JSON files, and what stands on the terminal."""

import json
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from sairlib.errors import UserError

Item = TypeVar("Item")


class RunLog:
    """Where a run writes down what happens. On resuming, what came after ``epoch`` in the old record is dropped."""

    def __init__(self, directory: Path, epoch: int = 0, step: int = 0) -> None:
        self.directory = directory
        path = directory / "metrics.jsonl"
        if epoch and path.exists():
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["epoch"] <= epoch]
            write_whole(path, "".join(line + "\n" for line in kept))
        self._jsonl = open(path, "a", buffering=1)  # noqa: SIM115 (open as long as the run)
        self.board = SummaryWriter(str(directory), purge_step=step + 1 if epoch else None)

    def text(self, tag: str, text: str) -> None:
        self.board.add_text(tag, f"```\n{text}\n```", 0)

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """Curves ``group/name``."""
        for name, value in values.items():
            self.board.add_scalar(f"{group}/{name}", value, step)

    def diagnosis(self, values: dict[str, Tensor], step: int) -> None:
        """Curves of a model's own figures: one for a scalar, one for each entry of a vector."""
        for name, value in values.items():
            entries = {name: value.item()} if value.ndim == 0 else {f"{name}/{i}": v for i, v in enumerate(value.tolist())}
            self.scalars("diagnosis", entries, step)

    def record(self, epoch: int, step: int, **values: Any) -> None:
        """One line of metrics.jsonl."""
        self._jsonl.write(json.dumps({"epoch": epoch, "step": step, **values}) + "\n")

    def final(self, settings: dict[str, Any], metrics: dict[str, float]) -> None:
        """Hyper-parameters against final metrics (TensorBoard's HParams page)."""
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
        for summary in hparams(plain, metrics):
            self.board.file_writer.add_summary(summary)
        for name, value in metrics.items():
            self.board.add_scalar(name, value, 0)

    def say(self, line: str) -> None:
        """A line for the reader of the terminal, or of the file that it is piped to."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def progress(self, items: list[Item], title: str) -> "tqdm[Item]":
        """A bar on a terminal; nothing in a file, which gets its line at the end of the epoch."""
        return tqdm(items, desc=title, leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def close(self) -> None:
        self.board.close()
        self._jsonl.close()


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"could not write {path} ({error.strerror})") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON, readable and whole."""
    write_whole(path, json.dumps(value, indent=2) + "\n")
