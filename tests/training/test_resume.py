"""Resuming continues bit for bit where training stopped, and refuses the state of another run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_helpers import IDENTITY, assert_equal, fit, losses, make_trainer, records, row_optimizers

from sairlib.data.sequences import Rows
from sairlib.errors import Stopped, UserError
from sairlib.run import checkpoint
from sairlib.run.log import RunLog
from sairlib.training import optimisers
from sairlib.training import trainer as module
from sairlib.training.trainer import Trainer


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(("sair", "ema"), [(False, 0.0), (True, 0.0), (False, 0.9)])
def test_four_epochs_are_two_and_two_more_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sair: bool, ema: float, rows: bool
) -> None:
    settings: dict[str, Any] = {"sair": sair, "epochs": 4, "schedule": "cosine", "warmup_steps": 4, "ema": ema}
    if rows:
        monkeypatch.setattr(optimisers, "RARELY", 0)
    else:
        settings["weight_decay"] = 0.1
    straight = make_trainer(**settings)
    assert bool(row_optimizers(straight)) == (rows and not ema)
    whole = fit(straight, tmp_path / "straight")

    first = make_trainer(**settings)
    log = RunLog(make_directory(tmp_path / "twice"))
    with pytest.raises(KeyboardInterrupt):
        first.fit(Interrupting(log, 2))  # type: ignore[arg-type]
    log.close()
    with (tmp_path / "twice" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "step": 9, "train": {}}\n{"epoch": 3, "st')  # what a killed process leaves
    torch.manual_seed(99)  # another process
    second = make_trainer(99, **settings)
    second.restore(checkpoint.load(tmp_path / "twice" / "last.pt"), tmp_path / "twice" / "last.pt")
    assert (second.progress.epoch, second.learner.n_steps) == (2, 6)
    assert fit(second, tmp_path / "twice") == whole
    assert_equal(second.state(), straight.state())
    for name in ("best.pt", "last.pt"):
        assert_equal(checkpoint.load(tmp_path / "twice" / name), checkpoint.load(tmp_path / "straight" / name))


def make_directory(directory: Path) -> Path:
    directory.mkdir()
    return directory


class Interrupting:
    """A log that stops the run in the middle of the epoch after ``epochs``."""

    def __init__(self, log: RunLog, epochs: int) -> None:
        self.log, self.epochs = log, epochs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def progress(self, batches: list[int], title: str) -> Iterator[int]:
        for i, rows in enumerate(batches):
            if i == 1 and title == f"epoch {self.epochs + 1}":
                raise KeyboardInterrupt
            yield rows


def test_a_finished_run_resumes_to_nothing(tmp_path: Path) -> None:
    done = make_trainer()
    records = fit(done, tmp_path)
    again = make_trainer()
    again.restore(checkpoint.load(tmp_path / "last.pt"), tmp_path / "last.pt")
    assert fit(again, tmp_path) == records
    assert_equal(again.model.state_dict(), done.model.state_dict())


def test_a_state_of_something_else_is_refused_whole(tmp_path: Path) -> None:
    fit(make_trainer(epochs=1), tmp_path)
    state = checkpoint.load(tmp_path / "last.pt")
    for wrong in (
        {**state, "identity": {**IDENTITY, "data and split": "line"}},
        {key: value for key, value in state.items() if key != "generator"},
        checkpoint.load(tmp_path / "best.pt"),  # weights alone
    ):
        trainer = make_trainer(5)
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        with pytest.raises(UserError, match=r"^last\.pt [^\n]*$"):
            trainer.restore(wrong, Path("last.pt"))
        assert_equal(dict(trainer.model.state_dict()), before)
        assert trainer.progress.epoch == 0 and not trainer.learner.optimizers[0].state_dict()["state"]


class Stopping:
    """A log that asks the trainer to stop, or to save, when it is about to take the step of this number."""

    def __init__(self, log: RunLog, trainer: Trainer, step: int, request: str) -> None:
        self.log, self.trainer, self.at, self.request = log, trainer, step, request

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def progress(self, batches: list[int], title: str) -> Iterator[int]:
        for rows in batches:
            if self.trainer.learner.n_steps == self.at:
                setattr(self.trainer.requests, self.request, True)
            yield rows


@pytest.mark.parametrize("step", range(9))
@pytest.mark.parametrize("kind", ["dense", "rows", "sair"])
def test_a_training_that_is_stopped_inside_an_epoch_ends_like_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: int
) -> None:
    settings: dict[str, Any] = {"sair": kind == "sair", "epochs": 3, "schedule": "linear", "eval_every": 2}
    monkeypatch.setattr(module, "FLUSH", 2)
    if kind == "rows":
        monkeypatch.setattr(optimisers, "RARELY", 0)
    straight = make_trainer(**settings)
    assert bool(row_optimizers(straight)) == (kind == "rows") and straight.steps_per_epoch == 3
    whole = fit(straight, tmp_path / "straight")

    first, place = make_trainer(**settings), tmp_path / "twice"
    log = RunLog(make_directory(place))
    with pytest.raises(Stopped):
        first.fit(Stopping(log, first, step, "stop"))  # type: ignore[arg-type]
    log.close()
    assert first.learner.n_steps == step + 1
    torch.manual_seed(99)  # another process
    second = make_trainer(99, **settings)
    second.restore(checkpoint.load(place / "last.pt"), place / "last.pt")
    assert fit(second, place) == whole
    assert_equal(second.state(), straight.state())
    assert curves(place) == curves(tmp_path / "straight"), "a gap, or a point twice"
    for name in ("best.pt", "last.pt"):
        assert_equal(checkpoint.load(place / name), checkpoint.load(tmp_path / "straight" / name))


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve on TensorBoard but those of times: (step, value), by step.

    TensorBoard reads files by name: of two that a process begins in one second, the 10th comes before the 9th.
    """
    board = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    names = [name for name in board.Tags()["scalars"] if not name.endswith(("_second", "_seconds"))]
    return {name: sorted((point.step, point.value) for point in board.Scalars(name)) for name in names}


def test_a_kill_after_a_save_inside_an_epoch_loses_only_the_steps_since(tmp_path: Path) -> None:
    straight = make_trainer(save_every=2)
    whole = fit(straight, tmp_path / "straight")
    killed = make_trainer(save_every=2)
    log = RunLog(make_directory(tmp_path / "twice"))
    step = killed.learner.step

    def dying(rows: Rows) -> Any:
        if killed.learner.n_steps == 5:
            raise KeyboardInterrupt  # nothing is saved on this way out
        return step(rows)

    killed.learner.step = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        killed.fit(log)
    log.close()
    state = checkpoint.load(tmp_path / "twice" / "last.pt")
    assert (state["step"], state["epoch"]["done"], state["progress"]["epoch"]) == (4, 1, 1)
    again = make_trainer(5, save_every=2)
    again.restore(state, "last.pt")
    assert fit(again, tmp_path / "twice") == whole
    assert_equal(again.state(), straight.state())


def test_a_request_to_save_is_answered_once_and_training_goes_on(tmp_path: Path) -> None:
    straight = make_trainer()
    whole = fit(straight, tmp_path / "straight")
    trainer, answered = make_trainer(), []
    trainer.requests.saved = lambda: answered.append(trainer.learner.n_steps)
    log = RunLog(make_directory(tmp_path / "run"))
    trainer.fit(Stopping(log, trainer, 4, "save"))  # type: ignore[arg-type]
    log.close()
    assert answered == [5] and not trainer.requests.save
    assert losses(whole) == losses(records(tmp_path / "run"))
    assert_equal(trainer.state(), straight.state())


def test_a_stop_during_validation_is_answered_at_once_and_validation_is_repeated(tmp_path: Path) -> None:
    straight = make_trainer()
    whole = fit(straight, tmp_path / "straight")
    stopped = make_trainer()
    rank, calls = stopped.evaluator.rank, []

    def signalled(model: Any, part: Any) -> Any:
        calls.append(part)
        if len(calls) == 2:
            assert stopped.requests.at_once
            raise Stopped
        return rank(model, part)

    stopped.evaluator.rank = signalled  # type: ignore[method-assign]
    log = RunLog(make_directory(tmp_path / "twice"))
    with pytest.raises(Stopped):
        stopped.fit(log)
    log.close()
    assert not stopped.requests.at_once
    again = make_trainer(5)
    again.restore(checkpoint.load(tmp_path / "twice" / "last.pt"), "last.pt")
    assert fit(again, tmp_path / "twice") == whole
    assert_equal(again.state(), straight.state())
    assert curves(tmp_path / "twice") == curves(tmp_path / "straight")
