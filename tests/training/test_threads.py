"""A training that does not get its cores goes on with fewer threads, and later tries all of them again."""

from types import SimpleNamespace

import pytest

from sairlib.training import threads as module
from sairlib.training.threads import PAUSE, Threads


class Machine:
    """A clock and threads that a test moves; ``cores``: how many of them the process gets."""

    def __init__(self, patch: pytest.MonkeyPatch, n_threads: int) -> None:
        self.now, self.cpu, self.n = 100.0, 10.0, n_threads
        clock = SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: self.cpu)
        patch.setattr(module, "time", clock)
        patch.setattr(
            module, "torch", SimpleNamespace(get_num_threads=lambda: self.n, set_num_threads=self.set_num_threads)
        )

    def set_num_threads(self, n: int) -> None:
        self.n = n

    def run(self, threads: Threads, seconds: float, cores: float) -> list[str]:
        """Steps of 0.1 s each; the lines that were said."""
        lines = []
        for _ in range(round(10 * seconds)):
            self.now += 0.1
            self.cpu += 0.1 * min(cores, self.n)
            lines.append(threads.look())
        return [line for line in lines if line]


def test_it_gives_way_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 4)
    threads = Threads()
    assert machine.run(threads, 30, cores=3.9) == [] and machine.n == 4
    [line] = machine.run(threads, 3, cores=2.4)
    assert machine.n == 2 and "2 of 4 threads" in line
    assert machine.run(threads, PAUSE - 5, cores=2.4) == [] and machine.n == 2
    [line] = machine.run(threads, 10, cores=2.4)
    assert machine.n == 2 and f"{2 * PAUSE:.0f} s" in line, "it tries all again, and waits longer"
    assert machine.run(threads, 2 * PAUSE + 5, cores=4) == [] and machine.n == 4


def test_a_moment_without_a_core_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 2)
    threads = Threads()
    for _ in range(5):
        assert machine.run(threads, 1, cores=1.1) == []
        assert machine.run(threads, 2, cores=2) == []
    threads.start()
    assert machine.n == 2


def test_a_single_thread_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1)
    assert machine.run(Threads(), 20, cores=0.3) == [] and machine.n == 1
