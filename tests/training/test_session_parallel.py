"""Session-parallel batches: every step once, states that are carried on, and the other lanes' targets as negatives."""

from itertools import pairwise
from typing import Any

import pytest
import small_data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_helpers import sampler
from tiny_models import Bigram
from torch import Tensor, nn
from trainer_helpers import IDENTITY, Stopping, assert_equal, dataset, fit

from sairlib import processes
from sairlib.batch import Batch
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import leave_one_out
from sairlib.errors import Stopped, UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.gru4rec import GRU4Rec
from sairlib.run import checkpoint
from sairlib.training import optimisers
from sairlib.training.gbce import GBCE
from sairlib.training.losses import BCE, Loss
from sairlib.training.pairwise_losses import BPR, BPRMax
from sairlib.training.session_parallel import SessionParallel
from sairlib.training.settings import TrainingSettings
from sairlib.training.softmax_losses import SampledSoftmax, Softmax
from sairlib.training.trainer import Trainer

M = 9
SESSIONS = [[1, 2, 3, 4, 5, 6], [7, 8, 1], [2, 2, 9, 2, 2, 3, 1], [5, 4, 3], [6, 6, 1, 2, 4, 7], [3, 9, 8, 7, 6, 5, 4]]


def make_store(sequences: list[list[int]] = SESSIONS, max_len: int = 50) -> SequenceStore:
    return SequenceStore(small_data.make_split(sequences, M, timed=True), max_len, torch.device("cpu"))


def make_objective(
    loss: Loss | None = None, batch_size: int = 3, kind: str = "none", store: SequenceStore | None = None
) -> SessionParallel:
    store = store or make_store()
    return SessionParallel(loss or BPR(), None if kind == "none" else sampler(store, 4, kind, 0.5), store, batch_size)


def epoch(objective: SessionParallel, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    rows = objective.epoch(1, generator)
    return [batch for number in range(len(rows)) for batch, _ in objective.batches(rows[number], generator)]


# The plan.


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(4, 9), min_size=1, max_size=7),
    max_len=st.integers(1, 6),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_every_pair_of_every_session_is_one_step_of_an_epoch_in_lanes_of_one_length(
    lengths: list[int], max_len: int, batch_size: int, seed: int
) -> None:
    sequences = [[1 + (i * (user + 2) + user) % M for i in range(length)] for user, length in enumerate(lengths)]
    objective = make_objective(BCE(), batch_size, "shared", make_store(sequences, max_len))
    batches = epoch(objective, seed)
    windows = {user: list(pairwise(list(enumerate(seq[:-2]))))[-max_len:] for user, seq in enumerate(sequences)}
    steps = {(user, before[0]) for user, pairs in windows.items() for before, _ in pairs}
    n_lanes = min(batch_size, len(steps))
    sizes = [len(batch.targets_BNS) for batch in batches]
    assert len(batches) == objective.n_batches() and sum(sizes) == objective.steps() == len(steps)
    assert sizes[:-1] == [n_lanes] * (len(sizes) - 1) and 1 <= sizes[-1] <= n_lanes
    seen: dict[tuple[int, int], bool] = {}
    lanes: dict[int, tuple[int, int]] = {}
    for t, batch in enumerate(batches):
        users, begins, times = batch.history.users_B, batch.begins_B, batch.history.times_BN
        assert begins is not None and times is not None
        starts = objective.store.starts[users]
        for lane, user in enumerate(users.tolist()):
            place = int(times[lane, 0] - 1 - starts[lane])  # an action's time is its number
            pair = sequences[user][place : place + 2]
            assert [int(batch.history.items_BN[lane, 0]), int(batch.targets_BNS[lane, 0, 0])] == pair
            assert (user, place) in steps and (user, place) not in seen
            first = place == windows[user][0][0][0]
            assert bool(begins[lane]) == (first or t == 0)
            assert begins[lane] or lanes[lane] == (user, place - 1), "a state would pass to another session"
            seen[user, place], lanes[lane] = first, (user, place)
    cut = sum(int(batch.begins_B.sum()) for batch in batches if batch.begins_B is not None) - len(windows)
    assert 0 <= cut < n_lanes, "more sessions begin anew than cuts divide"


def test_an_epoch_has_an_order_of_its_own_that_the_generator_decides() -> None:
    objective = make_objective()
    orders = [[batch.history.users_B.tolist() for batch in epoch(objective, seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    rows = objective.epoch(1, torch.Generator())
    with pytest.raises(IndexError):
        rows[len(rows)]


# The loss.


def plain_gru(item: int, before_D: Tensor, w: dict[str, Tensor]) -> Tensor:
    """One step of one lane by the gates' equations; PyTorch's z weighs the old state."""
    x_r, x_z, x_c = (w["layers.0.weight_ih_l0"] @ w["item_embedding.weight"][item] + w["layers.0.bias_ih_l0"]).chunk(3)
    h_r, h_z, h_c = (w["layers.0.weight_hh_l0"] @ before_D + w["layers.0.bias_hh_l0"]).chunk(3)
    z = torch.sigmoid(x_z + h_z)
    return (1 - z) * torch.tanh(x_c + torch.sigmoid(x_r + h_r) * h_c) + z * before_D


def plain_bpr(state_D: Tensor, target: int, others: list[int], w: dict[str, Tensor]) -> Tensor:
    def score(item: int) -> Tensor:
        return state_D @ w["item_embedding.weight"][item] + w["output_bias.weight"][item, 0]

    costs = [-torch.sigmoid(score(target) - score(item)).log() for item in others if item != target]
    return torch.stack(costs).mean() if costs else state_D.sum() * 0


@pytest.mark.parametrize("kind", ["none", "popular"])
def test_an_epoch_of_steps_equals_a_plain_loop_over_lanes_with_a_state_each(kind: str) -> None:
    """Each step changes the weights, so a state must be that of the weights of its time, and pass on no gradient."""
    torch.manual_seed(0)
    model = GRU4Rec(M, d=4, d_hidden=4, hidden_dropout=0.0).double()
    plain = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    objective, optimizer = make_objective(kind=kind), torch.optim.SGD(model.parameters(), lr=2.0)
    lanes: dict[int, Tensor] = {}
    batches = epoch(objective)
    assert len(batches) > 3 and len({len(batch.targets_BNS) for batch in batches}) == 2, "the last is not shorter"
    for batch in batches:
        optimizer.zero_grad()
        loss = objective.loss(model, batch)["bpr"]
        loss.backward()
        optimizer.step()
        assert not any(part.requires_grad for part in objective.carried(model))

        assert batch.begins_B is not None and batch.negatives is not None
        total = torch.zeros((), dtype=torch.float64)
        negatives, targets = batch.negatives.items_BNSC.flatten().tolist(), batch.targets_BNS.flatten().tolist()
        assert negatives[: len(targets)] == targets and len(negatives) == len(targets) + 4 * (kind == "popular")
        for lane, (item, target) in enumerate(zip(batch.history.items_BN[:, 0].tolist(), targets, strict=True)):
            before_D = torch.zeros(4, dtype=torch.float64) if batch.begins_B[lane] else lanes[lane]
            state_D = plain_gru(item, before_D, plain)
            lanes[lane] = state_D.detach()
            total = total + plain_bpr(state_D, target, negatives, plain)
        total = total / (objective.steps() / objective.n_batches())
        assert loss.item() == pytest.approx(total.item(), rel=1e-5, abs=1e-9)  # costs are in single precision
        gradients = torch.autograd.grad(total, list(plain.values()))
        with torch.no_grad():
            for value, gradient in zip(plain.values(), gradients, strict=True):
                value -= 2.0 * gradient
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "shared", "popular"])
def test_a_negative_is_expected_as_often_as_other_lanes_have_it_and_the_sampler_draws_it(kind: str) -> None:
    objective = make_objective(SampledSoftmax(), kind=kind)
    trained = [session[:-2] for session in SESSIONS]
    targets = [item for session in trained for item in session[1:]]
    counts = [sum(session.count(item) for session in trained) for item in range(M + 1)]
    draws = {"none": [0.0] * (M + 1), "shared": [1.0] * (M + 1), "popular": [count**0.5 for count in counts]}[kind]
    for batch in epoch(objective):
        assert batch.negatives is not None
        items = batch.negatives.items_BNSC.flatten().tolist()
        for item, log_expected in zip(items, batch.negatives.log_expected.tolist(), strict=True):
            of_lanes = (len(batch.targets_BNS) - 1) * targets.count(item) / len(targets)
            of_sampler = 4 * draws[item] / (sum(draws[1:]) or 1)
            assert log_expected == pytest.approx(torch.tensor(of_lanes + of_sampler).log().item(), abs=1e-5)


@pytest.mark.parametrize("loss", [BPR(), BPRMax(), SampledSoftmax(), Softmax()], ids=lambda loss: loss.name)
def test_a_lane_that_is_left_alone_costs_nothing_that_is_not_finite(loss: Loss) -> None:
    objective, model = make_objective(loss, batch_size=13), GRU4Rec(M, d=4, d_hidden=4)
    assert objective.steps() == 14 and objective.n_lanes == 13
    for batch in epoch(objective):
        objective.loss(model, batch)[loss.name].backward()
    assert len(batch.targets_BNS) == 1
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# What is refused.


@pytest.mark.parametrize(
    ("loss", "batch_size", "kind", "model", "words"),
    [
        (BPR(), 3, "none", Bigram(), "Bigram carries no state from step to step"),
        (BPR(), 1, "none", None, "training.batch_size=1: loss=bpr needs negatives"),
        (GBCE(M), 3, "shared", None, "loss=gbce is defined only for uniform negatives"),
        (BPR(), 3, "uniform", None, "choose negatives=none"),
        (Softmax(), 3, "shared", None, "loss=softmax is over all items"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_line(
    loss: Loss, batch_size: int, kind: str, model: nn.Module | None, words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make_objective(loss, batch_size, kind).check(model or GRU4Rec(M))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_one_lane_may_have_drawn_negatives_or_a_loss_over_all_items() -> None:
    make_objective(BPR(), 1, "popular").check(GRU4Rec(M))
    make_objective(Softmax(), 1).check(GRU4Rec(M))


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "size", lambda: 2)
    with pytest.raises(UserError, match="trains in one process"):
        make_objective().check(GRU4Rec(M))


# The trainer.


def make_trainer(seed: int = 0, **given: Any) -> Trainer:
    split = leave_one_out(dataset())
    store = SequenceStore(split, 8, torch.device("cpu"))
    evaluator = Evaluator(split, store, EvaluationSettings(ks=(10,), n_candidates=10, full=False))
    torch.manual_seed(seed)
    chosen = TrainingSettings(**{"epochs": 3, "batch_size": 16, "lr": 0.01, "monitor": "sampled/ndcg@10", **given})
    objective = SessionParallel(BPRMax(), None, store, chosen.batch_size)
    return Trainer(GRU4Rec(30, d=8, d_hidden=8, n_layers=2), objective, store, evaluator, chosen, seed, IDENTITY)


@pytest.mark.parametrize("by_rows", [False, True])
def test_a_training_that_is_stopped_inside_an_epoch_goes_on_with_its_states(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, by_rows: bool
) -> None:
    monkeypatch.setattr(optimisers, "RARELY", 0 if by_rows else 10**9)
    straight = make_trainer()
    assert len(straight.learner.optimizers) == 1 + by_rows
    whole = fit(straight, tmp_path / "whole")
    (tmp_path / "twice").mkdir()
    first, log = make_trainer(), Stopping(tmp_path / "twice")
    log.requests = first.requests
    with pytest.raises(Stopped):
        first.fit(log)
    log.close()
    state = checkpoint.load(tmp_path / "twice" / "last.pt")
    assert all(part.any() for part in state["carried"]) and state["epoch"]["done"] == 2
    second = make_trainer(99)
    second.restore(state, "last.pt")
    assert fit(second, tmp_path / "twice") == whole
    assert_equal(second.state(), straight.state())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda parts: None, "lacks its carried"),
        (lambda parts: parts[:1], "carried is"),
        (lambda parts: (parts[0], parts[1][:3]), r"carried\.1 is"),
        (lambda parts: (parts[0], parts[1] * torch.nan), r"carried\.1 holds NaN"),
    ],
)
def test_states_that_do_not_fit_are_refused(change: Any, words: str) -> None:
    state = make_trainer().state()
    carried = change(state.pop("carried"))
    with pytest.raises(UserError, match=words):
        make_trainer().restore({**state, **({} if carried is None else {"carried": carried})}, "last.pt")
