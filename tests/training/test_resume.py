"""Resuming continues bit for bit where training stopped, and refuses the state of another run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import IDENTITY, assert_equal, fit, make_trainer, row_optimizers

from sairlib.data.sequences import Rows
from sairlib.errors import UserError
from sairlib.run import checkpoint
from sairlib.run.log import RunLog
from sairlib.training import optimisers


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("sair", [False, True])
def test_four_epochs_are_two_and_two_more_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sair: bool, rows: bool
) -> None:
    settings: dict[str, Any] = {"sair": sair, "epochs": 4, "schedule": "cosine", "warmup_steps": 4}
    if rows:
        monkeypatch.setattr(optimisers, "RARELY", 0)
    else:
        settings["weight_decay"] = 0.1
    straight = make_trainer(**settings)
    assert bool(row_optimizers(straight)) == rows
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
    assert (second.progress.epoch, second.progress.step) == (2, 6)
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

    def progress(self, batches: list[Rows], title: str) -> Iterator[Rows]:
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
        assert trainer.progress.epoch == 0 and not trainer.optimizers[0].state_dict()["state"]
