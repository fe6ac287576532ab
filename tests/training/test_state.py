"""A state whose content is wrong but well-formed is refused in one line, and nothing of it is loaded."""

import copy
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import Stopping, assert_equal, make_trainer

from sairlib.errors import Stopped, UserError
from sairlib.run import checkpoint
from sairlib.training import optimisers, state
from sairlib.training.trainer import Trainer

PLACE = Path("last.pt")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module", params=["adam", "adagrad", "rows"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes trainers of the same settings, and the state that such a trainer stored."""
    patch = pytest.MonkeyPatch()
    settings: dict[str, Any] = {"epochs": 2}
    if request.param == "rows":
        patch.setattr(optimisers, "RARELY", 0)
    else:
        settings["optimizer"] = request.param
        settings["weight_decay"] = 0.01
    directory = tmp_path_factory.mktemp("run")
    first = make_trainer(**settings)
    log = Stopping(directory)
    log.requests = first.requests
    with closing(log), pytest.raises(Stopped):
        first.fit(log)
    yield lambda: make_trainer(3, **settings), checkpoint.load(directory / "last.pt"), first
    patch.undo()


def test_what_was_stored_fits_and_is_loaded(trained: Any) -> None:
    make, stored, first = trained
    trainer = make()
    trainer.restore(copy.deepcopy(stored), PLACE)
    there = loaded(trainer)
    assert torch.equal(there.pop("random"), stored["random"][0]["cpu"])
    assert_equal(there, {key: value for key, value in loaded(first).items() if key != "random"})


def loaded(trainer: Trainer) -> dict[str, Any]:
    """All that a state is loaded into."""
    return {
        "model": trainer.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.learner.optimizers],
        "progress": asdict(trainer.progress),
        "step": trainer.learner.n_steps,
        "epoch": trainer.epoch and asdict(trainer.epoch),
        "generator": trainer.learner.generator.get_state(),
        "random": torch.get_rng_state(),
    }


def at(*path: Any, to: Any) -> Change:
    """Replace the value at this path; a function gets the value."""

    def change(stored: dict[str, Any]) -> None:
        place: Any = stored
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to(place[path[-1]]) if callable(to) else to

    return change


def some(part: str, *, to: Any) -> Change:
    """Replace a part of the first weight's state."""

    def change(stored: dict[str, Any]) -> None:
        states = next(one["state"] for one in stored["optimizers"] if part in next(iter(one["state"].values())))
        at(next(iter(states)), part, to=to)(states)

    return change


def first_weight(to: Any) -> Change:
    return lambda stored: at(next(iter(stored["model"])), to=to)(stored["model"])


def no_value(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, math.nan)


EVERY: dict[str, Change] = {
    "integer weights": first_weight(lambda weight: weight.int()),
    "complex weights": first_weight(lambda weight: weight + 0j),
    "NaN weights": first_weight(no_value),
    "sparse weights": first_weight(lambda weight: weight.to_sparse()),
    "no weights": at("model", to={}),
    "negative epoch": at("progress", "epoch", to=-1),
    "epoch without end": at("progress", "epoch", to=10**100),
    "epoch that is a word": at("progress", "epoch", to="1"),
    "epoch that is true": at("progress", "epoch", to=True),
    "steps with a point": at("step", to=3.0),
    "steps that are a tensor": at("step", to=torch.tensor(3)),
    "steps before 0": at("step", to=-3),
    "best epoch to come": at("progress", "best_epoch", to=2),
    "no best figures": at("progress", "best", to={}),
    "figures of words": at("progress", "best", to={"sampled/mrr": "high"}),
    "figures without names": at("progress", "best", to={1: 0.5}),
    "NaN figure": at("progress", "best", to={"sampled/mrr": math.nan}),
    "seconds before 0": at("progress", "seconds", to=-1.0),
    "empty progress": at("progress", to={}),
    "progress of a list": at("progress", to=[1, 2]),
    "more progress": at("progress", "more", to=1),
    "empty generator": at("generator", to=torch.empty(0, dtype=torch.uint8)),
    "generator of numbers": at("generator", to=lambda value: value.int()),
    "generator of zeros": at("generator", to=torch.zeros_like),
    "generator of nothing": at("random", 0, "cpu", to=None),
    "generator of a word": at("random", 0, "cuda", to="state"),
    "generator of no process": at("random", to=[]),
    "generator of a number": at("random", to=[1]),
    "epoch of no figures": at("epoch", "figures", to=[]),
    "epoch of figures without a loss": at("epoch", "figures", 1, to={}),
    "epoch of figures of words": at("epoch", "figures", 0, to={"loss": "low"}),
    "epoch of figures in words": at("epoch", "figures", to="0.5"),
    "epoch of more batches than steps": at("epoch", "done", to=99),
    "epoch plotted ahead": at("epoch", "plotted", to=99),
    "epoch from nowhere": at("epoch", "start", to=None),
    "epoch that is a number": at("epoch", to=2),
    "no optimizers": at("optimizers", to=[]),
    "optimizers in a dict": at("optimizers", to=lambda value: dict(enumerate(value))),
    "optimizer without state": at("optimizers", 0, "state", to={}),
    "optimizer without groups": at("optimizers", 0, "param_groups", to=[]),
    "optimizer of fewer weights": at("optimizers", 0, "param_groups", 0, "params", to=lambda value: value[:-1]),
    "optimizer of a number": at("optimizers", 0, to=3),
    "another weight's moments": at("optimizers", 0, "state", to=lambda value: {**value, 99: value[0]}),
}
OF_ADAM: dict[str, Change] = {
    "moments of another shape": some("exp_avg", to=lambda value: value[:1]),
    "moments of whole numbers": some("exp_avg", to=lambda value: value.long()),
    "negative squares": some("exp_avg_sq", to=lambda value: value - 1),
    "NaN moments": some("exp_avg", to=no_value),
    "moments of a list": some("exp_avg", to=[1.0]),
    "negative steps": some("step", to=torch.tensor(-1.0)),
    "half a step": some("step", to=torch.tensor(0.5)),
    "steps to come": some("step", to=torch.tensor(99.0)),
    "a moment too many": lambda stored: stored["optimizers"][0]["state"][0].update(more=torch.ones(1)),
}
OF_ADAGRAD: dict[str, Change] = {
    "negative sum": some("sum", to=lambda value: value - 100),
    "sum of another shape": some("sum", to=lambda value: value[None]),
}
OF_ROWS: dict[str, Change] = {
    "rows of another table": some("owed", to=lambda value: value[1:]),
    "rows seen in the future": some("seen_at", to=lambda value: value + 99),
    "NaN rows": some("m", to=no_value),
    "negative rows": some("v", to=lambda value: value - 1),
    "no count of steps": lambda stored: stored["optimizers"][-1]["param_groups"][0].pop("steps"),
    "negative count of steps": at("optimizers", -1, "param_groups", 0, "steps", to=-3),
}


def check_refused(make: Callable[[], Trainer], stored: dict[str, Any], change: Change) -> None:
    wrong, trainer = copy.deepcopy(stored), make()
    change(wrong)
    before = copy.deepcopy(loaded(trainer))
    with pytest.raises(UserError, match=r"^last\.pt [^\n]*$"):
        trainer.restore(wrong, PLACE)
    assert_equal(loaded(trainer), before)


@pytest.mark.parametrize("change", EVERY.values(), ids=EVERY)
def test_a_wrong_state_is_refused_whole(trained: Any, change: Change) -> None:
    make, stored, _ = trained
    check_refused(make, stored, change)


def test_a_wrong_optimizer_is_refused_whole(request: pytest.FixtureRequest, trained: Any) -> None:
    make, stored, _ = trained
    changes = {"adam": OF_ADAM, "adagrad": OF_ADAGRAD, "rows": OF_ROWS}[request.node.callspec.params["trained"]]
    for change in changes.values():
        check_refused(make, stored, change)


def test_the_settings_are_those_of_the_live_optimizer(trained: Any) -> None:
    """Whatever the file says of epsilon, and whatever torch that wrote it had for settings."""
    make, stored, first = trained
    other = copy.deepcopy(stored)
    for one in other["optimizers"]:
        one["param_groups"][0]["eps"] = 5.0
        one["param_groups"][0].pop("betas", None)
    trainer = make()
    trainer.restore(other, PLACE)
    assert_equal(loaded(trainer)["optimizers"], loaded(first)["optimizers"])


def test_another_optimizer_is_refused(trained: Any) -> None:
    _, stored, _ = trained
    with pytest.raises(UserError, match=r"^last\.pt [^\n]*optimizer"):
        make_trainer(optimizer="adagrad" if "exp_avg" in str(stored["optimizers"]) else "adam").restore(stored, PLACE)


def test_a_state_on_a_gpu_may_be_resumed_without_one() -> None:
    state._check({"cuda": torch.zeros(16, dtype=torch.uint8)}, {"cuda": None}, "random", "last.pt")
