"""What a run writes: plots, records, checkpoints. Resuming drops what came after the checkpoint."""

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import backend_context, get_experiment
from tensorboard.plugins.hparams.api_pb2 import GetExperimentRequest

from sairlib.errors import UserError
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
    names = {"1 train/loss", "1 train/bce", "6 diagnosis/entropy", "6 diagnosis/share/1", "4 test/full/mrr"}
    assert names <= {*tags["scalars"]}
    assert "config/text_summary" in tags["tensors"]
    assert points(tmp_path, "6 diagnosis/share/1") == [(3, 1.5)]
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
    assert points(tmp_path, "1 train/loss") == [(10, 1.0), (20, 2.0), (30, 9.0)]


def test_loss_and_validation_stand_first_on_the_page_and_diagnosis_last(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path)) as log:
        for group in ("diagnosis", "speed", "validation", "epoch", "train", "mine"):
            log.scalars(group, {"x": 1.0}, 1)
        log.final({"seed": 1}, {"test/full/mrr": 0.25})
    board = EventAccumulator(str(tmp_path)).Reload()
    groups = sorted({tag.partition("/")[0] for tag in board.Tags()["scalars"]})  # as TensorBoard sorts them
    assert groups == ["1 train", "2 validation", "3 epoch", "4 test", "5 speed", "6 diagnosis", "mine"]


def test_the_hparams_page_shows_seed_rate_and_the_monitored_figure_first(tmp_path: Path) -> None:
    """What TensorBoard itself answers to its page, which shows the first five of each."""
    settings = {
        **{"model._target_": "a.B", "model.d": 8, "model.dropout": 0.2, "loss.beta": 1.0},
        **{"training.epochs": 5, "training.lr": 0.01, "training.monitor": "full/ndcg@10", "seed": 3},
    }
    metrics = {f"test/{ranking}/{name}": 0.5 for ranking in ("sampled", "full") for name in ("hr@5", "ndcg@10", "mrr")}
    for run in ("one", "two"):
        with closing(RunLog(make_directory(tmp_path / run))) as log:
            log.final(settings, metrics)
    board = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(board, str(tmp_path))
    hparams = backend_context.Context(TBContext(data_provider=provider, logdir=str(tmp_path)))
    context = RequestContext()
    runs = hparams.hparams_metadata(context, "")
    assert set(runs) == {"one", "two"}
    page = get_experiment.Handler(context, hparams, "", GetExperimentRequest()).run()
    shown = [info.name for info in page.hparam_infos[:5]]
    assert shown == ["model._target_", "model.d", "model.dropout", "seed", "training.lr"]
    assert {info.name for info in page.hparam_infos} == set(settings)
    shown = [info.display_name for info in page.metric_infos]
    assert shown[:3] == ["test/full/ndcg@10", "test/sampled/hr@5", "test/sampled/ndcg@10"]
    assert [info.name.tag for info in page.metric_infos] == [f"4 {name}" for name in shown]
    assert points(tmp_path / "one", "4 test/full/ndcg@10") == [(0, 0.5)]


def make_directory(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_damaged_records_are_dropped_with_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = [b"\xff\xfe", b'{"epoch": NaN}', b'{"epoch": 1e999}', b"[" * 100_000, b'{"epoch": "1"}', b"[1]", b"{}"]
    good = b'{"epoch": 1, "step": 3}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + b"\n".join(damaged) + b'\n{"epoch": 2}\n{"epo')
    RunLog(tmp_path, 1, 3).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == good
    assert capsys.readouterr().out == f"{tmp_path / 'metrics.jsonl'}: {len(damaged)} damaged lines are dropped\n"


@pytest.mark.skipif(os.name != "posix", reason="no FIFOs there")
def test_a_record_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl \(it is not a file\)"):
        RunLog(tmp_path, 1, 3)


def test_a_directory_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^could not write the record in .*gone \(there is no directory .*gone\)$"):
        RunLog(tmp_path / "gone", 1, 3)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.save("last.pt", {})
    log._jsonl.close()
    log._jsonl = open("/dev/full", "a", buffering=1)  # noqa: SIM115
    with pytest.raises(UserError, match=r"\(No space left on device\); last\.pt is intact: resume from it$"):
        log.record(1, 3)
    with pytest.raises(UserError, match="No space left on device"):
        log.close()
