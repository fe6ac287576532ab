"""What training says about itself: how long things took, how much was padding, how large the gradient was."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_helpers import make_trainer

from sairlib.training import trainer as module
from sairlib.training.trainer import FLUSH, Trainer


class Kept:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.groups: dict[str, list[dict[str, float]]] = {}
        self.records: list[dict[str, Any]] = []

    def say(self, line: str) -> None: ...

    def progress(self, items: list[Any], title: str) -> Iterable[Any]:
        return items

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        self.groups.setdefault(group, []).append(values)

    def diagnosis(self, values: dict[str, torch.Tensor], step: int) -> None: ...

    def record(self, epoch: int, step: int, **values: Any) -> None:
        self.records.append(values)

    def save(self, name: str, state: dict[str, Any]) -> None: ...


def timed(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Trainer, Kept]:
    """A run by a clock on which a step takes 2 seconds, a ranking 5, and nothing else any time."""
    trainer, log, clock = make_trainer(**settings), Kept(), SimpleNamespace(now=1000.0)

    def takes(seconds: float, function: Any) -> Any:
        def slow(*given: Any) -> Any:
            clock.now += seconds
            return function(*given)

        return slow

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(trainer.learner, "step", takes(2.0, trainer.learner.step))
    monkeypatch.setattr(trainer.evaluator, "rank", takes(5.0, trainer.evaluator.rank))
    trainer.fit(log)
    return trainer, log


def test_times_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, log = timed(monkeypatch, epochs=4, eval_every=2, batch_size=16)  # 3 batches an epoch
    tokens = trainer.store.n_train_steps
    epochs = [values for values in log.groups["speed"] if "steps_per_second" in values]
    assert [values["steps_per_second"] for values in epochs] == [3 / 6] * 4
    assert [values["tokens_per_second"] for values in epochs] == pytest.approx([tokens / 6] * 4)
    rankings = [values["validation_seconds"] for values in log.groups["speed"] if "validation_seconds" in values]
    assert rankings == [5.0, 5.0]
    assert [record["seconds"] for record in log.records if "train" in record] == [6.0] * 4
    assert [record["seconds"] for record in log.records if "validation" in record] == [5.0] * 2
    assert trainer.progress.seconds == 4 * 6 + 2 * 5


def test_the_share_of_padding_is_over_all_batches_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, log = timed(monkeypatch, epochs=1, batch_size=1000)
    lengths_U = trainer.store.train_steps(trainer.store.train_users)
    (values,) = (values for values in log.groups["speed"] if "padding_share" in values)
    assert values["padding_share"] == pytest.approx(1 - float(lengths_U.double().mean() / lengths_U.max()))
    assert 0.05 < values["padding_share"] < 0.95
    trainer, log = timed(monkeypatch, epochs=1, batch_size=1)
    (values,) = (values for values in log.groups["speed"] if "padding_share" in values)
    assert values["padding_share"] == 0.0


@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_gradient_s_norm_is_written_down_however_many_steps_there_are(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of an epoch it is that of its last step; more than ``FLUSH`` steps are looked at several times."""
    trainer, log = timed(monkeypatch, epochs=1, batch_size=batch_size)
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    looks = log.groups["train"]
    assert len(looks) == (2 if batch_size == 1 else 1) and trainer.steps_per_epoch == (40 if batch_size == 1 else 3)
    assert trainer.steps_per_epoch in (3, 2 * FLUSH)
    assert looks[-1]["gradient_norm"] == pytest.approx(float(torch.nn.utils.get_total_norm(gradients)))
    (epoch,) = log.groups["epoch"]
    assert epoch["gradient_norm"] == pytest.approx(sum(look["gradient_norm"] for look in looks) / len(looks))


def test_an_epoch_s_loss_is_the_mean_over_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    _, log = timed(monkeypatch, epochs=1, batch_size=1)
    looks = [look["loss"] for look in log.groups["train"]]
    assert log.records[-1]["train"]["loss"] == pytest.approx(sum(looks) / len(looks)), "two looks of 20 steps each"
    assert looks[0] != looks[1]
