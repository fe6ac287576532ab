"""Finished runs, collected from their directories: which are the same system with other seeds, and their figures."""

import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sairlib.data.ids import Ids
from sairlib.data.order import Order
from sairlib.errors import UserError
from sairlib.evaluation.metrics import Floats
from sairlib.evaluation.rankings import TARGETS, TIME, EvaluationSettings, Ranks
from sairlib.run import changes
from sairlib.run.directory import CONFIG
from sairlib.run.report import read_ranks
from sairlib.training.settings import TrainingSettings

NOT_THE_SYSTEM = {
    *("seed", "run_dir", "resume", "device", "threads", "deterministic", "data", "hydra", "interests"),
    *("training.save_every", "evaluation.batch_size", "dataset.url", "dataset.archive", "dataset.path"),
}
"""Settings, or groups of them, that do not make another system of a run. (SAIR's settings repeat ``interests``.)"""
SETTINGS = {"training": TrainingSettings, "evaluation": EvaluationSettings, "split.order": Order}
"""What takes the groups of settings that have no ``_target_``."""


@dataclass(frozen=True)
class Finished:
    """What a finished run left."""

    directory: Path
    settings: Mapping[str, Any]
    """Its configuration by dotted names."""
    test: Mapping[str, Any]
    record: Mapping[str, Any]
    """The content of ``run.json``."""
    curve: tuple[tuple[int, dict[str, float]], ...]
    """Validation: epochs and their figures."""

    @property
    def dataset(self) -> str:
        return str(self.record["dataset"])

    @property
    def rises(self) -> bool:
        """Whether the best epoch is the last that was validated: with more epochs the figure might be better."""
        return bool(self.curve) and self.test["best_epoch"] >= self.curve[-1][0]

    def measured(self, ranking: str) -> dict[str, str]:
        """What figures of ``ranking`` must have in common to be compared: split, candidates if sampled, and how
        histories are seen."""
        candidates = self.test["candidates_sha256"] if ranking == "sampled" else None
        passes, histories = (
            self.settings.get(f"evaluation.{name}", usual) for name, usual in (("passes", TARGETS), ("histories", TIME))
        )
        return {
            **{"splits": str(self.test["split_sha256"]), "candidates": str(candidates)},
            **{"passes": str(passes), "orders of histories": str(histories)},
        }

    def ranks(self, ranking: str) -> tuple[Ids, Ranks]:
        """People and ranks of all targets; UserError if the run has no such ranking, or no file of ranks."""
        users, ranks = read_ranks(self.directory / "ranks.npz")
        if ranking not in ranks:
            raise UserError(f"{self.directory} has no ranking '{ranking}' (it has {', '.join(ranks)})")
        return users, ranks[ranking]

    def by_person(self, ranking: str, metric: str) -> tuple[Ids, Floats]:
        """The figure of each person, a mean over his or her targets, people ascending."""
        users, ranks = self.ranks(ranking)
        values = ranks.values(cutoffs(metric))
        _, first, codes = np.unique(users, return_index=True, return_inverse=True)
        return users[first], np.bincount(codes, values[metric]) / np.bincount(codes)


@dataclass(frozen=True)
class System:
    """Runs that differ in their seeds alone."""

    name: str
    runs: tuple[Finished, ...]

    def figures(self, ranking: str, metric: str) -> list[float]:
        """The figure of every run."""
        return [float(run.test[ranking][metric]) for run in self.runs]


def cutoffs(metric: str) -> tuple[int, ...]:
    """The K of ``ndcg@K``; none of ``mrr``. UserError for what is no metric."""
    name, _, k = metric.partition("@")
    if metric == "mrr":
        return ()
    if name not in ("hr", "ndcg") or not k.isdecimal() or not int(k[:9]) > 0:
        raise UserError(f"metric={metric}: must be like ndcg@10, hr@5 or mrr")
    return (int(k),)


def collect(directories: Iterable[Path]) -> tuple[list[Finished], list[str]]:
    """All finished runs in ``directories`` and below, and a line for each run that is not finished.

    UserError if a directory is missing, or if a finished run cannot be read.
    """
    found: dict[Path, Finished] = {}
    unfinished = []
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is not a directory: give run directories, or a grid's")
        for config in sorted(directory.rglob(CONFIG)):
            place = config.parent
            if place.name == ".hydra" or place in found:
                continue
            if (place / "test.json").is_file():
                found[place] = _read(place)
            else:
                unfinished.append(f"{place} is not finished")
    return list(found.values()), unfinished


def _read(directory: Path) -> Finished:
    try:
        test, record = (json.loads((directory / name).read_text()) for name in ("test.json", "run.json"))
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        curve = tuple((int(line["epoch"]), dict(line["validation"])) for line in lines if "validation" in line)
        finished = Finished(directory, changes.read(directory / CONFIG), test, record, curve)
        _ = finished.dataset, finished.rises, finished.measured("sampled"), [test[name] for name in test["ci95"]]
        return finished
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{directory} is not a finished run ({type(error).__name__}: {error})") from error


def systems(runs: Iterable[Finished]) -> list[System]:
    """Group runs that differ in their seeds alone, and name each group by its model and by what sets it apart."""
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        key = json.dumps(_of_the_system(run), sort_keys=True, default=str)
        groups.setdefault(key, []).append(run)
    listed = sorted(groups.values(), key=lambda group: (group[0].dataset, _model(group[0])))
    return [System(_name(group[0], [other[0] for other in listed]), tuple(_one_a_seed(group))) for group in listed]


def _one_a_seed(group: list[Finished]) -> list[Finished]:
    by_seed: dict[Any, Finished] = {}
    for run in group:
        other = by_seed.setdefault(run.settings.get("seed"), run)
        if other is not run:
            raise UserError(
                f"{other.directory} and {run.directory} are the same system with the same seed: give one of them"
            )
    return sorted(group, key=lambda run: run.settings.get("seed", 0))


def _of_the_system(run: Finished) -> dict[str, Any]:
    settings = {**_later(run.settings), **run.settings}
    return {name: value for name, value in settings.items() if not {name, name.partition(".")[0]} & NOT_THE_SYSTEM}


def _later(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of all options of the run's parts: an option that is younger than the run did not change it."""
    parts = {name.removesuffix("._target_"): path for name, path in settings.items() if name.endswith("._target_")}
    takers = {part: _named(path) for part, path in parts.items()} | SETTINGS
    return {
        f"{part}.{option.name}": option.default
        for part, taker in takers.items()
        if taker is not None
        for option in inspect.signature(taker).parameters.values()
        if option.default is None or isinstance(option.default, bool | int | float | str)
    }


def _named(path: Any) -> Callable[..., Any] | None:
    """What stands at a path within sairlib; None if there is no such thing now, or if it is somebody else's."""
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None) if module.startswith("sairlib.") else None
    except ImportError:
        return None
    return found if callable(found) else None


def _model(run: Finished) -> str:
    return str(run.settings.get("model._target_", "?")).rpartition(".")[2]


def _name(run: Finished, all_runs: list[Finished]) -> str:
    """The model's class, and the settings in which it differs from most of the same model's systems on the same data.

    If no value of a setting is that of more than two thirds of them, all show theirs.
    """
    own = _of_the_system(run)
    others = [
        _of_the_system(other) for other in all_runs if _model(other) == _model(run) and other.dataset == run.dataset
    ]
    usual = 2 / 3 * len(others)
    differing = [name for name in own if sum(other.get(name) == own[name] for other in others) <= usual]
    shown = [f"{name.removeprefix('model.')}={own[name]}" for name in differing if not name.startswith("dataset.")]
    return " ".join([_model(run), *shown])
