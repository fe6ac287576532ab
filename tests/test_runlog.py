"""What a run writes down: plots, records, whole files; on resuming, what came after the checkpoint is dropped."""

import json
import os
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sairlib.errors import UserError
from sairlib.runlog import RunLog, write_json, write_whole


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


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test.json"
    write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"could not write .*test\.json \(No space left on device\)$"):
        write_whole(path, "new")
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert [file.name for file in tmp_path.iterdir()] == ["test.json"]
    with pytest.raises(UserError, match="could not write"):
        write_whole(tmp_path / "gone" / "test.json", "new")
