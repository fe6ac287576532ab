"""The training loop: it is repeatable, and keeps the best weights, not the last."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trainer_helpers import assert_equal, fit, losses, make_trainer, row_optimizers

from sairlib.batch import Batch
from sairlib.data.split import Part
from sairlib.errors import NonFiniteError, UserError
from sairlib.models.sasrec import SASRec
from sairlib.run import checkpoint
from sairlib.training import optimisers
from sairlib.training.settings import OPTIMIZERS, TrainingSettings
from sairlib.training.step import learning_rate
from sairlib.training.trainer import Trainer


def test_it_learns(tmp_path: Path) -> None:
    records = fit(make_trainer(epochs=30, eval_every=30), tmp_path)
    assert losses(records)[-1] < 0.6 * losses(records)[0]
    assert records[-2]["validation"]["sampled/hr@10"] > 0.8


def test_the_same_seed_gives_the_same_run_to_the_byte(tmp_path: Path) -> None:
    first, second, other = (fit(make_trainer(seed), tmp_path / name) for seed, name in ((1, "a"), (1, "b"), (2, "c")))
    assert json.dumps(first) == json.dumps(second)
    assert losses(first) != losses(other)
    assert_equal(checkpoint.load(tmp_path / "a" / "last.pt"), checkpoint.load(tmp_path / "b" / "last.pt"))
    assert [record["epoch"] for record in first] == [1, 1, 2, 2, 3, 3]
    assert first[-1]["step"] == 3 * 3  # 40 people in batches of 16


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_the_first_step_of_each_optimizer_is_that_of_its_paper(optimizer: str, weight_decay: float) -> None:
    """From an empty state, Adam and Adagrad both move by lr against the gradient's sign, whatever its size."""
    trainer = make_trainer(optimizer=optimizer, weight_decay=weight_decay, dropout=0.0)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.learner.step(trainer.store.epoch(16, 1, trainer.learner.generator)[0])
    for weights, old in zip(trainer.model.parameters(), before, strict=True):
        assert weights.grad is not None
        gradient, shrunk = weights.grad, old
        if optimizer == "adamw":
            shrunk = old - 0.01 * weight_decay * old
        else:
            gradient = gradient + weight_decay * old
        sure = gradient.abs() > 1e-4  # beside which the optimizers' epsilon is nothing
        torch.testing.assert_close(weights[sure], (shrunk - 0.01 * gradient.sign())[sure], rtol=0, atol=2e-6)
        assert sure.float().mean() > 0.3


def scripted(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, figures: list[float]) -> None:
    """Make validation return these figures, in turn."""
    values = iter(figures)

    class Scripted:
        def means(self, ks: tuple[int, ...]) -> dict[str, float]:
            return {"ndcg@10": next(values)}

    def rank(model: object, part: Part) -> Any:
        return {"sampled": Scripted()} if part is Part.VALIDATION else None

    monkeypatch.setattr(trainer.evaluator, "rank", rank)


@pytest.mark.parametrize(
    ("settings", "figures", "stopped", "best"),
    [
        ({"patience": 2}, [0.1, 0.3, 0.2, 0.3, 0.9], 4, 2),  # level is not better
        ({"patience": 0}, [0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 9, 1),
        ({"patience": 3, "eval_every": 2}, [0.3, 0.2, 0.1, 0.9], 6, 2),
        ({"patience": 1, "eval_every": 2}, [0.3, 0.4, 0.4, 0.9], 6, 4),  # shorter than between two looks
        ({"patience": 50, "eval_every": 4}, [0.1, 0.2, 0.3], 9, 9),  # the last epoch is always looked at
        ({"patience": 1, "eval_every": 20}, [0.0], 9, 9),
    ],
)
def test_early_stop_and_best_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, int],
    figures: list[float],
    stopped: int,
    best: int,
) -> None:
    trainer = make_trainer(epochs=9, batch_size=40, **settings)
    scripted(trainer, monkeypatch, figures)
    weights = {}
    save = checkpoint.save

    def watched(path: Path, state: dict[str, Any]) -> None:
        if path.name == "last.pt":
            weights[state["progress"]["epoch"]] = {name: tensor.clone() for name, tensor in state["model"].items()}
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", watched)
    fit(trainer, tmp_path)
    assert max(weights) == trainer.progress.epoch == stopped
    assert trainer.progress.best_epoch == best
    best_checkpoint = checkpoint.load(tmp_path / "best.pt")
    assert best_checkpoint["epoch"] == best
    assert_equal(best_checkpoint["model"], weights[best])


def test_schedules() -> None:
    def rates(**settings: Any) -> list[float]:
        chosen = TrainingSettings(lr=0.4, **settings)
        return [learning_rate(chosen, step, 8) for step in range(8)]

    assert rates() == [0.4] * 8
    assert rates(schedule="linear") == pytest.approx([0.4 * (1 - step / 8) for step in range(8)])
    assert rates(schedule="linear", warmup_steps=3) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.32, 0.24, 0.16, 0.08])
    cosine = rates(schedule="cosine", warmup_steps=4)
    assert cosine == pytest.approx([0.08, 0.16, 0.24, 0.32, *(0.2 * (1 + math.cos(math.pi * s / 4)) for s in range(4))])
    assert rates(warmup_steps=20) == pytest.approx([0.4 * (step + 1) / 21 for step in range(8)])


def test_the_rate_reaches_the_optimiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(schedule="linear", warmup_steps=2, epochs=2)
    seen = []
    optimizer = trainer.learner.optimizers[0]
    step = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: (seen.append(optimizer.param_groups[0]["lr"]), step()))
    fit(trainer, tmp_path)
    assert seen == [learning_rate(trainer.settings, i, 6) for i in range(6)]


def gradient_norm(trainer: Trainer) -> float:
    return float(torch.sqrt(sum((p.grad**2).sum() for p in trainer.model.parameters() if p.grad is not None)))  # type: ignore[arg-type]


def test_clipping_bounds_the_gradient_and_logs_what_it_was(tmp_path: Path) -> None:
    logged, left = [], []
    for limit in (0.0, 0.01):
        trainer = make_trainer(grad_clip=limit, epochs=1, batch_size=1000)  # a single step
        records = fit(trainer, tmp_path / str(limit))
        logged += [record["train"]["gradient_norm"] for record in records if "train" in record]
        left.append(gradient_norm(trainer))
    assert logged[0] == pytest.approx(left[0]) and logged[0] > 0.01
    assert logged[1] == pytest.approx(logged[0])
    assert left[1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("sair", [False, True])
def test_a_batch_in_pieces_is_the_same_batch(sair: bool) -> None:
    # Without dropout and without negatives a step draws nothing: pieces change only rounding.
    whole, pieces = make_trainer(sair=sair, dropout=0.0), make_trainer(sair=sair, dropout=0.0)
    rows = whole.store.epoch(1000, 8, whole.learner.generator)[0]  # all of them
    for trainer in (whole, pieces):
        trainer.store.unseen.sizes.zero_()
    whole.learner.steps_at_once, pieces.learner.steps_at_once = None, 40
    expected = whole.learner.step(rows)
    cut = pieces.store.pieces(rows, 40)
    assert len(cut) > 3
    assert sorted(torch.cat([piece.users_B for piece in cut]).tolist()) == sorted(rows.users_B.tolist())
    actual = pieces.learner.step(rows)
    assert actual.padded_steps < expected.padded_steps and actual.real_steps == expected.real_steps
    assert actual.figures.keys() == expected.figures.keys() and (len(expected.figures) > 2) == sair
    for name in expected.figures:
        torch.testing.assert_close(actual.figures[name], expected.figures[name])
    for one, other in zip(pieces.model.parameters(), whole.model.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_bf16_trains_and_keeps_fp32_weights(tmp_path: Path) -> None:
    expected = losses(fit(make_trainer(epochs=2), tmp_path / "fp32"))
    trainer = make_trainer(precision="bf16", epochs=2)
    actual = losses(fit(trainer, tmp_path / "bf16"))
    assert actual == pytest.approx(expected, rel=0.02) and actual != expected
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_trains_alike(tmp_path: Path) -> None:
    plain = make_trainer(epochs=1, dropout=0.0)  # dropout draws differently in a compiled graph
    expected = losses(fit(plain, tmp_path / "a"))
    actual = losses(fit(make_trainer(epochs=1, dropout=0.0, compile=True), tmp_path / "b"))
    assert actual == pytest.approx(expected, rel=1e-3)
    assert checkpoint.load(tmp_path / "b" / "best.pt")["model"].keys() == plain.model.state_dict().keys()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_of_nan_or_inf_stops_the_run_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    trainer = make_trainer(epochs=5)
    loss = trainer.learner.loss
    steps = iter(range(1, 100))

    def broken(model: SASRec, batch: Batch, share: float) -> dict[str, Tensor]:
        parts = loss(model, batch, share)
        return {"bce": parts["bce"] * (bad if next(steps) == 8 else 1.0)}

    trainer.learner.loss = broken
    with pytest.raises(NonFiniteError, match=r"^loss, bce.* became NaN or inf at step 8$"):
        fit(trainer, tmp_path)
    last_checkpoint = checkpoint.load(tmp_path / "last.pt")
    assert last_checkpoint["progress"]["epoch"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in last_checkpoint["model"].values())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), MemoryError()])
def test_too_little_memory_says_what_to_lower(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: SASRec, batch: Batch, share: float) -> dict[str, Tensor]:
        raise error

    trainer = make_trainer()
    monkeypatch.setattr(trainer.learner, "loss", full)
    with pytest.raises(UserError, match=r"not enough memory for a training step: lower training.batch_size=\d+"):
        fit(trainer, tmp_path)


@pytest.mark.parametrize("monitor", ["full/ndcg@10", "sampled/ndcg@5", "ndcg@10", "sampled", "sampled/auc"])
def test_a_monitor_that_is_not_measured_is_refused(monitor: str) -> None:
    with pytest.raises(UserError, match="is not measured: rankings are sampled, metrics hr@10, mrr, ndcg@10"):
        make_trainer(monitor=monitor)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"eval_every": 0},
        {"lr": 0.0},
        {"lr": -1.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"betas": (0.9, 1.0)},
        {"weight_decay": -0.1},
        {"weight_decay": math.nan},
        {"grad_clip": -1.0},
        {"grad_clip": math.nan},
        {"patience": -1},
        {"warmup_steps": -1},
        {"schedule": "step"},
        {"precision": "fp16"},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^training\.{next(iter(settings))}="):
        TrainingSettings(**settings)


@pytest.mark.parametrize("sair", [False, True])
def test_updating_a_large_table_by_rows_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sair: bool
) -> None:
    """Losses and weights, to rounding."""
    whole = make_trainer(sair=sair, schedule="linear")
    expected = fit(whole, tmp_path / "whole")
    monkeypatch.setattr(optimisers, "RARELY", 0)
    by_rows = make_trainer(sair=sair, schedule="linear")
    assert row_optimizers(by_rows) and not row_optimizers(whole)
    actual = fit(by_rows, tmp_path / "by_rows")
    np.testing.assert_allclose(losses(actual), losses(expected), rtol=1e-4)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(by_rows.model.state_dict()[name], value, rtol=1e-2, atol=1e-3, msg=name)
