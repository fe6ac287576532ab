"""The contract supports models beyond today's: states of several tensors, joint scores of history and item, times, and
auxiliary losses of batch and states. Four small models run through objectives, trainer and evaluator.
"""

from typing import final

import numpy as np
import pytest
import torch
from all_models import MAX_LEN, M, split, store
from objective_helpers import batch_of, next_item, sampler
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from sairlib.batch import PAD, Batch, EvalBatch, History, State
from sairlib.data.sequences import Rows
from sairlib.data.split import Part
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.recommender import Head, Products, Recommender, SequenceModel, StepModel, one_tensor
from sairlib.nn.kernels import parts
from sairlib.nn.layers import Table
from sairlib.training.losses import BCE, Loss
from sairlib.training.objectives import Objective
from sairlib.training.settings import TrainingSettings
from sairlib.training.softmax_losses import Softmax
from sairlib.training.step import Step
from sairlib.training.trainer import Trainer
from sairlib.training.whole_objectives import Prefix

D = 4


def all_rows() -> Rows:
    users_B = store().train_users
    return Rows(users_B, int(store().train_steps(users_B).max()))


def make_trainer(model: Recommender, objective: Objective) -> Trainer:
    evaluator = Evaluator(split(), store(), EvaluationSettings(ks=(5,), n_candidates=5))
    settings = TrainingSettings(lr=0.02, monitor="full/mrr")
    return Trainer(model, objective, store(), evaluator, settings, 0, {})


# A joint score of history and item, as in DIN: the item decides how much of the history counts.


@final
class TargetAttention(Head):
    """Scores an item by a net of its attention over the history and its own vector. State: (vectors_BND, real_BN)."""

    log_odds = True

    def __init__(self, table: Table, net: nn.Module) -> None:
        self.table = table
        self.net = net

    def score(self, states: State, items: Tensor) -> Tensor:
        assert isinstance(states, tuple)
        vectors_XND, real_XN = states
        items_XCD = self.table(items)
        scores_XCN = (items_XCD @ vectors_XND.mT).masked_fill(~real_XN[..., None, :], -1e9)
        taken_XCD = (scores_XCN.softmax(-1) * real_XN[..., None, :]) @ vectors_XND
        scores_XC: Tensor = self.net(torch.cat([taken_XCD, items_XCD, taken_XCD * items_XCD], -1)).squeeze(-1)
        return scores_XC

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        return self.score(states, items_C.expand(*states[1].shape[:-1], -1))

    def score_all(self, states: State) -> Tensor:
        return self.score_shared(states, torch.arange(M + 1))


@final
class Joint(SequenceModel):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.n_items = M
        self.table = Table(M + 1, D, padding_idx=PAD)
        self.net = nn.Sequential(nn.Linear(3 * D, 8), nn.ReLU(), nn.Linear(8, 1))

    def newest(self, history: History) -> State:
        return self.table(history.items_BN), history.items_BN != PAD

    @property
    def head(self) -> Head:
        return TargetAttention(self.table, self.net)


def joint_score(model: Joint, items: list[int], item: int) -> float:
    """The same score, written plainly: one history without padding, one item."""
    table, own = model.table.weight, model.table.weight[item]
    taken = torch.zeros(D)
    if items:
        weights = torch.stack([table[other] @ own for other in items]).softmax(0)
        taken = sum((weight * table[other] for weight, other in zip(weights, items, strict=True)), taken)
    first, _, second = model.net
    hidden = relu(first.weight @ torch.cat([taken, own, taken * own]) + first.bias)
    return float(second.weight[0] @ hidden + second.bias[0])


def joint_scores(model: Joint, items_N: Tensor, items: list[int]) -> Tensor:
    shown = [item for item in items_N.tolist() if item]
    with torch.no_grad():
        return torch.tensor([joint_score(model, shown, item) for item in items])


def prefix(kind: str) -> Prefix:
    cost: Loss = Softmax() if kind == "softmax" else BCE()
    negatives = None if kind == "softmax" else sampler(store(), 3, kind)
    return Prefix(cost, negatives, store(), batch_size=16)


@pytest.mark.parametrize("rows_at_once", [None, 2])
@pytest.mark.parametrize("kind", ["uniform", "shared", "softmax"])
def test_the_loss_of_states_of_two_tensors_equals_its_formula(
    kind: str, rows_at_once: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own negatives, shared ones, and all items; at once, and in parts that are recomputed in the backward pass."""
    if rows_at_once:
        monkeypatch.setattr(parts, "part_size", lambda rows, scores_per_row: rows_at_once)
    model, objective = Joint(), prefix(kind)
    objective.check(model)
    batch = batch_of(objective, store().train_users)
    total = 0.0
    for row, items_N in enumerate(batch.history.items_BN):
        target = int(batch.targets_BNS[row, 0, 0])
        if kind == "softmax":
            scores_M = joint_scores(model, items_N, list(range(1, M + 1)))
            total -= float(scores_M.log_softmax(0)[target - 1])
            continue
        assert batch.negatives is not None and batch.negatives.shared == (kind == "shared")
        own = batch.negatives.items_BNSC[0 if batch.negatives.shared else row].flatten().tolist()
        others = [item for item in own if item not in (PAD, target)]
        scores_C = joint_scores(model, items_N, [target, *others])
        total += float(softplus(-scores_C[0]) + softplus(scores_C[1:]).sum())
    cost = objective.loss(model, batch)[objective.cost.name]
    assert cost.item() == pytest.approx(total / objective.steps_per_batch, rel=1e-5)
    cost.backward()
    assert all(p.grad is not None and p.grad.any() and p.grad.isfinite().all() for p in model.parameters())


def test_ways_to_score_a_joint_state_agree() -> None:
    model = Joint()
    shown = batch_of(prefix("uniform"), store().train_users).history
    states, head = model.newest(shown), model.head
    all_BM = head.score_all(states)
    items_BC = torch.randint(1, M + 1, (len(shown.users_B), 6))
    torch.testing.assert_close(head.score(states, items_BC), all_BM.gather(1, items_BC))
    torch.testing.assert_close(head.score_shared(states, items_BC[0]), all_BM[:, items_BC[0]])
    expected_M = joint_scores(model, shown.items_BN[3], list(range(1, M + 1)))
    torch.testing.assert_close(all_BM[3, 1:], expected_M)


@pytest.mark.parametrize("full", [True, False], ids=["all items", "drawn alone"])
@pytest.mark.parametrize("batch_size", [256, 2])
def test_joint_states_are_ranked_as_their_scores_say(full: bool, batch_size: int) -> None:
    model = Joint()
    evaluator = Evaluator(split(), store(), EvaluationSettings(n_candidates=5, full=full, batch_size=batch_size))
    ranks = evaluator.rank(model, Part.TEST)
    assert set(ranks) == {"sampled", "full"} if full else {"sampled"}
    assert evaluator.drawn is not None
    dataset = split().dataset
    for row, user in enumerate(split().test.users_E.tolist()):
        *before, target = dataset.items[dataset.offsets[user] : dataset.offsets[user + 1]].tolist()
        ways = {"sampled": evaluator.drawn.items_UC[row].tolist()}
        if full:
            ways["full"] = [item for item in range(1, M + 1) if item not in before]
        for name, items in ways.items():
            others = [item for item in items if item not in (PAD, target)]
            scores_C = joint_scores(model, torch.tensor(before[-MAX_LEN:]), [target, *others])
            assert ranks[name].better_E[row] == int((scores_C[1:] > scores_C[0]).sum())
    assert len(np.unique(ranks["sampled"].better_E)) > 2, "all ranks are alike: nothing was compared"


@pytest.mark.parametrize("kind", ["uniform", "shared", "softmax"])
def test_a_joint_model_learns(kind: str) -> None:
    trainer = make_trainer(Joint(), prefix(kind))
    costs = [float(trainer.learner.step(all_rows()).figures["loss"]) for _ in range(150)]
    assert np.mean(costs[-30:]) < 0.9 * np.mean(costs[:10])


# A state of two tensors at every step.


@final
class Sum(Head):
    """<a, vector> + <b, vector>: of a state (a, b), what Products gives for a + b."""

    log_odds = True

    def __init__(self, table: Table) -> None:
        self.of_sum = Products(table.of)

    def score(self, states: State, items: Tensor) -> Tensor:
        return self.of_sum.score(states[0] + states[1], items)

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        return self.of_sum.score_shared(states[0] + states[1], items_C)

    def score_all(self, states: State) -> Tensor:
        return self.of_sum.score_all(states[0] + states[1])


@final
class TwoParts(StepModel):
    """The item and the one before it: summed at once, or kept apart in a state of two tensors."""

    memory = 2

    def __init__(self, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.n_items = M
        self.apart = apart
        self.table = Table(M + 1, D, padding_idx=PAD)

    def encode(self, history: History) -> State:
        own_BND = self.table(history.items_BN)
        before_BND = torch.cat([torch.zeros_like(own_BND[:, :1]), own_BND[:, :-1]], 1)
        return (own_BND, before_BND) if self.apart else own_BND + before_BND

    @property
    def head(self) -> Head:
        return Sum(self.table) if self.apart else Products(self.table.of)


@pytest.mark.parametrize("kind", ["uniform", "shared", "none"])
def test_a_state_of_two_tensors_at_every_step_trains_and_ranks_as_their_sum(kind: str) -> None:
    outcomes = []
    for apart in (False, True):
        objective = next_item(store(), 2, loss=Softmax() if kind == "none" else BCE(), kind=kind)
        trainer = make_trainer(TwoParts(apart), objective)
        costs = torch.stack([trainer.learner.step(all_rows()).figures["loss"] for _ in range(5)])
        ranks = trainer.evaluator.rank(trainer.model, Part.VALIDATION)
        outcomes.append((costs, ranks["full"].better_E, trainer.model.state_dict()["table.weight"]))
    (one, ranks_E, weights), (other, other_ranks_E, other_weights) = outcomes
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(weights, other_weights, rtol=1e-4, atol=1e-5)
    assert (ranks_E == other_ranks_E).all()


# Times.


@final
class Timed(StepModel):
    """The item's vector, and a direction times the logarithm of how long it was since the one before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.n_items = M
        self.table = Table(M + 1, D, padding_idx=PAD)
        self.direction_D = nn.Parameter(torch.randn(D))
        self.seen: list[History] = []

    def encode(self, history: History) -> Tensor:
        self.seen.append(history)
        assert history.times_BN is not None
        gaps_BN = history.times_BN.diff(prepend=history.times_BN[:, :1]).clamp(min=0)
        states_BND: Tensor = self.table(history.items_BN) + gaps_BN.float().log1p()[..., None] * self.direction_D
        return states_BND

    @property
    def head(self) -> Head:
        return Products(self.table.of)


def check_times(history: History) -> None:
    """Each time belongs to the item at its place; padding has 0."""
    dataset = split().dataset
    assert dataset.times is not None and history.times_BN is not None
    rows = (part.tolist() for part in (history.users_B, history.items_BN, history.times_BN))
    for user, items, times in zip(*rows, strict=True):
        own = slice(dataset.offsets[user], dataset.offsets[user + 1])
        pairs = set(zip(dataset.items[own].tolist(), dataset.times[own].tolist(), strict=True))
        assert set(zip(items, times, strict=True)) <= pairs | {(PAD, 0)}


@pytest.mark.parametrize("steps_at_once", [None, 20])
def test_a_model_of_times_trains_and_ranks(steps_at_once: int | None) -> None:
    model = Timed()
    trainer = make_trainer(model, next_item(store(), 2))
    trainer.learner.steps_at_once = steps_at_once
    before_D = model.direction_D.detach().clone()
    trainer.learner.step(all_rows())
    assert len(model.seen) == 1 if steps_at_once is None else len(model.seen) > 1
    assert not torch.equal(model.direction_D, before_D), "the times' direction did not learn"
    ranks = [
        Evaluator(split(), store(), EvaluationSettings(n_candidates=0, batch_size=size)).rank(model, Part.TEST)["full"]
        for size in (256, 1)
    ]
    assert (ranks[0].better_E == ranks[1].better_E).all()
    for history in model.seen:
        check_times(history)


def test_times_change_the_scores_and_a_tail_keeps_them() -> None:
    model = Timed().eval()
    batch: EvalBatch = next(store().evaluation(Part.TEST, 256))
    history = batch.history
    assert history.times_BN is not None
    later = history._replace(times_BN=3 * history.times_BN)
    assert not torch.allclose(one_tensor(model.newest(history)), one_tensor(model.newest(later)))
    tail = history.tail(3)
    check_times(tail)
    torch.testing.assert_close(one_tensor(model.newest(tail)), one_tensor(model.newest(history)))


# Auxiliary losses.


@final
class Assisted(StepModel):
    """As in DIEN, states also learn to distinguish the next item from a drawn one; here by a plain product."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.n_items = M
        self.weight = weight
        self.table = Table(M + 1, D, padding_idx=PAD)
        self.other = Table(M + 1, D, padding_idx=PAD)

    def encode(self, history: History) -> Tensor:
        states_BND: Tensor = self.table(history.items_BN)
        return states_BND

    @property
    def head(self) -> Head:
        return Products(self.table.of)

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        assert batch.negatives is not None
        targets_BN, negatives_BN = batch.targets_BNS[..., 0], batch.negatives.items_BNSC[..., 0, 0]
        own_BND = one_tensor(states).view(*targets_BN.shape, -1)  # those that the loss scores, step by step
        margins_BN = (own_BND * (self.other(negatives_BN) - self.other(targets_BN))).sum(-1)
        each_BN = softplus(margins_BN).where(targets_BN != PAD, 0.0)
        return {"contrast": self.weight * (each_BN.sum(1) / (targets_BN != PAD).sum(1)).mean()}


def first_step(weight: float, steps_at_once: int | None) -> tuple[Assisted, Step]:
    model = Assisted(weight)
    trainer = make_trainer(model, next_item(store(), 2))
    trainer.learner.steps_at_once = steps_at_once
    return model, trainer.learner.step(all_rows())


def test_an_auxiliary_loss_of_batch_and_states_is_added_and_learnt() -> None:
    model, done = first_step(1.0, None)
    figures = {name: float(value) for name, value in done.figures.items()}
    assert set(figures) == {"loss", "bce", "contrast"}
    assert figures["loss"] == pytest.approx(figures["bce"] + figures["contrast"])
    assert figures["contrast"] == pytest.approx(np.log(2), abs=0.05), "untrained, it cannot distinguish items"
    assert model.other.weight.grad is not None and model.other.weight.grad.any()
    assert model.table.weight.grad is not None
    without, _ = first_step(0.0, None)
    assert without.table.weight.grad is not None
    assert not torch.allclose(model.table.weight.grad, without.table.weight.grad), "it does not reach the states"


def test_pieces_of_a_batch_share_an_auxiliary_mean_by_their_users() -> None:
    """With everything at 0 each user's part is log 2, and so is the mean over users, whatever the pieces."""
    for steps_at_once in (None, 30, 10):
        model = Assisted()
        nn.init.zeros_(model.other.weight)
        trainer = make_trainer(model, next_item(store(), 2))
        trainer.learner.steps_at_once = steps_at_once
        assert float(trainer.learner.step(all_rows()).figures["contrast"]) == pytest.approx(np.log(2))
