"""Systems under test, as processes that wait for their turn, and the environments of the peers."""

import json
import os
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from system_sairlib import study_of

from sairlib.run import runtime

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
REQUIREMENTS = {
    "gru4rec": [["torch==2.13.0", "numpy", "pandas"]],
    "rectools": [["torch==2.13.0", "rectools[torch]==0.19.0"]],
    # It needs older versions of numpy, pandas, scipy and setuptools than it declares.
    "recbole": [["setuptools<80", "numpy<2", "pandas<2.2", "scipy<1.14", "torch==2.13.0"], ["recbole==1.2.1"]],
}
Answer = dict[str, Any]


class Bench:
    """The working folder of the benchmark, and how it starts systems."""

    def __init__(self, work: Path, threads: int, rounds: int) -> None:
        self.work = work
        self.threads = threads
        self.rounds = rounds
        work.mkdir(parents=True, exist_ok=True)

    def python(self, peer: str) -> str:
        """The interpreter of the peer's environment, which is created if it is missing."""
        home = self.work / peer
        python = home / "bin" / "python"
        if not (home / "complete").exists():
            print(f"creating an environment for {peer}")
            venv.create(home, with_pip=True, clear=True)
            for packages in REQUIREMENTS[peer]:
                subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
            (home / "complete").touch()
        return str(python)

    def ours(self, *overrides: str, checkout: Path = CHECKOUT, **settings: Any) -> "System":
        return System(self, sys.executable, "sairlib", {"overrides": list(overrides), **settings}, checkout)

    def peer(self, name: str, **settings: Any) -> "System":
        return System(self, self.python(name), name, settings)

    def exchange(self, *overrides: str) -> str:
        """sairlib's training part, evaluated users, targets and candidates, as a file that every peer can read."""
        path = self.work / f"{'-'.join(overrides).replace('=', '-').replace('/', '-')}.npz"
        if not path.exists():
            study = study_of(list(overrides))
            store, drawn = study.store, study.evaluator.drawn
            assert drawn is not None
            items = [store.items[a : a + n] for a, n in zip(store.starts, store.train_lengths, strict=True)]
            users = torch.from_numpy(study.split.eval_users)
            targets = store.items[store.starts[users] + store.lengths[users] - 2]
            np.savez(
                path,
                sequence_users=np.repeat(np.arange(len(items)), store.lengths.numpy()),
                sequence_items=store.items.numpy(),
                users=np.repeat(np.arange(len(items)), store.train_lengths.numpy()),
                items=np.concatenate([part.numpy() for part in items]),
                eval_users=users.numpy(),
                candidates=np.concatenate([targets[:, None].numpy(), drawn.items_UC], 1),
            )
        return str(path)


class System:
    """A process that has built one system and waits. ``ask`` makes it do one thing and returns its answer."""

    def __init__(self, bench: Bench, python: str, name: str, settings: Answer, checkout: Path = CHECKOUT) -> None:
        self.name = name
        self.log = (bench.work / f"{name}.log").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": str(bench.threads), "PYTHONPATH": str(checkout / "src")}
        self.process = subprocess.Popen(
            [
                python,
                str(checkout / HERE.relative_to(CHECKOUT) / f"system_{name}.py"),
            ],  # each commit has its own script
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            cwd=bench.work,
        )
        self.built = self._send({**settings, "threads": bench.threads})

    def ask(self, what: str) -> Answer:
        return self._send({"do": what})

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.log.close()

    def _send(self, message: Answer) -> Answer:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"error: {self.name} stopped; see {self.log.name}")
        answer: Answer = json.loads(line)
        return answer


def worktree(bench: Bench, commit: str) -> Path:
    """A checkout of a commit of sairlib."""
    name = subprocess.run(
        ["git", "-C", CHECKOUT, "rev-parse", "--short", commit], capture_output=True, text=True, check=True
    ).stdout.strip()
    path = bench.work / "commits" / name
    if not path.exists():
        subprocess.run(["git", "clone", "-q", CHECKOUT, path], check=True)
        subprocess.run(["git", "-C", path, "checkout", "-q", name], check=True)
    return path


def alternate(systems: list[System], what: str, rounds: int) -> dict[str, list[Answer]]:
    """Ask each system once in each round, for ``rounds`` rounds after a warm-up: the answers by system."""
    answers: dict[str, list[Answer]] = {system.name: [] for system in systems}
    for number in range(rounds + 1):
        for system in systems:
            answer = system.ask(what)
            print(f"  {what} {number}  {system.name}  {answer['seconds']:.2f} s")
            if number:
                answers[system.name].append(answer)
    return answers


def close(*systems: System) -> None:
    for system in systems:
        system.close()


def machine(bench: Bench) -> Answer:
    """The machine and the versions behind the figures."""
    return {
        **runtime.describe(torch.device("cpu")),
        "threads": bench.threads,
        "date": time.strftime("%Y-%m-%d"),
        "load_before": os.getloadavg()[0],
    }


def median(answers: list[Answer], key: str = "seconds") -> float:
    return statistics.median(answer[key] for answer in answers)
