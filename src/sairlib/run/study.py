"""A study: all objects of a run, assembled once; its result; and a finished run."""

import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sairlib import processes
from sairlib.data import statistics, statistics_text
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part, Split
from sairlib.errors import Stopped, UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import Ranks
from sairlib.files import write_json
from sairlib.models.recommender import Recommender
from sairlib.nn.layers import UserTable
from sairlib.run import changes, checkpoint, distributed, report, runtime
from sairlib.run.directory import CONFIG, STATE, RunDirectory, how_to_resume, shown
from sairlib.run.log import RunLog, Silent
from sairlib.run.median import MedianRule
from sairlib.run.signals import answered
from sairlib.training.objectives import Objective
from sairlib.training.state import load_weights
from sairlib.training.trainer import Trainer


@dataclass(frozen=True)
class About:
    """What the record of a run needs beside its objects."""

    command: str
    dataset: str
    seed: int
    documents: Mapping[str, str] = field(default_factory=dict)
    """Texts to store in the run directory, by file name: config.yaml, the words of the command line."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Hyper-parameters by their dotted names, for TensorBoard."""
    preparing: float = 0.0
    """Seconds spent on the data and the objects."""


@dataclass(frozen=True)
class Result:
    """The result of a study. The test split was evaluated once, with the weights that validation chose."""

    directory: Path
    best_epoch: int
    validation: dict[str, float]
    """Validation figures of the best epoch, by ``ranking/metric``."""
    test: dict[str, Any]
    """The content of ``test.json``: figures by ranking and metric, intervals, hashes."""
    ranks: dict[str, Ranks]
    """Ranks of the test targets, by the name of the ranking."""

    def __str__(self) -> str:
        return report.table(self.test)


class Study:
    """A split, store, model, objective, evaluator and trainer that belong together. A study runs once."""

    def __init__(
        self,
        split: Split,
        store: SequenceStore,
        model: Recommender,
        objective: Objective,
        evaluator: Evaluator,
        trainer: Trainer,
        about: About,
    ) -> None:
        self.split = split
        self.store = store
        self.model = model
        self.objective = objective
        self.evaluator = evaluator
        self.trainer = trainer
        self.about = about
        self._random = torch.get_rng_state()  # so that random draws between here and run() change nothing

    def run(self, directory: str | Path, resume: bool = False) -> Result:
        """Train, choose the best weights by validation, test once, and write everything into ``directory``, a new one.

        With ``resume``, continue the run in ``directory`` instead: from its ``last.pt``, or from the beginning if it
        was killed before it had one. Of a finished run nothing is repeated.

        UserError if the study has run, if the directory holds another run or cannot be written, or if the run to resume
        belongs to another study or has other settings. NonFiniteError if a loss or score becomes NaN or inf.
        """
        if self.trainer.learner.n_steps or self.trainer.progress.epoch:
            raise UserError("this study has already run: assemble another one with sairlib.study(...)")
        with RunDirectory(Path(directory), resume) as place:
            return self.run_in(place)

    def run_in(self, place: RunDirectory, rule: MedianRule | None = None) -> Result:
        """As ``run``, in a directory that is held already. ``rule`` may end the training early."""
        directory, trainer = place.path, self.trainer
        if rule is not None:
            trainer.hopeless = rule.stops
        if place.resumed:
            self._check_settings(directory)
        state = checkpoint.load(directory / STATE) if place.has_state else None
        torch.set_rng_state(self._random)
        if state is not None:
            trainer.restore(state, directory / STATE)
            finished = self._finished(directory)
            if finished is not None:
                return finished
        elif place.resumed:
            place.clear_record()
        record = self._open(place)
        with answered(trainer.requests) as signals, closing(self._log(directory)) as log:
            self._introduce(log)
            if place.resumed and state is None:
                log.say(f"{directory} has no checkpoint yet: the run starts from the beginning")
            try:
                trainer.fit(log)
                return self._test(directory, record, log)
            except Stopped:
                log.say(f"stopped, and saved; resume it by: {how_to_resume(directory)}")
                signals.end()
                raise
            except RuntimeError as error:
                if not distributed.lost_another(error):
                    raise
                raise UserError(
                    f"another process of this run has ended, so this one cannot go on; resume the run, with as many"
                    f" processes or others, by: {how_to_resume(directory)}"
                ) from error

    def _log(self, directory: Path) -> "RunLog | Silent":
        """The run's log; of several processes only the first writes one."""
        if processes.rank():
            return Silent()
        return RunLog(directory, self.trainer.progress.epoch, self.trainer.learner.n_steps)

    def _check_settings(self, directory: Path) -> None:
        """UserError if the run in ``directory`` was started with settings that a resumed run may not change."""
        path, given = directory / CONFIG, self.about.documents.get(CONFIG)
        if given is None or not path.is_file():
            return
        differing = changes.differences(changes.read(path), changes.flat(given, CONFIG))
        changes.refuse({name: pair for name, pair in differing.items() if changes.is_refused(name, *pair)}, directory)

    def _finished(self, directory: Path) -> Result | None:
        """The stored result if nothing is left to train, and the best weights have been tested; else None."""
        progress = self.trainer.progress
        if not self.trainer.done:
            return None
        try:
            test = json.loads((directory / "test.json").read_text())
            if (test["best_epoch"], test["split_sha256"]) != (progress.best_epoch, self.split.sha256()):
                return None  # of an earlier end, before the run was resumed for longer
            if test.get("lists", {"k": 0})["k"] != self.evaluator.settings.lists:
                return None  # of a version that made no lists
            _, ranks = report.read_ranks(directory / "ranks.npz")
            table = report.table(test)
        except (OSError, ValueError, LookupError, TypeError):  # missing or damaged: it is made again
            return None
        if processes.rank() == 0:
            print(
                f"{table}\n\nthe run in {shown(directory)} is finished, at epoch {progress.epoch}: nothing is repeated"
            )
        return Result(directory, progress.best_epoch, progress.best, test, ranks)

    def _open(self, place: RunDirectory) -> dict[str, Any]:
        """Write the documents and ``run.json``; return the record, which ``_test`` completes."""
        drawn = self.evaluator.drawn
        record = {
            "command": self.about.command,
            **runtime.describe(self.store.device),
            "seed": self.about.seed,
            "dataset": self.about.dataset,
            "dataset_sha256": self.split.dataset.sha256(),
            "split_sha256": self.split.sha256(),
            "candidates_sha256": drawn.sha256() if drawn else None,
            "n_parameters": self.model.n_parameters(),
            "seconds": {"preparing": round(self.about.preparing, 3)},
        }
        place.write(self.about.documents)
        if processes.rank() == 0:
            write_json(place.path / "run.json", record)
        return record

    def _introduce(self, log: "RunLog | Silent") -> None:
        split, data, drawn = self.split, self.split.dataset, self.evaluator.drawn
        for name, text in self.about.documents.items():
            if name == "config.yaml":
                log.text("config", text)
        log.say(
            f"{self.about.dataset}: {data.n_users:,} users, {data.n_items:,} items, {len(data.items):,} actions,"
            f" {data.n_categories} categories; split {split.sha256()}"
        )
        for note in data.notes:
            log.say(note)
        for note in split.notes:
            log.say(f"split: {note}")
        ties = statistics.ties(split)
        if ties is not None and ties["users"]:
            log.say(f"the order of actions at the same time decided {statistics_text.held_out_ties(ties)}")
        if split.n_short and not split.notes:
            log.say(f"{split.n_short:,} users have too few actions to be evaluated: all their actions train")
        if drawn and drawn.n_short:
            log.say(f"{drawn.n_short:,} users have fewer unseen items than asked for: all of these are candidates")
        untrained = int((split.train_lengths[split.test.users_E] < 2).sum())
        if untrained and any(isinstance(module, UserTable) for module in self.model.modules()):
            log.say(
                f"{untrained:,} of the evaluated users have a single training action, so their user vectors are never"
                " trained; split.min_actions=4 excludes them"
            )
        log.say(f"{type(self.model).__name__}: {self.model.n_parameters():,} parameters on {self.store.device}")

    def _test(self, directory: Path, record: dict[str, Any], log: "RunLog | Silent") -> Result:
        """Rank the test targets with the best weights; write and print the result."""
        trainer, started = self.trainer, time.perf_counter()
        processes.wait()  # until the first has written best.pt
        best = checkpoint.load(directory / "best.pt", self.store.device)
        best_epoch = load_weights(self.model, best, trainer.identity, directory / "best.pt")
        with trainer.requests.answered_at_once():
            ranks = self.evaluator.rank(self.model, Part.TEST)
            test = report.results(self.evaluator, self.model, ranks, self.split, best_epoch)
        result = Result(directory, best_epoch, trainer.progress.best, test, ranks)
        if processes.rank():
            return result
        report.save_ranks(directory / "ranks.npz", ranks, self.split)
        write_json(directory / "test.json", test)
        record["seconds"] |= {
            "training_and_validation": round(trainer.progress.seconds, 3),
            "test": round(time.perf_counter() - started, 3),
        }
        write_json(directory / "run.json", {**record, "peak_memory_bytes": runtime.peak_memory_bytes()})
        groups = (*ranks, *(["lists"] if "lists" in test else []))
        figures = {f"test/{group}/{name}": value for group in groups for name, value in test[group].items()}
        log.final(dict(self.about.settings), figures)
        if best_epoch == trainer.settings.epochs:
            log.say("the best epoch is the last: more epochs would likely give better figures")
        log.say(f"\n{report.table(test)}")
        log.say(f"\nbest epoch {best_epoch}; everything is kept in {shown(directory)}")
        return result
