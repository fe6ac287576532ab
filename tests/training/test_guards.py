"""What the trainer does around a model, and when it must not update tables by rows. Each test fails without it."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_helpers import Actions, Commands, actions_with_new_last_items, epochs, write_data
from objective_helpers import next_item
from torch import Tensor
from trainer_helpers import M, fit, make_trainer, row_optimizers

from sairlib.nn.kernels.switch import plain_kernels
from sairlib.nn.layers import Table
from sairlib.run import checkpoint
from sairlib.training import optimisers
from sairlib.training.optimisers import RowAdam, follows, tables_by_rows
from sairlib.training.softmax_losses import Softmax
from sairlib.training.trainer import Trainer

# Checked by the files that a run leaves.


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    home = tmp_path_factory.mktemp("guards")
    write_data(home, actions_with_new_last_items())
    with pytest.MonkeyPatch.context() as patch:
        yield Commands(home, patch)


def test_every_step_of_the_data_weighs_the_same_in_whatever_batch(commands: Commands) -> None:
    """Nothing is learnt or drawn here: the epoch's loss is the mean over all steps, not over batches."""
    words = ("model=sasrec", "model.dropout=0", "loss=softmax", "training.lr=1e-30", "training.epochs=1")
    whole, parted = (
        epochs(commands.train(f"by-{size}", *words, f"training.batch_size={size}"))[0]["loss"] for size in (40, 3)
    )
    assert parted == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("model", ["transrec", "attrec"])
def test_points_limited_to_a_ball_are_in_it_after_every_step(model: str, commands: Commands) -> None:
    run = commands.train(model, f"model={model}", "model.d=8", "training.epochs=1", "training.lr=1.0")
    weights = checkpoint.load(run / "last.pt")["model"]
    points = [value for value in weights.values() if value.shape == (61, 8)]
    assert points
    for points_MD in points:
        norms_M = points_MD[1:].norm(dim=1)
        assert 0.99 < norms_M.max() < 1 + 1e-5, "at this rate some are stopped by the limit"


def test_popularity_is_counted_before_anything_is_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against counts by hand: of training actions only, and ranked among items the user has not had."""
    actions: Actions = [(user, (user * step) % 17) for user in range(1, 30) for step in range(4 + user % 5)]
    write_data(tmp_path, actions)
    run = Commands(tmp_path, monkeypatch).train("run", "model=poprec")
    items_of: dict[int, list[int]] = defaultdict(list)
    for user, item in actions:
        items_of[user].append(item)
    counts = Counter(item for items in items_of.values() for item in items[:-2])
    with np.load(run / "ranks.npz") as ranks:
        rows = zip(ranks["user"].tolist(), ranks["full_better"].tolist(), ranks["full_tied"].tolist(), strict=True)
    actual = {user: (better, tied) for user, better, tied in rows}
    expected = {}
    for user, (*history, target) in items_of.items():
        others = [counts[item] for item in set(range(17)) - {target, *history}]
        expected[user] = (sum(c > counts[target] for c in others), sum(c == counts[target] for c in others))
    assert actual == expected
    assert len(set(expected.values())) > 5


def test_settings_given_on_resuming_win_over_the_stored_ones(tmp_path: Path) -> None:
    """The commands refuse other settings; a trainer that is given a state goes on with its own."""
    trainer = make_trainer(epochs=1, betas=(0.5, 0.75), weight_decay=0.125, lr=0.25)
    trainer.restore(make_trainer().state(), "last.pt")
    fit(trainer, tmp_path)
    (optimizer,) = checkpoint.load(tmp_path / "last.pt")["optimizers"]
    (group,) = optimizer["param_groups"]
    assert (tuple(group["betas"]), group["weight_decay"], group["lr"]) == ((0.5, 0.75), 0.125, 0.25)


# Diagnosis.


def test_a_model_is_diagnosed_as_it_ranks_without_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, modes = make_trainer(sair=True, epochs=2), []
    diagnose = trainer.model.diagnose

    def watched(*given: Any) -> dict[str, Tensor]:
        modes.append(trainer.model.training)
        return diagnose(*given)

    monkeypatch.setattr(trainer.model, "diagnose", watched)
    fit(trainer, tmp_path)
    assert modes == [False, False]


# Tables by rows.


@pytest.fixture
def small_tables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows a table has, it may be updated by rows."""
    monkeypatch.setattr(optimisers, "RARELY", 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"compile": True},
        {"weight_decay": 0.1},
        {"grad_clip": 1.0},
        {"optimizer": "adagrad"},
        {"betas": (0.99, 0.9)},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.usefixtures("small_tables_too")
def test_rows_are_not_updated_alone_where_a_step_moves_or_needs_all(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # it takes seconds, and none is run
    assert row_optimizers(make_trainer()), "no table is updated by rows even without the setting"
    assert not row_optimizers(make_trainer(**settings))


@pytest.mark.usefixtures("small_tables_too")
def test_rows_are_not_updated_alone_under_a_loss_over_all_items() -> None:
    trainer = make_trainer()
    full = next_item(trainer.store, loss=Softmax(), kind="none")
    again = Trainer(trainer.model, full, trainer.store, trainer.evaluator, trainer.settings, 0, {})
    assert row_optimizers(trainer) and not row_optimizers(again)


@pytest.mark.usefixtures("small_tables_too")
def test_rows_are_updated_alone_on_cpu_only() -> None:
    trainer = make_trainer()
    assert tables_by_rows(trainer.model, trainer.settings, 1.0)
    assert tables_by_rows(trainer.model.to("meta"), trainer.settings, 1.0) == []


def test_rows_are_updated_alone_in_large_tables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    looked_up = trainer.learner.objective.steps_per_batch * 3  # an input, a target and a negative a step
    monkeypatch.setattr(optimisers, "RARELY", 1.001 * (M + 1) / looked_up)
    assert not row_optimizers(make_trainer())
    monkeypatch.setattr(optimisers, "RARELY", 0.999 * (M + 1) / looked_up)
    assert row_optimizers(make_trainer())


@pytest.mark.usefixtures("small_tables_too")
def test_given_betas_win_in_tables_by_rows_too(tmp_path: Path) -> None:
    fit(make_trainer(epochs=1), tmp_path)
    again = make_trainer(epochs=2, betas=(0.5, 0.75))
    (rows,) = row_optimizers(again)
    again.restore(checkpoint.load(tmp_path / "last.pt"), tmp_path / "last.pt")
    assert [optimizer.param_groups[0]["betas"] for optimizer in again.learner.optimizers] == [(0.5, 0.75)] * 2
    assert "weight_decay" not in rows.param_groups[0]


@pytest.mark.usefixtures("small_tables_too")
def test_all_rows_are_up_to_date_when_an_epoch_is_over(tmp_path: Path) -> None:
    trainer = make_trainer(epochs=1, batch_size=1)  # a batch so small that rows are left out of it
    fit(trainer, tmp_path)
    (rows,) = row_optimizers(trainer)
    rows.catch_up()
    saved = checkpoint.load(tmp_path / "best.pt")["model"]
    assert all(torch.equal(saved[name], value) for name, value in trainer.model.state_dict().items())


# RowAdam.


def moved() -> tuple[Table, RowAdam]:
    """A table after two steps, the second without rows 1 and 2, which fall behind."""
    torch.manual_seed(0)
    table = Table(7, 3, padding_idx=0)
    optimizer = RowAdam([table], lr=0.1, betas=(0.9, 0.98))
    for ids in ([1, 2, 3], [3]):
        optimizer.zero_grad()
        table(torch.tensor(ids)).square().sum().backward()
        optimizer.step()
    return table, optimizer


def test_a_lookup_without_gradients_writes_nothing() -> None:
    table, _ = moved()
    before, ids = table.weight.detach().clone(), torch.tensor([1, 2])
    with torch.no_grad():
        table(ids)
    assert torch.equal(table.weight, before)
    table(ids)
    assert not torch.equal(table.weight, before), "no row was behind"


def test_rows_that_are_up_to_date_are_not_written_again() -> None:
    """What autograd saved of the table stays valid after another lookup."""
    table, optimizer = moved()
    optimizer.catch_up()
    x_D = torch.ones(3, requires_grad=True)
    total = (table.weight @ x_D).sum() + (table(torch.tensor([1, 3])) @ x_D).sum()
    (gradient_D,) = torch.autograd.grad(total, x_D)
    torch.testing.assert_close(gradient_D, table.weight.sum(0) + table.weight[1] + table.weight[3])


def test_a_step_without_a_lookup_still_moves_rows_looked_up_before() -> None:
    table, optimizer = moved()
    optimizer.zero_grad()
    assert table.weight.grad is None
    before = table.weight.detach().clone()
    optimizer.step()
    optimizer.catch_up()
    moving = (table.weight != before).any(1)
    assert moving.tolist() == [False, True, True, True, False, False, False]


def test_betas_under_which_updates_do_not_shrink_are_not_followed() -> None:
    assert follows((0.9, 0.98)) and follows((0.0, 0.1))
    assert not follows((0.9, 0.81)) and not follows((math.sqrt(0.5), 0.5))


def test_the_plain_switch_turns_off_pieces_and_updates_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimisers, "RARELY", 0)
    fast = make_trainer()
    assert row_optimizers(fast) and fast.learner.steps_at_once
    with plain_kernels():
        plain = make_trainer()
    assert not row_optimizers(plain) and plain.learner.steps_at_once is None
