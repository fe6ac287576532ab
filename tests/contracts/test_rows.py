"""A table not marked ``whole`` is read by rows only: no model may read rows that RowAdam has not yet updated."""

import math
from collections.abc import Callable
from typing import final

import pytest
import torch
from all_models import UNTRAINED, M, config, every_model, histories, make_model, objective, split, store
from small_data import history
from torch import Tensor

from sairlib import build
from sairlib.batch import PAD, Batch, History, State
from sairlib.data.sequences import Rows
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.recommender import Head, Products, Recommender, StepModel
from sairlib.models.transrec import TransRec
from sairlib.nn.layers import Table
from sairlib.training import losses, optimisers
from sairlib.training.objectives import Objective
from sairlib.training.optimisers import RowAdam
from sairlib.training.settings import TrainingSettings
from sairlib.training.softmax_losses import Softmax
from sairlib.training.trainer import Trainer

USERS = (3, 1, 0, 2, 0)
"""The user of each of five training steps: with one user a step, most steps look up few rows."""


def objective_for(name: str) -> Objective:
    """The yaml's objective with drawn negatives, because a loss over all items moves every row at every step.

    Losses are scaled up so that Adam's epsilon, the only difference of the two optimisers, has no effect.
    """
    words = ["loss=sampled_softmax", "negatives=uniform"] if isinstance(objective(name).cost, Softmax) else []
    drawn_objective = build.objective(config(name, *words), store(), batch_size=1)
    drawn_objective.steps_per_batch = 1e-4
    return drawn_objective


def trained(make: Callable[[], Recommender], objective: Objective, rarely: float, patch: pytest.MonkeyPatch) -> Trainer:
    """After five steps in training mode, dropout and all."""
    patch.setattr(optimisers, "RARELY", rarely)
    patch.setattr(losses, "ALL", 0)  # the catalogue has few items: look negatives up all the same
    evaluator = Evaluator(split(), store(), EvaluationSettings(n_candidates=0))
    settings = TrainingSettings(lr=0.01, monitor="full/mrr")
    trainer = Trainer(make(), objective, store(), evaluator, settings, 0, {})
    trainer.model.train()
    torch.manual_seed(0)
    for user in USERS:
        users_B = torch.tensor([user])
        trainer.learner.step(Rows(users_B, int(store().train_steps(users_B))))
    return trainer


def check(make: Callable[[], Recommender], objective: Objective, patch: pytest.MonkeyPatch) -> None:
    """By rows and whole, from the same seed, training ends at the same weights."""
    by_rows = trained(make, objective, 0, patch)
    whole = trained(make, objective, math.inf, patch)
    [own] = [optimizer for optimizer in by_rows.learner.optimizers if isinstance(optimizer, RowAdam)]
    assert not any(isinstance(optimizer, RowAdam) for optimizer in whole.learner.optimizers)
    tables = read_by_rows(by_rows.model)
    assert {id(table.weight) for table in tables} == {id(weight) for weight in own.param_groups[0]["params"]}
    left_behind = sum(int((own.state[table.weight]["seen_at"] < len(USERS)).sum()) for table in tables)
    assert left_behind > len(tables), "every row was looked up in the last step: no row was behind"
    by_rows.catch_up()
    for own_table, table in zip(tables, read_by_rows(whole.model), strict=True):
        torch.testing.assert_close(own_table.weight, table.weight, rtol=1e-4, atol=2e-5)
    # Scores instead of all other weights: the gradient of the keys' bias is only rounding, which Adam amplifies.
    torch.testing.assert_close(scores(by_rows.model), scores(whole.model), rtol=1e-4, atol=1e-4)


def read_by_rows(model: Recommender) -> list[Table]:
    return [table for table in tables_of(model) if not table.whole]


def tables_of(model: Recommender) -> list[Table]:
    return [module for module in model.modules() if isinstance(module, Table)]


@torch.no_grad()
def scores(model: Recommender) -> Tensor:
    return model.eval().head.score_all(model.newest(history(histories(3, 8, 1, 5))))[:, 1:]


@every_model
def test_training_by_rows_ends_where_training_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in UNTRAINED:
        pytest.skip("nothing to train")
    if not read_by_rows(make_model(name)):
        pytest.skip("has no such table")
    check(lambda: make_model(name), objective_for(name), monkeypatch)


@final
class Reads(StepModel):
    """Looks its items up, and also reads the table in the way that ``how`` names."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.n_items = M
        self.how = how
        self.table = Table(M + 1, 4, padding_idx=PAD)

    def encode(self, history: History) -> Tensor:
        if self.how == "as an array":
            return self.table.weight[history.items_BN]
        states_BND: Tensor = self.table(history.items_BN)
        return states_BND + self.table.weight.detach().mean(0) if self.how == "its mean" else states_BND

    @property
    def head(self) -> Head:
        return Products(self.table.of)

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        return {"l2": 0.1 * self.table.weight.square().sum()} if self.how == "its norm" else {}

    @torch.no_grad()
    def after_step(self) -> None:
        if self.how == "after a step":
            self.table.weight.renorm_(2, 0, 0.3)


def test_a_model_that_reads_by_rows_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    check(lambda: Reads("by rows alone"), objective_for("sasrec"), monkeypatch)


@pytest.mark.parametrize("how", ["its mean", "after a step"])
def test_a_model_that_looks_at_rows_left_behind_is_caught(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="not close"):
        check(lambda: Reads(how), objective_for("sasrec"), monkeypatch)


@pytest.mark.parametrize("how", ["as an array", "its norm"])
def test_a_gradient_of_the_whole_table_stops_the_first_step(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError):
        trained(lambda: Reads(how), objective_for("sasrec"), 0, monkeypatch)
    trained(lambda: Reads(how), objective_for("sasrec"), math.inf, monkeypatch)  # where all rows are up to date it may


@every_model
def test_every_mark_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tables marked ``whole``, each by itself cannot be read by rows."""

    def unmarked(i: int) -> Recommender:
        model = make_model(name)
        tables_of(model)[i].whole = False
        return model

    for i, table in enumerate(tables_of(make_model(name))):
        if table.whole:
            with pytest.raises((AssertionError, RuntimeError), match=r"not close|aten::_indices"):
                check(lambda i=i: unmarked(i), objective_for(name), monkeypatch)


def test_tables_marked_whole_are_updated_by_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained(lambda: make_model("transrec"), objective_for("transrec"), 0, monkeypatch)
    [own] = [optimizer for optimizer in trainer.learner.optimizers if isinstance(optimizer, RowAdam)]
    model = trainer.model
    assert isinstance(model, TransRec) and model.item_points.whole
    assert not any(weight is model.item_points.weight for weight in own.param_groups[0]["params"])
