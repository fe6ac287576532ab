"""One line on the terminal for each job of a grid that ends, wherever it runs."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from sairlib.run.jobs import OUTPUT, Job, duration, read_jobs

ENDED = ("finished", "failed")
PAUSE = 0.5
"""Seconds between two looks at the directories."""
SHARE = 0.05
"""The share of the time that looking may take: many jobs on a slow disk are looked at less often."""


class Progress:
    """Watches the run directories below ``sweep`` and prints a line to ``stream`` for each job that ends.

    ``n_jobs`` is None where it is not known beforehand. ``keys`` are the settings that differ among the jobs; without
    any, a line shows all words of the job.
    """

    def __init__(self, sweep: Path, n_jobs: int | None, keys: Sequence[str], stream: TextIO) -> None:
        self.sweep = sweep
        self.n_jobs = n_jobs
        self.keys = keys
        self.stream = stream
        self.done: dict[Path, Job] = {}
        """The jobs of this grid that ended."""
        self._before = read_jobs(sweep)
        self._started = time.perf_counter()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="grid progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, and print the lines of the jobs that ended meanwhile."""
        self._stopping.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        pause = PAUSE
        while not self._stopping.wait(pause):
            start = time.perf_counter()
            self._look()
            pause = max(PAUSE, (time.perf_counter() - start) / SHARE)

    def _look(self) -> None:
        jobs = read_jobs(self.sweep)
        new = [place for place, job in jobs.items() if job.status in ENDED and job != self._before.get(place)]
        for place in sorted(new, key=lambda place: jobs[place].ended):
            if place not in self.done:
                self.done[place] = jobs[place]
                print(self._line(place, jobs[place]), file=self.stream, flush=True)

    def _line(self, directory: Path, job: Job) -> str:
        settings = job.settings()
        words = [f"{key}={settings[key]}" for key in self.keys if key in settings] or job.words
        count = f"{len(self.done)}/{self.n_jobs}" if self.n_jobs else f"{len(self.done)}"
        head = f"[{count}] job {job.number}: {' '.join(words)}"
        if job.status == "failed":
            return f"{head}  failed: {job.reason} ({directory / OUTPUT}){self._left()}"
        if job.again:
            return f"{head}  {job.monitor} {job.value:.4f}  already finished"
        early = f"  stopped early at {job.reason}" if job.reason else ""
        return f"{head}  {job.monitor} {job.value:.4f}  {duration(job.seconds)}{early}{self._left()}"

    def _left(self) -> str:
        run = sum(not job.again for job in self.done.values())
        left = (self.n_jobs or 0) - len(self.done)
        if left <= 0 or not run:
            return ""
        return f"  about {duration((time.perf_counter() - self._started) / run * left)} left"
