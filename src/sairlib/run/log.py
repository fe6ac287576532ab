"""The record of a run: TensorBoard, metrics.jsonl, checkpoints, and the lines on the terminal."""

import json
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from sairlib.errors import UserError
from sairlib.files import reason, whole_file
from sairlib.run import checkpoint

Item = TypeVar("Item")
GROUPS = ("train", "validation", "epoch", "test", "speed", "diagnosis")
"""The groups of curves in the order of TensorBoard's page. It sorts them by name and opens the first two."""
SHOWN_FIRST = ("seed", "training.lr")
N_SHOWN = 5
"""How many hyper-parameters, and how many figures, TensorBoard's HParams page shows before one asks for more."""


class RunLog:
    """Writes the record of a run to ``directory``.

    Resuming after ``epoch`` whole epochs, and ``step`` steps, drops what comes later from the earlier record.

    UserError if the directory cannot be written.
    """

    def __init__(self, directory: Path, epoch: int = 0, step: int = 0) -> None:
        self.directory = directory
        path = directory / "metrics.jsonl"
        with self._writing():
            if path.exists() and not path.is_file():
                raise UserError(f"could not write the record {path} (it is not a file)")
            if (epoch or step) and path.exists():
                self._drop_later(path, epoch)
            self._jsonl = open(path, "a", buffering=1)  # noqa: SIM115 (open during the whole run)
            self.board = SummaryWriter(str(directory), purge_step=step + 1 if epoch or step else None)
        self._excepthook, threading.excepthook = threading.excepthook, self._on_thread_error

    def _drop_later(self, path: Path, epoch: int) -> None:
        """Drop the records after ``epoch``, and damaged ones, which are counted unless it is the last line alone."""
        lines = path.read_bytes().splitlines()
        epochs = [_epoch_of(line) for line in lines]
        damaged = sum(map(math.isnan, epochs[:-1]))
        if damaged:
            self.say(f"{path}: {damaged} damaged lines are dropped")
        kept = [line + b"\n" for line, number in zip(lines, epochs, strict=True) if number <= epoch]
        with whole_file(path) as file:
            file.writelines(kept)

    def text(self, tag: str, text: str) -> None:
        """A text on TensorBoard."""
        with self._writing():
            self.board.add_text(tag, f"```\n{text}\n```", 0)

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """Points of the TensorBoard curves ``group/name``; the group's place stands before its name."""
        with self._writing():
            for name, value in values.items():
                self.board.add_scalar(_tag(f"{group}/{name}"), value, step)

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
        """Hyper-parameters and final metrics (``test/ranking/name``), for TensorBoard's HParams page.

        At first it shows the seed, the learning rate and the first other settings; of the metrics, the one that chose
        the weights (``training.monitor``), then the first others.
        """
        names = sorted(settings, key=lambda name: name not in SHOWN_FIRST)
        plain = {name: settings[name] for name in names}
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in plain.items()}
        chosen = f"test/{settings.get('training.monitor')}"
        ordered = {_tag(name): metrics[name] for name in sorted(metrics, key=lambda name: name != chosen)}
        with self._writing():
            for summary in _shown(hparams(plain, ordered), names[:N_SHOWN]):
                self.board._get_file_writer().add_summary(summary)
            for tag, value in ordered.items():
                self.board.add_scalar(tag, value, 0)

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
            intact = "; last.pt is intact: resume from it" if (self.directory / "last.pt").is_file() else ""
            why = reason(self.directory, error)
            raise UserError(f"could not write the record in {self.directory} ({why}){intact}") from error


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


def _epoch_of(line: bytes) -> float:
    """The epoch of a record; NaN for a damaged line, such as a killed process leaves."""
    try:
        epoch = json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.nan
    return epoch if type(epoch) is int else math.nan


def _tag(name: str) -> str:
    group = name.partition("/")[0]
    return f"{GROUPS.index(group) + 1} {name}" if group in GROUPS else name


def _shown(summaries: tuple[Any, Any, Any], names: list[str]) -> tuple[Any, Any, Any]:
    """Mark hyper-parameters as those that differ between runs: these TensorBoard shows first, sorted by name."""
    about = summaries[0].value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(about.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in names
    for metric in content.experiment.metric_infos:
        metric.display_name = metric.name.tag.partition(" ")[2]
    about.content = content.SerializeToString()
    return summaries
