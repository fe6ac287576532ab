"""The objectives: what counts, what is drawn, what is hidden, and whom they refuse."""

from functools import partial
from typing import final

import numpy as np
import pytest
import torch
from asked import next_item, sampler
from torch import Tensor, nn
from torch.nn.functional import softplus

from sairlib.batch import PAD, Batch
from sairlib.data.dataset import Dataset
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import leave_one_out
from sairlib.errors import UserError
from sairlib.losses import bce, bpr, gbce, softmax
from sairlib.models.recommender import Recommender
from sairlib.objectives import Cloze, NextItem, Prefix

M = 12
SEQUENCES = [[1, 2, 3, 4, 5], [6, 7], list(range(1, M + 1)) * 2, [9, 9, 8, 7, 6, 5, 4, 3]]


def store(max_len: int = 50) -> SequenceStore:
    offsets = np.cumsum([0, *map(len, SEQUENCES)])
    table = np.full((M + 1, 0), PAD, np.int64)
    data = Dataset(np.concatenate(SEQUENCES), offsets, np.arange(len(SEQUENCES)), np.arange(M), table, ())
    return SequenceStore(leave_one_out(data), max_len, torch.device("cpu"))


@final
class Bigram(Recommender):
    """A score of its own for every (item, next item)."""

    n_items = M

    def __init__(self, every_step: bool = True) -> None:
        super().__init__()
        self.every_step = every_step
        self.table = nn.Embedding(M + 2, M + 1)  # the last row is the mask's

    def encode(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        states_BND: Tensor = self.table(items_BN)
        return states_BND

    def score(self, states: Tensor, items: Tensor) -> Tensor:
        return states.gather(-1, items)

    def score_shared(self, states: Tensor, items_C: Tensor) -> Tensor:
        return states[..., items_C]

    def score_all(self, states_BD: Tensor) -> Tensor:
        return states_BD

    def regularisers(self) -> dict[str, Tensor]:
        return {"size": 0.5 * self.table.weight.square().sum()}


def test_negatives_are_never_in_the_training_history_and_reach_all_else() -> None:
    """A short history cut by max_len too: what was cut is still history."""
    users_B = torch.arange(4)
    known = store(max_len=2)
    batch = next_item(known, 500).batch(known, users_B, torch.Generator().manual_seed(0))
    assert batch.items_BN.tolist() == [[1, 2], [6, 0], [8, 9], [7, 6]]
    every = set(range(1, M + 1))
    trained = [{1, 2, 3}, {6, 7}, every, {9, 8, 7, 6, 5}]
    for user in range(4):
        drawn = set(batch.negatives[user].flatten().tolist())
        assert drawn == (every - trained[user] or {PAD})


def test_the_generator_decides_the_draw() -> None:
    known = store()
    draws = [
        next_item(known, 3).batch(known, torch.arange(4), torch.Generator().manual_seed(seed)).negatives
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_inputs_and_targets_are_the_training_part_shifted_by_one() -> None:
    known = store()
    batch = next_item(known, 1).batch(known, torch.tensor([3, 1, 0]), torch.Generator())
    assert batch.users_B.tolist() == [3, 1, 0]
    assert batch.items_BN.tolist() == [[9, 9, 8, 7, 6], [6, 0, 0, 0, 0], [1, 2, 0, 0, 0]]
    assert batch.targets_BNS.squeeze(2).tolist() == [[9, 8, 7, 6, 5], [7, 0, 0, 0, 0], [2, 3, 0, 0, 0]]
    assert batch.negatives.shape == (3, 5, 1, 1)


def test_the_loss_is_over_the_steps_that_count_and_their_real_negatives() -> None:
    torch.manual_seed(0)
    model = Bigram()
    batch = Batch(
        torch.tensor([0, 1]),
        torch.tensor([[1, 2], [6, 0]]),
        torch.tensor([[2, 3], [7, 0]])[..., None],
        torch.tensor([[[4, 5], [6, 4]], [[8, PAD], [8, 9]]])[:, :, None],
        torch.zeros(2, 1, 1, 1),
    )
    table = model.table.weight.tolist()
    pairs = {1: (2, [4, 5]), 2: (3, [6, 4]), 6: (7, [8])}
    wanted = 0.0
    for item, (target, negatives) in pairs.items():
        wanted += np.log1p(np.exp(-table[item][target])) + sum(np.log1p(np.exp(table[item][n])) for n in negatives)
    parts = next_item(store(), 2).loss(model, batch)
    assert list(parts) == ["bce", "size"]
    assert parts["bce"].item() == pytest.approx(wanted / 3, rel=1e-5)
    assert parts["size"].item() == pytest.approx(0.5 * sum(x * x for row in table for x in row), rel=1e-5)


@pytest.mark.parametrize("max_len", [2, 50])
def test_every_step_of_an_epoch_weighs_the_same_in_batches_of_any_length(max_len: int) -> None:
    """The gradients of an epoch's batches add up to that of all steps at once, whoever shares a batch with whom."""
    known = store(max_len)

    def gradient(batch_size: int, window: int, weigh: bool = True) -> Tensor:
        objective = next_item(known, 0, known.steps_per_batch(batch_size) if weigh else None)
        torch.manual_seed(0)
        model, generator = Bigram(), torch.Generator().manual_seed(1)
        batches = known.epoch(batch_size, window, generator)
        for users_B, _ in batches:
            (objective.loss(model, objective.batch(known, users_B, generator))["bce"] / len(batches)).backward()
        assert model.table.weight.grad is not None
        return model.table.weight.grad

    whole = gradient(4, 1, weigh=False)
    for batch_size, window in [(1, 1), (2, 8), (3, 8), (4, 8)]:
        torch.testing.assert_close(gradient(batch_size, window), whole)
    assert not torch.allclose(gradient(1, 1, weigh=False), whole, rtol=0.01)


def test_a_model_that_sees_the_whole_sequence_is_refused() -> None:
    known = store()
    objective = next_item(known, 1)
    objective.check(Bigram(every_step=True))
    with pytest.raises(UserError, match="Bigram sees the whole sequence") as caught:
        objective.check(Bigram(every_step=False))
    assert "\n" not in str(caught.value)


def test_several_targets_of_a_step_are_the_next_ones() -> None:
    known = store()
    objective = next_item(known, 2, n_targets=3)
    batch = objective.batch(known, torch.tensor([3, 1]), torch.Generator().manual_seed(0))
    assert batch.targets_BNS[0].tolist() == [[9, 8, 7], [8, 7, 6], [7, 6, 5], [6, 5, 0], [5, 0, 0]]
    assert batch.targets_BNS[1].tolist() == [[7, 0, 0]] + [[0, 0, 0]] * 4
    assert batch.negatives.shape == (2, 5, 3, 2)
    torch.manual_seed(0)
    model = Bigram()
    table = model.table.weight.tolist()
    wanted = 0.0
    for row, items in enumerate(batch.items_BN.tolist()):
        for step, item in enumerate(items):
            for target, negatives in zip(batch.targets_BNS[row, step], batch.negatives[row, step], strict=True):
                if target != PAD:
                    wanted += np.log1p(np.exp(-table[item][target]))
                    wanted += sum(np.log1p(np.exp(table[item][n])) for n in negatives)
    assert objective.loss(model, batch)["bce"].item() == pytest.approx(wanted / 6, rel=1e-5)  # 6 steps have a target


def test_a_shared_negative_does_not_count_where_it_is_the_target() -> None:
    known = store()
    objective = next_item(known, 50, kind="shared")
    batch = objective.batch(known, torch.tensor([3]), torch.Generator().manual_seed(0))
    assert batch.negatives.shape == (50,)
    torch.manual_seed(0)
    model = Bigram()
    table = model.table.weight.tolist()
    wanted = 0.0
    for item, target in zip(batch.items_BN[0].tolist(), batch.targets_BNS[0, :, 0].tolist(), strict=True):
        wanted += np.log1p(np.exp(-table[item][target]))
        wanted += sum(np.log1p(np.exp(table[item][n])) for n in batch.negatives.tolist() if n != target)
    assert objective.loss(model, batch)["bce"].item() == pytest.approx(wanted / 5, rel=1e-5)


def test_softmax_asks_about_all_items_and_draws_none() -> None:
    known = store()
    objective = next_item(known, 3, loss=softmax)
    batch = objective.batch(known, torch.tensor([3, 1]), torch.Generator())
    assert batch.negatives.numel() == 0
    torch.manual_seed(0)
    model = Bigram()
    each = model.table.weight[:, 1:].log_softmax(1)
    wanted = -sum(each[item, target - 1] for item, target in [(9, 9), (9, 8), (8, 7), (7, 6), (6, 5), (6, 7)]) / 6
    torch.testing.assert_close(objective.loss(model, batch)["softmax"], wanted)


def prefixes(batch: Batch) -> list[tuple[list[int], int]]:
    rows = zip(batch.items_BN.tolist(), batch.targets_BNS.flatten().tolist(), strict=True)
    return [([item for item in row if item], target) for row, target in rows]


def test_prefixes_of_users_are_cut_at_every_step_alike_and_ask_for_the_item_after() -> None:
    known = store(max_len=3)
    objective = Prefix(bce, sampler(known, 2), draw="users")
    batch = objective.batch(known, torch.full((6000,), 3), torch.Generator().manual_seed(0))
    whole = SEQUENCES[3][:-2]
    cuts = [whole[:end] for end in range(1, len(whole))]
    found = prefixes(batch)
    expected = [(cut[-3:], whole[len(cut)]) for cut in cuts]
    for pair in expected:
        assert abs(found.count(pair) - 6000 / len(cuts)) < 5 * 35
    assert all(pair in expected for pair in found)
    model = Bigram()
    scores = model.table.weight.detach()[[row[-1] for row, _ in found]]
    each = softplus(-scores.gather(1, batch.targets_BNS[:, 0])) + softplus(
        scores.gather(1, batch.negatives[:, 0, 0])
    ).sum(1, keepdim=True)
    torch.testing.assert_close(objective.loss(model, batch)["bce"], each.mean())


def test_pairs_of_users_and_prefixes_are_drawn_alike_whoever_has_many() -> None:
    known = store(max_len=30)
    trained = [sequence[:-2] if len(sequence) > 2 else sequence for sequence in SEQUENCES]
    pairs = [(user, items[:end], items[end]) for user, items in enumerate(trained) for end in range(1, len(items))]
    batch = Prefix(bce, sampler(known, 1)).batch(known, torch.arange(4).repeat(4000), torch.Generator().manual_seed(0))
    found = [(user, *pair) for user, pair in zip(batch.users_B.tolist(), prefixes(batch), strict=True)]
    for pair in pairs:
        assert found.count(pair) == pytest.approx(16000 / len(pairs), rel=0.25)  # 5 deviations
    assert sum(found.count(pair) for pair in pairs) == 16000


@pytest.mark.parametrize("objective", ["next_item", "prefix", "cloze"])
def test_every_step_asked_about_costs_the_same_in_batches_of_short_and_of_long_sequences(objective: str) -> None:
    """By its divisor: the same for every batch, and the mean number of steps asked about."""
    known = store()
    drawn = sampler(known, 0)
    made = {"next_item": NextItem, "prefix": Prefix, "cloze": Cloze}[objective](bce, drawn)
    made.steps_per_batch = made.steps(known) / known.n_batches(1)
    flat = Bigram(every_step=False)
    nn.init.zeros_(flat.table.weight)  # every step costs log 2
    generator = torch.Generator().manual_seed(0)
    asked, total = 0, 0.0
    for user in range(4):
        for _ in range(1000):
            batch = made.batch(known, torch.tensor([user]), generator)
            n = int((batch.targets_BNS != PAD).sum())
            cost = made.loss(flat, batch)["bce"].item()
            assert cost == pytest.approx(n * np.log(2) / made.steps_per_batch, rel=1e-4)
            asked, total = asked + n, total + cost
    assert asked / 4000 == pytest.approx(made.steps_per_batch, rel=0.03)
    assert total / 4000 == pytest.approx(np.log(2), rel=0.03)


@pytest.mark.parametrize(("mask_share", "last_share"), [(0.3, 0.0), (0.3, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_hidden_items_are_the_targets_and_nothing_else_is(mask_share: float, last_share: float) -> None:
    known = store()
    objective = Cloze(bce, sampler(known, 1), None, mask_share, last_share)
    batch = objective.batch(known, torch.tensor([0, 3, 1] * 2000), torch.Generator().manual_seed(0))
    hidden_BN, targets_BN = batch.items_BN == M + 1, batch.targets_BNS[..., 0]
    assert torch.equal(hidden_BN, targets_BN != PAD) and hidden_BN.any(1).all()
    whole_BN = torch.where(hidden_BN, targets_BN, batch.items_BN)
    assert torch.equal(whole_BN, known.windows(batch.users_B, known.train_lengths[batch.users_B], 50))
    rows_BN = hidden_BN[1::3]  # the six of user 3
    newest_alone = (rows_BN == torch.arange(rows_BN.shape[1]).eq(5)).all(1).float().mean().item()
    by_chance = (1 - last_share) * (mask_share * (1 - mask_share) ** 5 + (1 - mask_share) ** 6 / 6)
    assert newest_alone == pytest.approx(last_share + by_chance, abs=0.06)
    others = rows_BN.float().mean().item()
    assert others == pytest.approx(
        (1 - last_share) * (mask_share + (1 - mask_share) ** 6 / 6) + last_share / 6, abs=0.02
    )


def test_every_hidden_item_costs_once() -> None:
    known = store()
    objective = Cloze(bce, sampler(known, 2), None, 0.5, 0.0)
    batch = objective.batch(known, torch.tensor([0, 3, 1]), torch.Generator().manual_seed(0))
    model = Bigram(every_step=False)
    scores_M = model.table.weight.detach()[M + 1]
    each = [
        softplus(-scores_M[target]) + softplus(scores_M[negatives]).sum()
        for target, negatives in zip(batch.targets_BNS[..., 0].flatten(), batch.negatives.flatten(0, 2), strict=True)
        if target != PAD
    ]
    torch.testing.assert_close(objective.loss(model, batch)["bce"], torch.stack(each).mean())


def test_objectives_refuse_the_models_they_are_not_for() -> None:
    known = store()
    plain, filler, far = Bigram(), Bigram(every_step=False), Bigram()
    filler.mask_item, far.log_odds = M + 1, False
    drawn = sampler(known, 1)
    for objective, model, words in [
        (Cloze(bce, drawn), plain, "Bigram has no mask item"),
        (Prefix(bce, drawn), filler, "choose objective=cloze"),
        (NextItem(bce, drawn), filler, "sees the whole sequence"),
        (NextItem(bce, drawn), far, "loss=bce reads scores as log-odds"),
        (Prefix(partial(gbce, t=0.5), drawn), far, "loss=gbce reads scores as log-odds"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            objective.check(model)
        assert "\n" not in str(caught.value)
    for objective, model in [(Cloze(bce, drawn), filler), (Prefix(bce, drawn), plain), (NextItem(bpr, drawn), far)]:
        objective.check(model)


def test_more_targets_than_a_short_batch_has_steps() -> None:
    known = store()
    batch = next_item(known, 1, n_targets=3).batch(known, torch.tensor([1]), torch.Generator(), 1)
    assert batch.items_BN.tolist() == [[6]] and batch.targets_BNS.tolist() == [[[7, PAD, PAD]]]
