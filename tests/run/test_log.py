"""What a run writes: plots, records, checkpoints. Resuming drops what came after the checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sairlib.run import checkpoint
from sairlib.run.log import RunLog


def points(directory: Path, tag: str) -> list[tuple[int, float]]:
    board = EventAccumulator(str(directory))
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars(tag)]


def test_everything_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path)
    log.text("config", "seed: 1")
    log.scalars("train", {"loss": 0.5, "bce": 0.25}, 3)
    log.diagnosis({"entropy": torch.tensor(0.75), "share": torch.tensor([0.5, 1.5])}, 3)
    log.record(1, 3, train={"loss": 0.5}, seconds=1.5)
    log.final({"model.d": 8, "ks": [1, 2], "none": None, "on": True}, {"test/full/mrr": 0.25})
    log.save("last.pt", {"model": {"weight": torch.ones(2)}})
    log.say("hello")
    assert list(log.progress([1, 2], "epoch")) == [1, 2]
    log.close()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    tags = board.Tags()
    assert {"train/loss", "train/bce", "diagnosis/entropy", "diagnosis/share/1", "test/full/mrr"} <= {*tags["scalars"]}
    assert "config/text_summary" in tags["tensors"]
    assert points(tmp_path, "diagnosis/share/1") == [(3, 1.5)]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "epoch": 1,
        "step": 3,
        "train": {"loss": 0.5},
        "seconds": 1.5,
    }
    assert checkpoint.load(tmp_path / "last.pt")["model"]["weight"].tolist() == [1, 1]
    captured = capsys.readouterr()
    assert captured.out == "hello\n"
    assert captured.err == ""  # no bar where nobody watches


def test_resuming_drops_what_came_after(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for epoch in (1, 2, 3):
        log.record(epoch, 10 * epoch, run=1)
        log.scalars("train", {"loss": float(epoch)}, 10 * epoch)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "st')
    log = RunLog(tmp_path, 2, 20)
    log.record(3, 30, run=2)
    log.scalars("train", {"loss": 9.0}, 30)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["run"]) for line in lines] == [(1, 1), (2, 1), (3, 2)]
    assert points(tmp_path, "train/loss") == [(10, 1.0), (20, 2.0), (30, 9.0)]
