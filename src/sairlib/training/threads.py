"""How many threads of the CPU a training takes where other processes take the cores, too."""

import time

import torch

LOOK = 1.0
"""Seconds between two looks."""
BUSY = 0.8
"""The share of its threads' time below which a process does not get the cores; alone it gets 0.98 and more."""
PAUSE = 60.0
"""Seconds with fewer threads, the first time; then twice as long each time."""


class Threads:
    """Goes on with fewer threads while other processes take the cores.

    The threads of an operation wait for each other. Where another process takes a core, one of them stands still, the
    others wait, and an epoch takes many times as long; with one thread it does not. Another number of threads rounds
    otherwise, so this is for a training whose number of threads nobody has chosen.
    """

    def __init__(self) -> None:
        self.all = torch.get_num_threads()
        self._pause = PAUSE
        self._until = 0.0
        self._n_busy = 0
        self.start()

    def start(self) -> None:
        """Begin to measure: what was done before does not count."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def look(self) -> str | None:
        """Look whether the process gets its cores, and take fewer threads if not. Returns a line that says so.

        Call it after every step: it does nothing until ``LOOK`` seconds have passed.
        """
        now, n = time.perf_counter(), torch.get_num_threads()
        if self.all == 1 or now - self._wall < LOOK:
            return None
        cores = (time.process_time() - self._cpu) / (now - self._wall)
        self.start()
        if n < self.all:
            if now >= self._until:
                torch.set_num_threads(self.all)
            return None
        self._n_busy = self._n_busy + 1 if cores < BUSY * n else 0
        if self._n_busy < 2:
            return None
        fewer, seconds = max(1, min(n - 1, int(cores))), self._pause
        torch.set_num_threads(fewer)
        self._until, self._pause, self._n_busy = now + seconds, 2 * seconds, 0
        return (
            f"other processes take the cores: {fewer} of {n} threads for {seconds:.0f} s (threads=N keeps their number)"
        )
