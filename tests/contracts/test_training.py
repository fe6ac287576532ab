"""What every model promises of training: it learns, the seed decides, weights can be saved. Finds models itself."""

import io

import pytest
import torch
from all_models import (
    MAX_LEN,
    NO_MEMORY,
    UNTRAINED,
    M,
    every_model,
    histories,
    loss,
    make_model,
    objective,
    pad_tables,
    perturbed_model,
    store,
    training_batch,
)
from small_data import history
from torch import Tensor
from torch.nn.functional import softplus

from sairlib.batch import PAD, Batch, Negatives, map_state
from sairlib.training.gbce import GBCE
from sairlib.training.losses import BCE, DrawnLoss
from sairlib.training.negatives import Uniform
from sairlib.training.objectives import NextItem
from sairlib.training.pairwise_losses import BPR, TOP1, BPRMax, Hinge, TOP1Max
from sairlib.training.softmax_losses import SampledSoftmax

DRAWN = [BCE(), GBCE(M), BPR(), BPRMax(), TOP1(), TOP1Max(), Hinge(), SampledSoftmax()]


@every_model
def test_learns_8_users_by_heart(name: str) -> None:
    """Every prefix of every user's sequence ranks its next item first among all, by the scores of the evaluation."""
    if name in NO_MEMORY:
        pytest.skip("cannot tell all prefixes apart")
    model = make_model(name).eval()  # no dropout: this is about what the model can hold
    # No two sequences begin alike, and none repeats an item: every prefix decides its next item.
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
    batch = Batch(history(items_BN)._replace(users_B=users_B), targets_B[:, None, None], None)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(201):
        if step % 20 == 0:
            with torch.no_grad():
                scores_BM = model.head.score_all(model.newest(batch.history))
            if torch.equal(scores_BM[:, 1:].argmax(1) + 1, targets_B):
                return
        states = model.newest(batch.history)
        scores_BC = model.head.score(states, candidates_BC)
        each_B = softplus(scores_BC[:, 1:] - scores_BC[:, :1]).sum(1)  # of differences: for distances too
        total = each_B.mean() + sum(model.auxiliary(batch, states).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        model.after_step()
    pytest.fail("after 200 steps some next items are not ranked first")


def one_epoch(name: str, seed: int) -> dict[str, Tensor]:
    model, generator = make_model(name, seed).train(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for rows in store().epoch(2, 8, generator):
        optimizer.zero_grad()
        [(batch, _)] = objective(name).batches(rows, generator)
        loss(name, model, batch).backward()
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
@pytest.mark.parametrize("cost", DRAWN, ids=lambda cost: cost.name)
def test_a_single_target_costs_what_it_costs_among_others(name: str, cost: DrawnLoss) -> None:
    """A batch of one user with one step: its own negatives are then the same for all. One of them is PAD."""
    model = perturbed_model(name)
    states = model.newest(history(histories(3, 8)))
    targets_XS, negatives_XSC = torch.tensor([[5], [7]]), torch.tensor([[[9, PAD, 2]], [[4, 1, 3]]])
    log_expected = torch.tensor([0.3, 0.2]).log()[:, None, None]
    both_XS = cost.each(model, states, targets_XS, Negatives(negatives_XSC, log_expected))
    for row in range(2):
        state = map_state(lambda part, row=row: part[row : row + 1], states)
        own = Negatives(negatives_XSC[row : row + 1], log_expected[row : row + 1])
        torch.testing.assert_close(cost.each(model, state, targets_XS[row : row + 1], own), both_XS[row : row + 1])


@every_model
def test_state_dict_round_trip(name: str) -> None:
    model, other = perturbed_model(name), make_model(name, seed=1).eval()
    shown = history(histories(8, 2))
    expected, before = (m.head.score_all(m.newest(shown)) for m in (model, other))
    assert not torch.allclose(expected, before)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.head.score_all(other.newest(shown)), expected)


@every_model
def test_runs_under_bf16_autocast(name: str) -> None:
    if name in UNTRAINED:
        pytest.skip("nothing to train")
    model = make_model(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        cost = loss(name, model, training_batch(name))
    cost.backward()
    assert cost.dtype == torch.float32 and cost.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    reference = loss(name, make_model(name).eval(), training_batch(name))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(name, make_model(name).eval(), training_batch(name))
    torch.testing.assert_close(rounded, reference, rtol=0.05, atol=0)


@every_model
def test_pad_rows_stay_zero(name: str) -> None:
    if name in UNTRAINED:
        pytest.skip("nothing to train")
    model = make_model(name).train()
    tables = pad_tables(model)
    assert any(table.num_embeddings >= M + 1 for table in tables), "the item table has no padding_idx"
    assert not any(table.weight[PAD].any() for table in tables), "after init"
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    batch = training_batch(name)
    assert (batch.history.items_BN == PAD).any()
    if isinstance(objective(name), NextItem):
        assert (batch.targets_BNS == PAD).any()
        if isinstance(objective(name).sampler, Uniform):
            assert batch.negatives is not None and (batch.negatives.items_BNSC == PAD).any()
    for _ in range(10):
        optimizer.zero_grad()
        loss(name, model, batch).backward()
        optimizer.step()
    assert not any(table.weight[PAD].any() for table in tables), "after 10 steps"


@every_model
def test_every_parameter_learns(name: str) -> None:
    """With the yaml's settings. Exceptions under other settings are in the tests of that model."""
    if name in UNTRAINED:
        pytest.skip("nothing to train")
    model = make_model(name).train()
    loss(name, model, training_batch(name)).backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
