"""Call the commands in this process on a small data set, and check the files that they write and their refusals."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from sairlib import evaluate, train

Actions = list[tuple[int, int]]
TINY = ("device=cpu", "max_len=8", "training.batch_size=16", "evaluation.n_candidates=5")
RUN_FILES = {
    *("config.yaml", "run.json", "metrics.jsonl", "best.pt", "last.pt", "ranks.npz", "test.json"),
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
}
"""The files of a finished run, except the one for TensorBoard, whose name holds the time."""


def call(main: Callable[[], None], patch: pytest.MonkeyPatch, *overrides: str) -> int:
    """Run a command with these words; returns its exit code."""
    patch.setattr(sys, "argv", ["command", *overrides])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        GlobalHydra.instance().clear()
    return 0


def train_tiny(home: Path, actions: Actions, *models: str) -> None:
    """Runs of one epoch of these models in ``home``, each in a directory of its name, on a data set of these actions,
    with titles and genres."""
    write_data(home, actions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setenv("SAIRLIB_DATA", str(home / "data"))
        patch.setenv("SAIRLIB_CACHE", str(home / "cache"))
        patch.chdir(home)
        for model in models:
            width = [] if model == "poprec" else ["model.d=8"]
            words = [f"model={model}", f"run_dir={model}", "training.epochs=1", *width]
            assert call(train.main, patch, *TINY, *words) == 0


class Commands:
    """Both commands, in a directory of their own with a small data set in place of ml-latest-small."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home, self.patch = home, patch
        patch.setenv("SAIRLIB_DATA", str(home / "data"))
        patch.setenv("SAIRLIB_CACHE", str(home / "cache"))
        patch.setenv("HYDRA_FULL_ERROR", "0")  # put back after the test: the command sets it
        patch.chdir(home)

    def train(self, run: str, *overrides: str) -> Path:
        assert call(train.main, self.patch, *TINY, f"run_dir={run}", *overrides) == 0
        return self.home / run

    def evaluate(self, run: str, *overrides: str) -> Path:
        """Evaluate the run again; returns the file with the figures."""
        output = f"{run}-again.json"
        assert call(evaluate.main, self.patch, "device=cpu", f"run={run}", f"output={output}", *overrides) == 0
        return self.home / output


def epochs(run: Path) -> list[dict[str, float]]:
    """The training figures of every epoch of a run."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["train"] for record in records if "train" in record]


def figures(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def write_ratings(path: Path, actions: Actions) -> None:
    """A ratings.csv in MovieLens' layout; an action's time is its place in the list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["userId", "movieId", "rating", "timestamp"])
        writer.writerows((user, item, 4.0, time) for time, (user, item) in enumerate(actions))


def write_data(home: Path, actions: Actions) -> None:
    """A data set in the layout of ml-latest-small; films have 1 to 3 of 5 genres, and one has none."""
    folder = home / "data" / "ml-latest-small"
    write_ratings(folder / "ratings.csv", actions)
    with (folder / "movies.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["movieId", "title", "genres"])
        for item in sorted({item for _, item in actions}):
            genres = [f"Genre {(item + i) % 5}" for i in range(1 + item % 3)] if item else ["(no genres listed)"]
            writer.writerow([item, f"Film {item}", "|".join(genres)])


def actions_with_new_last_items(n_users: int = 40, n_old: int = 30, n_new: int = 30) -> Actions:
    """Users with 5 to 11 actions whose last two items occur in no training part.

    The longer a model trains, the worse it ranks those items, so the best epoch is an early one.
    """
    actions = []
    for user in range(n_users):
        actions += [(user, (3 * user + (1 + user % 3) * step) % n_old) for step in range(3 + user % 7)]
        actions += [(user, n_old + (user + shift) % n_new) for shift in (0, 7)]
    return actions


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below ``directory``, to be compared before and after."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(answer: tuple[int, str, str], *words: str) -> bool:
    """Whether the command failed with one line that holds all ``words``. ``answer``: (exit code, stdout, stderr)."""
    code, _, err = answer
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert all(word in err for word in words), err
    return code != 0
