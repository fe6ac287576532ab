"""The jobs of a grid: the record that each leaves in its run directory, and the table made from these records.

Jobs may run in other processes or on other machines, so everything is read from files.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sairlib.errors import UserError
from sairlib.files import write_json, write_text

RECORD = "job.json"
OUTPUT = "output.txt"
"""What a job prints. The terminal gets one line a job."""
Figures = dict[str, float]


@dataclass(frozen=True)
class Job:
    """The record of a job, in its run directory."""

    number: int
    words: list[str]
    """The words of the command line that run this job alone."""
    status: str = "running"
    """``running`` from its start, then ``finished``, ``failed`` or ``interrupted``. A killed job stays ``running``."""
    monitor: str = ""
    value: float | None = None
    """The best validation figure of ``monitor``."""
    seconds: float = 0.0
    ended: float = 0.0
    reason: str = ""
    """Why it failed, in one line; or why it was finished before its training was at its end."""
    again: bool = False
    """Whether the latest grid found it finished already."""

    def settings(self) -> dict[str, str]:
        """The values that the words give, by their keys."""
        pairs = (word.lstrip("+~").partition("=") for word in self.words)
        return {key: value for key, _, value in pairs}

    def write(self, directory: Path) -> None:
        """UserError if the record cannot be written."""
        write_json(directory / RECORD, asdict(self))


def read_job(directory: Path) -> Job | None:
    """The record in ``directory``; None if there is none, or if it is damaged."""
    try:
        job = Job(**json.loads((directory / RECORD).read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (job.status, job.monitor, job.reason, *(job.words if isinstance(job.words, list) else [None]))
    numbers = (job.number, job.seconds, job.ended, 0 if job.value is None else job.value)
    return job if all(isinstance(t, str) for t in texts) and all(_is_number(n) for n in numbers) else None


def read_jobs(sweep: Path) -> dict[Path, Job]:
    """The records of all run directories below ``sweep``, in the order of their numbers."""
    found = {path.parent: read_job(path.parent) for path in sweep.rglob(RECORD)}
    jobs = [(directory, job) for directory, job in found.items() if job is not None]
    return dict(sorted(jobs, key=lambda pair: (pair[1].number, pair[0])))


def figures(directory: Path, job: Job) -> Figures:
    """Validation's figure of a finished job, and the same metric, and HR beside it, of every ranking on test."""
    if job.status != "finished" or job.value is None:
        return {}
    metric = job.monitor.rpartition("/")[2]
    name, _, k = metric.partition("@")
    metrics = [metric, f"hr@{k}"] if k and name != "hr" else [metric]
    try:
        test = json.loads((directory / "test.json").read_text())
        measured = {
            f"test {ranking}/{wanted}": test[ranking][wanted]
            for ranking in test["ci95"]
            for wanted in metrics
            if _is_number(test[ranking].get(wanted))
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # missing or damaged
        measured = {}
    return {f"validation {job.monitor}": job.value, **measured}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def differing(jobs: Sequence[Job]) -> list[str]:
    """The keys in whose values the jobs differ."""
    settings = [job.settings() for job in jobs]
    keys = dict.fromkeys(key for own in settings for key in own)
    return [key for key in keys if len({own.get(key) for own in settings}) > 1]


def over_seeds(jobs: Mapping[Path, Job], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Mean and standard deviation (n - 1) over the finished jobs that differ in ``seed`` alone; empty if none do.

    Jobs that were stopped early do not count: their figures would have risen.
    """
    if "seed" not in keys:
        return []
    others = [key for key in keys if key != "seed"]
    groups: dict[tuple[str, ...], list[tuple[Path, Job]]] = {}
    for directory, job in jobs.items():
        settings = job.settings()
        groups.setdefault(tuple(settings.get(key, "") for key in others), []).append((directory, job))
    rows = []
    for values, group in groups.items():
        measured = [own for own in (figures(directory, job) for directory, job in group if not job.reason) if own]
        names = list(dict.fromkeys(name for own in measured for name in own))
        columns = {name: [own[name] for own in measured if name in own] for name in names}
        rows.append(
            {
                "settings": dict(zip(others, values, strict=True)),
                "jobs": len(group),
                "finished": len(measured),
                "mean": {name: statistics.fmean(column) for name, column in columns.items()},
                "sd": {name: statistics.stdev(column) for name, column in columns.items() if len(column) > 1},
            }
        )
    return rows


@dataclass(frozen=True)
class Report:
    """What came out of a grid, as text and as plain values."""

    text: str
    values: dict[str, Any]

    def write(self, sweep: Path) -> None:
        """Write ``grid.md`` and ``grid.json`` into the directory of the grid. UserError if that fails."""
        write_text(sweep / "grid.md", self.text + "\n")
        write_json(sweep / "grid.json", self.values)


def report(sweep: Path, n_jobs: int | None = None) -> Report:
    """The tables of the grid in ``sweep``. ``n_jobs``: how many it was to have, if that is known.

    UserError if it holds no job.
    """
    jobs = read_jobs(sweep)
    if not jobs:
        raise UserError(f"{sweep} holds no jobs of a grid (no {RECORD} in a directory below it)")
    keys = differing(list(jobs.values()))
    measured = {directory: figures(directory, job) for directory, job in jobs.items()}
    names = list(dict.fromkeys(name for own in measured.values() for name in own))
    rows, entries = [], []
    for directory, job in jobs.items():
        settings, own = job.settings(), measured[directory]
        cells = [f"{own[name]:.4f}" if name in own else "-" for name in names]
        status = "stopped early" if job.status == "finished" and job.reason else job.status
        rows.append([str(job.number), *(settings.get(key, "") for key in keys), *cells, _time(job), status])
        place = directory.relative_to(sweep).as_posix()
        entry = {key: value for key, value in asdict(job).items() if key != "again"}
        entries.append({**entry, "directory": place, "settings": {key: settings.get(key) for key in keys}, **own})
    seeds = over_seeds(jobs, keys)
    counts = [f"{sum(job.status == status for job in jobs.values())} {status}" for status in ("finished", "failed")]
    open_ends = sum(job.status not in ("finished", "failed") for job in jobs.values())
    counts += [f"{open_ends} not ended"] if open_ends else []
    counts += [f"{n_jobs - len(jobs)} not started"] if n_jobs is not None and n_jobs > len(jobs) else []
    parts = [_table(["job", *keys, *names, "time", "status"], rows)]
    if seeds:
        parts.append("Over seeds, mean ± standard deviation:\n\n" + _seeds_table(seeds, names))
    failed = {directory: job for directory, job in jobs.items() if job.status == "failed"}
    if failed:
        lines = (f"- job {job.number}: {job.reason} ({directory / OUTPUT})" for directory, job in failed.items())
        parts.append("Failed:\n\n" + "\n".join(lines))
    parts.append(f"{len(jobs)} job{'s' * (len(jobs) != 1)}: " + ", ".join(counts))
    return Report("\n\n".join(parts), {"n_jobs": n_jobs, "jobs": entries, "over_seeds": seeds})


def _seeds_table(seeds: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    rows = []
    for row in seeds:
        cells = []
        for name in names:
            mean, sd = row["mean"].get(name), row["sd"].get(name)
            cells.append("-" if mean is None else f"{mean:.4f}" + (f" ± {sd:.4f}" if sd is not None else ""))
        count = str(row["jobs"]) if row["finished"] == row["jobs"] else f"{row['finished']} of {row['jobs']}"
        rows.append([*row["settings"].values(), count, *cells])
    return _table([*seeds[0]["settings"], "seeds", *names], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])


def _time(job: Job) -> str:
    return "-" if job.status == "running" else duration(job.seconds)


def duration(seconds: float) -> str:
    """A duration as people say it: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
