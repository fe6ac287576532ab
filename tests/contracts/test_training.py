"""What every model promises of its training: it learns, the seed decides, weights can be kept. Nothing to register."""

import io

import pytest
import torch
from every import (
    MAX_LEN,
    NO_MEMORY,
    UNTRAINED,
    M,
    a_batch,
    every_model,
    histories,
    loss,
    made,
    objective,
    pad_tables,
    store,
    users,
    warmed,
)
from torch import Tensor
from torch.nn.functional import softplus

from sairlib.batch import PAD
from sairlib.objectives import NextItem


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
