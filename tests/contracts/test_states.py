"""What every model promises of its states and scores: shapes, causality, padding, agreement. Finds models itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import cast, final

import pytest
import torch
from all_models import MAX_LEN, MODELS, UNTRAINED, M, every_model, histories, make_model, pad_tables, perturbed_model
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import history
from torch import Tensor, nn

from sairlib.batch import PAD, History, State, as_rows, map_state
from sairlib.errors import UserError
from sairlib.models.recommender import (
    ClozeModel,
    Head,
    PrefixModel,
    Recommender,
    RecurrentModel,
    SequenceModel,
    StepModel,
)
from sairlib.nn.layers import UserTable


def test_there_are_models() -> None:
    assert {"sair", "sasrec"} <= set(MODELS)


@every_model
def test_shapes(name: str) -> None:
    model = make_model(name).eval()
    items_BN = histories(3, 8, 1, 0)
    newest = model.newest(history(items_BN))
    assert model.n_items == M
    assert isinstance(model, StepModel | SequenceModel | ClozeModel), "its type must say what a state has seen"
    assert {len(part) for part in as_rows(newest)} == {4}
    assert model.head.score(newest, torch.ones(4, 5, dtype=torch.long)).shape == (4, 5)
    assert model.head.score_shared(newest, torch.ones(5, dtype=torch.long)).shape == (4, 5)
    assert model.head.score_all(newest).shape == (4, M + 1)
    if isinstance(model, StepModel | ClozeModel):
        states = model.encode(history(items_BN))
        for part, of_newest in zip(as_rows(states), as_rows(newest), strict=True):
            assert part.shape == (4, MAX_LEN, *of_newest.shape[1:])
        assert model.head.score(states, torch.ones(4, MAX_LEN, 5, dtype=torch.long)).shape == (4, MAX_LEN, 5)
        assert model.head.score_shared(states, torch.ones(5, dtype=torch.long)).shape == (4, MAX_LEN, 5)


@every_model
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, MAX_LEN), min_size=1, max_size=5))
def test_the_newest_state_is_the_state_at_the_newest_item(name: str, lengths: list[int]) -> None:
    model, items_BN = cached_model(name), histories(*lengths)
    if not isinstance(model, StepModel):
        pytest.skip("has only a newest state, or computes it differently")
    check_the_newest(model, items_BN, lengths)


@every_model
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, MAX_LEN), min_size=1, max_size=5))
def test_the_states_of_all_prefixes_are_the_newest_states_of_each(name: str, lengths: list[int]) -> None:
    model, items_BN = cached_model(name), histories(*lengths)
    if not isinstance(model, PrefixModel):
        pytest.skip("does not make the states of all prefixes together")
    with torch.no_grad():
        together = as_rows(model.encode_prefixes(history(items_BN)))
        for step in range(max(lengths)):
            real_B = items_BN[:, step] != PAD
            alone = as_rows(model.newest(history(items_BN[:, : step + 1])))
            for every, one in zip(together, alone, strict=True):
                torch.testing.assert_close(every[real_B, step], one[real_B], rtol=1e-4, atol=1e-5)


@every_model
def test_items_older_than_the_memory_change_nothing(name: str) -> None:
    """Also for histories longer than any in training."""
    model = cached_model(name)
    if not isinstance(model, StepModel) or model.memory is None:
        pytest.skip("remembers all")
    size = model.memory
    lengths = [M, M - 5, size + 1, size, size - 1, 0]
    items_BN = histories(*lengths, width=M)
    check_the_newest(model, items_BN, lengths)
    long_BN = items_BN[:1]
    older_BN, within_BN = (torch.where(torch.arange(M) < M - n_new, 1 + long_BN % M, long_BN) for n_new in (size, 0))
    with torch.no_grad():
        expected, older, within = (model.newest(history(items)) for items in (long_BN, older_BN, within_BN))
    for a, b in zip(as_rows(expected), as_rows(older), strict=True):
        assert torch.equal(a, b)
    if name not in UNTRAINED | {"bpr-mf"}:
        assert any(not torch.equal(a, b) for a, b in zip(as_rows(expected), as_rows(within), strict=True))


@torch.no_grad()
def check_the_newest(model: StepModel, items_BN: Tensor, lengths: list[int]) -> None:
    last = [max(length - 1, 0) for length in lengths]
    states, newest = model.encode(history(items_BN)), model.newest(history(items_BN))
    for every, one in zip(as_rows(states), as_rows(newest), strict=True):
        torch.testing.assert_close(one, every[range(len(last)), last], rtol=1e-4, atol=1e-5)


@every_model
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, MAX_LEN), seed=st.integers(0, 99))
def test_stepping_through_sequences_gives_the_states_of_the_whole(name: str, n: int, seed: int) -> None:
    model = cached_model(name)
    if not isinstance(model, RecurrentModel):
        pytest.skip("has no state that is carried from step to step")
    shown = history(torch.randint(1, M + 1, (3, n), generator=torch.Generator().manual_seed(seed)))
    with torch.no_grad():
        carried, states = model.start(3), []
        for t in range(n):
            one = History(shown.users_B, shown.items_BN[:, t : t + 1], cast(Tensor, shown.times_BN)[:, t : t + 1])
            state, carried = model.step(one, carried)
            states.append(as_rows(state))
            assert all(len(part) == 3 and part.is_floating_point() for part in carried)
        whole = as_rows(model.encode(shown))
    for part, steps in zip(whole, zip(*states, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(steps, 1), part, rtol=1e-4, atol=1e-5)


# Causality: a state depends only on its item and the items before.


@contextmanager
def looked_up(model: nn.Module, items_BN: Tensor) -> Iterator[list[Tensor]]:
    """Collects, during a forward pass, every float output (B, N, ...) of a module that was given ``items_BN``."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[object, ...], output: object) -> None:
        given_items = bool(arguments) and isinstance(arguments[0], Tensor) and arguments[0] is items_BN
        if module is not model and given_items and isinstance(output, Tensor) and output.shape[:2] == items_BN.shape:
            outputs.append(output)

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def numbers(states: State) -> Tensor:
    """All real numbers of the states at each step (B, N, X)."""
    return torch.cat([part.flatten(2) for part in as_rows(states) if part.is_floating_point()], -1)


def check_no_gradient_from_the_future(model: StepModel) -> None:
    """In training mode, dropout and all, by autograd: exactly 0 from step t to everything looked up after t."""
    items_BN = histories(8, 8)
    with looked_up(model, items_BN) as inputs:
        states_BNX = numbers(model.train().encode(history(items_BN)))
    if not inputs:  # a model without a past, or one whose lookups escape the hook: compare states instead
        others_BN = 1 + items_BN % M
        before, after = (numbers(model.eval().encode(history(items))) for items in (items_BN, others_BN))
        assert torch.equal(before, after), "no module looks items up"
        return
    direction_X = torch.randn(states_BNX.shape[-1])
    for t in range(MAX_LEN):
        gradients = torch.autograd.grad(
            (states_BNX[:, t] @ direction_X).sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert any(gradient[:, t].any() for gradient in gradients), f"step {t} does not see its own item"
        for gradient in gradients:
            assert not gradient[:, t + 1 :].any(), f"step {t} sees the future"


def check_later_items_change_nothing(model: StepModel, length: int, t: int, seed: int) -> None:
    """Nor do their times."""
    before_BN = histories(length)
    others = torch.randint(1, M + 1, before_BN.shape, generator=torch.Generator().manual_seed(seed))
    later = torch.arange(MAX_LEN) > t
    after_BN = torch.where(later & (before_BN != PAD), others, before_BN)
    times_BN = history(before_BN).times_BN
    assert times_BN is not None
    other_times_BN = torch.where(later & (before_BN != PAD), times_BN + seed + 1, times_BN)
    shown = (history(before_BN), history(after_BN)._replace(times_BN=other_times_BN))
    before, after = (model.encode(one) for one in shown)
    for a, b in zip(as_rows(before), as_rows(after), strict=True):
        assert torch.equal(a[:, : t + 1], b[:, : t + 1])


@every_model
def test_no_gradient_from_a_step_to_later_items(name: str) -> None:
    model = perturbed_model(name)
    if not isinstance(model, StepModel):
        pytest.skip("sees the whole sequence, and says so by its type")
    check_no_gradient_from_the_future(model)


@every_model
@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, MAX_LEN), t=st.integers(0, MAX_LEN - 1), seed=st.integers(0, 99))
def test_later_items_leave_earlier_states_bit_equal(name: str, length: int, t: int, seed: int) -> None:
    model = cached_model(name)
    if not isinstance(model, StepModel):
        pytest.skip("sees the whole sequence, and says so by its type")
    with torch.no_grad():
        check_later_items_change_nothing(model, length, t, seed)


@cache
def cached_model(name: str) -> Recommender:
    return perturbed_model(name)


@final
class Leaky(StepModel):
    """Adds a whisper of the next item to every state, and claims that every step may be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(M + 1, 4)

    def encode(self, history: History) -> Tensor:
        own: Tensor = self.table(history.items_BN)
        return own + 1e-6 * own.roll(-1, 1)

    @property
    def head(self) -> Head:
        raise NotImplementedError


def test_a_leak_is_caught() -> None:
    with pytest.raises(AssertionError, match="sees the future"):
        check_no_gradient_from_the_future(Leaky())
    with pytest.raises(AssertionError):
        check_later_items_change_nothing(Leaky().eval(), length=8, t=3, seed=0)


# Padding and empty histories.


@every_model
def test_values_in_pad_rows_change_no_score(name: str) -> None:
    model = perturbed_model(name)
    shown = history(histories(1, 3, 8))
    with torch.no_grad():
        before_BC = model.head.score_all(model.newest(shown))[:, 1:]
        tables = pad_tables(model)
        for table in tables:
            table.weight[PAD] = 1e6
        after_BC = model.head.score_all(model.newest(shown))[:, 1:]
    assert tables or name in UNTRAINED
    assert torch.equal(before_BC, after_BC)


@every_model
def test_longer_padding_changes_no_score(name: str) -> None:
    model = perturbed_model(name)
    scores = []
    for width in (3, 4, MAX_LEN):
        scores.append(model.head.score_all(model.newest(history(histories(3, 1, 2, width=width)))))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores[0], scores[2], rtol=1e-5, atol=1e-5)
    assert name in UNTRAINED or scores[0].std(0)[1:].min() > 1e-3, "all users get the same scores: nothing was compared"


@every_model
@pytest.mark.parametrize("lengths", [(0,), (0, 3, 0)], ids=["alone", "among others"])
def test_an_empty_history_gives_finite_scores(name: str, lengths: tuple[int, ...]) -> None:
    model = perturbed_model(name)
    newest = model.newest(history(histories(*lengths)))
    learning = [part.square().sum() for part in as_rows(newest) if part.requires_grad]
    if learning:
        torch.stack(learning).sum().backward()
    assert model.head.score_all(newest)[:, 1:].isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Scores.


@every_model
def test_score_is_score_all_gathered(name: str) -> None:
    model = perturbed_model(name)
    shown, head = history(histories(2, 8, 5)), model.head
    if isinstance(model, StepModel | ClozeModel):
        states = model.encode(shown)
    else:
        states = map_state(lambda part: part[:, None], model.newest(shown))
    n_steps = as_rows(states)[0].shape[1]
    candidates_BNC = torch.randint(1, M + 1, (3, n_steps, 7))
    at_each = [map_state(lambda part, t=t: part[:, t], states) for t in range(n_steps)]
    all_BNM = torch.stack([head.score_all(state) for state in at_each], 1)
    expected_BNC = all_BNM.gather(-1, candidates_BNC)
    torch.testing.assert_close(head.score(states, candidates_BNC), expected_BNC, rtol=1e-4, atol=1e-4)
    shared_C = torch.randperm(M)[:7] + 1
    torch.testing.assert_close(head.score_shared(states, shared_C), all_BNM[..., shared_C], rtol=1e-4, atol=1e-4)
    assert expected_BNC.std() > 1e-3, "all scores are alike: nothing was compared"


@every_model
def test_a_user_never_seen_is_refused_not_taken_for_another(name: str) -> None:
    model, items_BN = make_model(name).eval(), histories(3)
    if not any(isinstance(module, UserTable) for module in model.modules()):
        shown = (history(items_BN)._replace(users_B=torch.tensor([user])) for user in (0, 10**6))
        one, other = (as_rows(model.newest(by)) for by in shown)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        return
    with pytest.raises(UserError, match="user number 1000000 is unknown"):
        model.newest(History(torch.tensor([10**6]), items_BN))
