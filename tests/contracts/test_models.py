"""What every model promises. Each ``conf/model/*.yaml`` is found and held to all of it: nothing to register."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import final

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import softplus

from sairlib import build
from sairlib.batch import PAD, Batch
from sairlib.data.dataset import UNKNOWN, index
from sairlib.data.interactions import CATEGORY, ITEM, USER, Interactions
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Split, leave_one_out
from sairlib.errors import UserError
from sairlib.models.recommender import Recommender
from sairlib.objectives import NextItem, Objective
from sairlib.trainer import TrainingSettings

CONF = Path(__file__).resolve().parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
MAX_LEN = 8
M = 24
CPU = torch.device("cpu")

every_model = pytest.mark.parametrize("name", MODELS)

UNTRAINED = {"poprec"}
"""Counts, and has nothing to train."""
NO_MEMORY = UNTRAINED | {"attrec", "attrec-inner", "bpr-mf", "fmc", "sine", "transrec"}
"""Knows too little of the past, or holds too little, to tell all prefixes of all users apart."""


@cache
def data() -> Split:
    """8 users with 5 to 12 distinct items of 24; items have 1 to 3 of 4 genres, two have none ([UNK])."""
    rng = np.random.default_rng(0)
    actions = [(user, item) for user in range(8) for item in rng.permutation(M)[: 5 + user].tolist()]
    actions += [(8, item) for item in [*range(M), *range(M)]]  # everything: there is no negative for this user
    genres = [(item, f"genre {(item + i) % 4}") for item in range(2, M) for i in range(1 + item % 3)]
    frame = pd.DataFrame(np.array(actions), columns=[USER, ITEM])
    made = index(Interactions(frame, "made up", pd.DataFrame(genres, columns=[ITEM, CATEGORY])))
    assert made.n_items == M and UNKNOWN in made.category_names and made.item_categories.shape[1] == 3
    return leave_one_out(made)


@cache
def config(name: str) -> DictConfig:
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return compose("train", overrides=[f"model={name}", f"max_len={MAX_LEN}"])


def made(name: str, seed: int = 0) -> Recommender:
    torch.manual_seed(seed)
    return build.model(config(name), data(), CPU)


def warmed(name: str) -> Recommender:
    """In eval mode, every weight but PAD's moved off its initial value: zero biases and equal gains hide mistakes."""
    model = made(name).eval()
    model.prepare(1 + torch.randperm(M + 1, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for table in pad_tables(model):
            table.weight[PAD] = 0
    return model


def pad_tables(model: nn.Module) -> list[nn.Embedding]:
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module.padding_idx == PAD]


def histories(*lengths: int, width: int = MAX_LEN) -> Tensor:
    """Right-padded histories (B, width) of distinct items."""
    rows = [torch.randperm(M, generator=torch.Generator().manual_seed(length))[:length] + 1 for length in lengths]
    return torch.stack([nn.functional.pad(row, (0, width - len(row))) for row in rows])


def users(items_BN: Tensor) -> Tensor:
    return torch.arange(len(items_BN))


def store() -> SequenceStore:
    return SequenceStore(data(), MAX_LEN, CPU)


@cache
def objective(name: str) -> Objective:
    """The one that the yaml asks for, with two negatives."""
    return build.objective(config(name), store(), TrainingSettings(n_negatives=2))


def a_batch(name: str, seed: int = 0) -> Batch:
    known = store()
    return objective(name).batch(known, known.train_rows, torch.Generator().manual_seed(seed))


def loss(name: str, model: Recommender, batch: Batch) -> Tensor:
    return torch.stack(list(objective(name).loss(model, batch).values())).sum()


def test_there_are_models() -> None:
    assert {"sair", "sasrec"} <= set(MODELS)


@every_model
def test_shapes(name: str) -> None:
    model = made(name).eval()
    items_BN = histories(3, 8, 1, 0)
    newest_BD = model.encode_newest(items_BN, users(items_BN))
    assert model.n_items == M
    assert model.score(newest_BD, torch.ones(4, 5, dtype=torch.long)).shape == (4, 5)
    assert model.score_shared(newest_BD, torch.ones(5, dtype=torch.long)).shape == (4, 5)
    assert model.score_all(newest_BD).shape == (4, M + 1)
    if model.every_step:
        states_BND = model.encode(items_BN, users(items_BN))
        assert states_BND.shape == (4, MAX_LEN, newest_BD.shape[1])
        assert model.score(states_BND, torch.ones(4, MAX_LEN, 5, dtype=torch.long)).shape == (4, MAX_LEN, 5)
        assert model.score_shared(states_BND, torch.ones(5, dtype=torch.long)).shape == (4, MAX_LEN, 5)


@every_model
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, MAX_LEN), min_size=1, max_size=5))
def test_the_newest_state_is_the_state_at_the_newest_item(name: str, lengths: list[int]) -> None:
    model, items_BN = kept(name), histories(*lengths)
    if not model.every_step:
        pytest.skip("has no state but the newest")
    last = [max(length - 1, 0) for length in lengths]
    with torch.no_grad():
        states_BND = model.encode(items_BN, users(items_BN))
        newest_BD = model.encode_newest(items_BN, users(items_BN))
    torch.testing.assert_close(newest_BD, states_BND[range(len(last)), last], rtol=1e-4, atol=1e-5)


# Causality: a state is a function of what came up to it.


@contextmanager
def looked_up(model: nn.Module, items_BN: Tensor) -> Iterator[list[Tensor]]:
    """Collects, during a forward pass, every float output (B, N, ...) of a module that was given ``items_BN``."""
    found: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[object, ...], output: object) -> None:
        given_items = bool(arguments) and isinstance(arguments[0], Tensor) and arguments[0] is items_BN
        if module is not model and given_items and isinstance(output, Tensor) and output.shape[:2] == items_BN.shape:
            found.append(output)

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def check_no_gradient_from_the_future(model: Recommender) -> None:
    """In training mode, dropout and all, by autograd: exactly 0 from step t to whatever was looked up after t."""
    items_BN = histories(8, 8)
    with looked_up(model.train(), items_BN) as inputs:
        states_BND = model.encode(items_BN, users(items_BN))
    if not inputs:  # a model without a past, or one whose lookups escape the hook: the states tell
        others_BN = 1 + items_BN % M
        changed_BND = model.eval().encode(others_BN, users(items_BN))
        assert torch.equal(model.encode(items_BN, users(items_BN)), changed_BND), "no module looks items up"
        return
    direction_D = torch.randn(states_BND.shape[-1])
    for t in range(MAX_LEN):
        gradients = torch.autograd.grad(
            (states_BND[:, t] @ direction_D).sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert any(gradient[:, t].any() for gradient in gradients), f"step {t} does not see its own item"
        for gradient in gradients:
            assert not gradient[:, t + 1 :].any(), f"step {t} sees the future"


def check_later_items_change_nothing(model: Recommender, length: int, t: int, seed: int) -> None:
    before_BN = histories(length)
    others = torch.randint(1, M + 1, before_BN.shape, generator=torch.Generator().manual_seed(seed))
    later = torch.arange(MAX_LEN) > t
    after_BN = torch.where(later & (before_BN != PAD), others, before_BN)
    before, after = (model.encode(items_BN, users(items_BN)) for items_BN in (before_BN, after_BN))
    assert torch.equal(before[:, : t + 1], after[:, : t + 1])


@every_model
def test_no_gradient_from_a_step_to_later_items(name: str) -> None:
    model = warmed(name)
    if not model.every_step:
        pytest.skip("sees the whole sequence, and says so by every_step=False")
    check_no_gradient_from_the_future(model)


@every_model
@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, MAX_LEN), t=st.integers(0, MAX_LEN - 1), seed=st.integers(0, 99))
def test_later_items_leave_earlier_states_bit_equal(name: str, length: int, t: int, seed: int) -> None:
    model = kept(name)
    if not model.every_step:
        pytest.skip("sees the whole sequence, and says so by every_step=False")
    with torch.no_grad():
        check_later_items_change_nothing(model, length, t, seed)


@cache
def kept(name: str) -> Recommender:
    return warmed(name)


@final
class Leaky(Recommender):
    """Adds a whisper of the next item to every state, and claims that every step may be trained."""

    every_step = True

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(M + 1, 4)

    def encode(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        own: Tensor = self.table(items_BN)
        return own + 1e-6 * own.roll(-1, 1)

    def score(self, states: Tensor, items: Tensor) -> Tensor:
        raise NotImplementedError

    def score_all(self, states_BD: Tensor) -> Tensor:
        raise NotImplementedError


def test_a_leak_is_caught() -> None:
    with pytest.raises(AssertionError, match="sees the future"):
        check_no_gradient_from_the_future(Leaky())
    with pytest.raises(AssertionError):
        check_later_items_change_nothing(Leaky().eval(), length=8, t=3, seed=0)


# Padding and empty histories.


@every_model
def test_what_stands_in_pad_rows_changes_no_score(name: str) -> None:
    model = warmed(name)
    items_BN = histories(1, 3, 8)
    with torch.no_grad():
        before_BC = model.score_all(model.encode_newest(items_BN, users(items_BN)))[:, 1:]
        tables = pad_tables(model)
        for table in tables:
            table.weight[PAD] = 1e6
        after_BC = model.score_all(model.encode_newest(items_BN, users(items_BN)))[:, 1:]
    assert tables or name in UNTRAINED
    assert torch.equal(before_BC, after_BC)


@every_model
def test_longer_padding_changes_no_score(name: str) -> None:
    model = warmed(name)
    scores = []
    for width in (3, 4, MAX_LEN):
        items_BN = histories(3, 1, 2, width=width)
        scores.append(model.score_all(model.encode_newest(items_BN, users(items_BN))))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores[0], scores[2], rtol=1e-5, atol=1e-5)
    assert name in UNTRAINED or scores[0].std(0)[1:].min() > 1e-3, "all users get the same scores: nothing was compared"


@every_model
@pytest.mark.parametrize("lengths", [(0,), (0, 3, 0)], ids=["alone", "among others"])
def test_an_empty_history_gives_finite_scores(name: str, lengths: tuple[int, ...]) -> None:
    model = warmed(name)
    items_BN = histories(*lengths)
    newest_BD = model.encode_newest(items_BN, users(items_BN))
    if newest_BD.requires_grad:
        newest_BD.square().sum().backward()
    assert model.score_all(newest_BD)[:, 1:].isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Scores.


@every_model
def test_score_is_score_all_gathered(name: str) -> None:
    model = warmed(name)
    items_BN = histories(2, 8, 5)
    if model.every_step:
        states_BND = model.encode(items_BN, users(items_BN))
    else:
        states_BND = model.encode_newest(items_BN, users(items_BN))[:, None]
    candidates_BNC = torch.randint(1, M + 1, (*states_BND.shape[:2], 7))
    all_BNM = torch.stack([model.score_all(states_BND[:, t]) for t in range(states_BND.shape[1])], 1)
    wanted_BNC = all_BNM.gather(-1, candidates_BNC)
    torch.testing.assert_close(model.score(states_BND, candidates_BNC), wanted_BNC, rtol=1e-4, atol=1e-4)
    shared_C = torch.randperm(M)[:7] + 1
    torch.testing.assert_close(model.score_shared(states_BND, shared_C), all_BNM[..., shared_C], rtol=1e-4, atol=1e-4)
    assert wanted_BNC.std() > 1e-3, "all scores are alike: nothing was compared"


@every_model
def test_a_user_never_seen_is_refused_not_taken_for_another(name: str) -> None:
    model, items_BN = made(name).eval(), histories(3)
    if not model.uses_users:
        assert torch.equal(*(model.encode_newest(items_BN, torch.tensor([user])) for user in (0, 10**6)))
        return
    with pytest.raises(UserError, match="user number 1000000 is unknown"):
        model.encode_newest(items_BN, torch.tensor([10**6]))


# Training.


@every_model
def test_learns_8_users_by_heart(name: str) -> None:
    """Every prefix of every user's sequence ranks its next item first among all, by the scores of the evaluation."""
    if name in NO_MEMORY:
        pytest.skip("cannot tell all prefixes apart")
    model = made(name).eval()  # no dropout: this is about what the model can hold
    # No two begin alike, and no item comes twice: nothing is left to chance.
    first_U1 = torch.arange(1, 9)[:, None]
    others_UN = torch.stack([torch.randperm(M - 1) for _ in range(8)])[:, : MAX_LEN - 1] + 1
    sequences_UN = torch.cat([first_U1, others_UN + (others_UN >= first_U1)], 1)
    prefixes = [(user, t) for user in range(8) for t in range(1, MAX_LEN)]
    users_B = torch.tensor([user for user, _ in prefixes])
    items_BN = torch.stack([torch.where(torch.arange(MAX_LEN) < t, sequences_UN[user], PAD) for user, t in prefixes])
    targets_B = torch.stack([sequences_UN[user, t] for user, t in prefixes])
    every_M = torch.arange(1, M + 1)
    others_BC = torch.stack([every_M[every_M != target] for target in targets_B])
    candidates_BC = torch.cat([targets_B[:, None], others_BC], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        scores_BC = model.score(model.encode_newest(items_BN, users_B), candidates_BC)
        each_B = softplus(scores_BC[:, 1:] - scores_BC[:, :1]).sum(1)  # of differences: for distances too
        total = each_B.mean() + sum(model.regularisers().values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        model.after_step()
    with torch.no_grad():
        scores_BM = model.score_all(model.encode_newest(items_BN, users_B))
    assert torch.equal(scores_BM[:, 1:].argmax(1) + 1, targets_B)


def one_epoch(name: str, seed: int) -> dict[str, Tensor]:
    model, known, generator = made(name, seed).train(), store(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for users_B, _ in known.epoch(2, 8, generator):
        optimizer.zero_grad()
        loss(name, model, objective(name).batch(known, users_B, generator)).backward()
        optimizer.step()
    return model.state_dict()


@every_model
def test_the_seed_decides_the_weights_after_an_epoch(name: str) -> None:
    if name in UNTRAINED:
        pytest.skip("nothing to train")
    first, again, other = one_epoch(name, 1), one_epoch(name, 1), one_epoch(name, 2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_model
def test_state_dict_round_trip(name: str) -> None:
    model, other = warmed(name), made(name, seed=1).eval()
    items_BN = histories(8, 2)
    wanted, before = (m.score_all(m.encode_newest(items_BN, users(items_BN))) for m in (model, other))
    assert not torch.allclose(wanted, before)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.score_all(other.encode_newest(items_BN, users(items_BN))), wanted)


@every_model
def test_runs_under_bf16_autocast(name: str) -> None:
    if name in UNTRAINED:
        pytest.skip("nothing to train")
    model = made(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(name, model, a_batch(name))
    found.backward()
    assert found.dtype == torch.float32 and found.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    reference = loss(name, made(name).eval(), a_batch(name))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(name, made(name).eval(), a_batch(name))
    torch.testing.assert_close(rounded, reference, rtol=0.05, atol=0)


@every_model
def test_pad_rows_stay_zero(name: str) -> None:
    if name in UNTRAINED:
        pytest.skip("nothing to train")
    model = made(name).train()
    tables = pad_tables(model)
    assert any(table.num_embeddings >= M + 1 for table in tables), "the item table has no padding_idx"
    assert not any(table.weight[PAD].any() for table in tables), "after init"
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    batch = a_batch(name)
    assert (batch.items_BN == PAD).any()
    if objective(name).sampler.kind == "uniform" and isinstance(objective(name), NextItem):
        assert (batch.negatives == PAD).any() or objective(name).full
        assert (batch.targets_BNS == PAD).any()
    for _ in range(10):
        optimizer.zero_grad()
        loss(name, model, batch).backward()
        optimizer.step()
    assert not any(table.weight[PAD].any() for table in tables), "after 10 steps"


@every_model
def test_every_parameter_learns(name: str) -> None:
    """As the yaml has it. What a docstring excepts under another setting stands in the tests of that model."""
    if name in UNTRAINED:
        pytest.skip("nothing to train")
    model = made(name).train()
    loss(name, model, a_batch(name)).backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
