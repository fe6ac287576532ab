"""The median rule: a job of a grid stops early if the jobs that finished before it were better at the same epoch."""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sairlib.errors import UserError
from sairlib.run.jobs import read_jobs

if TYPE_CHECKING:  # it loads torch
    from sairlib.training.trainer import Progress


@dataclass(frozen=True)
class MedianSettings:
    """When the rule holds. UserError for a value out of range."""

    jobs: int = 5
    """How many jobs must have finished: before, there is nothing to compare with."""
    epochs: int = 10
    """How many epochs each job gets in any case."""

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.epochs < 1:
            raise UserError(f"hydra.callbacks.grid.median: jobs={self.jobs}, epochs={self.epochs} must be 1 or more")


@dataclass
class MedianRule:
    """The rule for the jobs below ``sweep``. It reads what they measured on validation, never on test."""

    sweep: Path
    monitor: str
    settings: MedianSettings
    verdict: str = ""
    """Why the job stopped, once it has."""
    _curves: dict[Path, dict[int, float]] = field(default_factory=dict)

    def stops(self, progress: "Progress") -> bool:
        """Whether a job's best figure so far is below the median of the finished jobs' best until the same epoch."""
        epoch, best = progress.epoch, progress.best.get(self.monitor)
        if best is None or epoch < self.settings.epochs:
            return False
        for directory, job in read_jobs(self.sweep).items():
            # A job that was itself stopped early has no figures of later epochs.
            if job.status == "finished" and not job.reason and directory not in self._curves:
                self._curves[directory] = _validations(directory, self.monitor)
        until = [[value for at, value in curve.items() if at <= epoch] for curve in self._curves.values()]
        others = [max(values) for values in until if values]
        if len(others) < self.settings.jobs or best >= (median := statistics.median(others)):
            return False
        self.verdict = f"epoch {epoch}: {best:.4f} is below {median:.4f}, the median of {len(others)} jobs"
        return True


def _validations(directory: Path, monitor: str) -> dict[int, float]:
    """The figures of ``monitor`` in a run's record, by epoch; empty if it cannot be read."""
    try:
        records = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
        return {r["epoch"]: float(r["validation"][monitor]) for r in records if "validation" in r}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
