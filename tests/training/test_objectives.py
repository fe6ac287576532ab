"""The objectives: which steps count, what is drawn and hidden, and which models and losses they refuse."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import small_data
import torch
from objective_helpers import batch_of, next_item, sampler
from tiny_models import Bigram, Filler, M, Whole
from torch import Tensor, nn
from torch.nn.functional import softplus

from sairlib.batch import PAD, Batch, History, Negatives
from sairlib.data.sequences import Rows, SequenceStore
from sairlib.errors import UserError
from sairlib.models.recommender import Recommender
from sairlib.training.gbce import GBCE
from sairlib.training.losses import BCE, Loss
from sairlib.training.objectives import NextItem, Objective
from sairlib.training.pairwise_losses import BPR
from sairlib.training.softmax_losses import Softmax
from sairlib.training.whole_objectives import Cloze, Prefix

SEQUENCES = [[1, 2, 3, 4, 5], [6, 7], list(range(1, M + 1)) * 2, [9, 9, 8, 7, 6, 5, 4, 3]]


def make_store(max_len: int = 50) -> SequenceStore:
    return SequenceStore(small_data.make_split(SEQUENCES, M), max_len, torch.device("cpu"))


def divided_by(divisor: float, objective: Objective) -> Objective:
    """The objective, its batches' losses divided by this."""
    objective.steps_per_batch = divisor
    return objective


def negatives_of(batch: Batch) -> Tensor:
    """The negatives of each target."""
    assert batch.negatives is not None and not batch.negatives.shared
    return batch.negatives.items_BNSC


def test_negatives_are_never_in_the_training_history_and_reach_all_else() -> None:
    """A short history cut by max_len too: items cut off still count as history."""
    batch = batch_of(next_item(make_store(max_len=2), 500), torch.arange(4))
    assert batch.history.items_BN.tolist() == [[1, 2], [6, 0], [8, 9], [7, 6]]
    every = set(range(1, M + 1))
    trained = [{1, 2, 3}, {6, 7}, every, {9, 8, 7, 6, 5}]
    for user in range(4):
        drawn = set(negatives_of(batch)[user].flatten().tolist())
        assert drawn == (every - trained[user] or {PAD})


def test_the_generator_decides_the_draw() -> None:
    draws = [negatives_of(batch_of(next_item(make_store(), 3), torch.arange(4), seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_inputs_and_targets_are_the_training_part_shifted_by_one() -> None:
    batch = batch_of(next_item(make_store(), 1), torch.tensor([3, 1, 0]))
    assert batch.history.users_B.tolist() == [3, 1, 0]
    assert batch.history.items_BN.tolist() == [[9, 9, 8, 7, 6], [6, 0, 0, 0, 0], [1, 2, 0, 0, 0]]
    assert batch.targets_BNS.squeeze(2).tolist() == [[9, 8, 7, 6, 5], [7, 0, 0, 0, 0], [2, 3, 0, 0, 0]]
    assert negatives_of(batch).shape == (3, 5, 1, 1)


def test_the_loss_is_over_the_steps_that_count_and_their_real_negatives() -> None:
    torch.manual_seed(0)
    model = Bigram()
    batch = Batch(
        History(torch.tensor([0, 1]), torch.tensor([[1, 2], [6, 0]])),
        torch.tensor([[2, 3], [7, 0]])[..., None],
        Negatives(torch.tensor([[[4, 5], [6, 4]], [[8, PAD], [8, 9]]])[:, :, None], torch.zeros(2, 1, 1, 1)),
    )
    table = model.table.weight.tolist()
    pairs = {1: (2, [4, 5]), 2: (3, [6, 4]), 6: (7, [8])}
    expected = 0.0
    for item, (target, negatives) in pairs.items():
        expected += np.log1p(np.exp(-table[item][target])) + sum(np.log1p(np.exp(table[item][n])) for n in negatives)
    size = 0.5 * sum(x * x for row in table for x in row)
    objective = divided_by(7.0, next_item(make_store(), 2))
    for share in (1.0, 0.25):
        parts = objective.loss(model, batch, share)
        assert list(parts) == ["bce", "size"]
        assert parts["bce"].item() == pytest.approx(expected / 7, rel=1e-5)
        assert parts["size"].item() == pytest.approx(share * size, rel=1e-5)


@pytest.mark.parametrize("max_len", [2, 50])
def test_every_step_of_an_epoch_weighs_the_same_in_batches_of_any_length(max_len: int) -> None:
    """The gradients of an epoch's batches add up to that of all steps at once, however users are batched."""
    store = make_store(max_len)

    def gradient(batch_size: int, window: int, weigh: bool = True) -> Tensor:
        objective = next_item(store, loss=Softmax(), kind="none", batch_size=batch_size)
        torch.manual_seed(0)
        model, generator = Bigram(), torch.Generator().manual_seed(1)
        batches = store.epoch(batch_size, window, generator)
        for rows in batches:
            [(batch, share)] = objective.batches(rows, generator)
            if not weigh:
                objective.steps_per_batch = float((batch.targets_BNS != PAD).sum())
            (objective.loss(model, batch, share)["softmax"] / len(batches)).backward()
        assert model.table.weight.grad is not None
        return model.table.weight.grad

    whole = gradient(4, 1, weigh=False)
    for batch_size, window in [(1, 1), (2, 8), (3, 8), (4, 8)]:
        torch.testing.assert_close(gradient(batch_size, window), whole)
    assert not torch.allclose(gradient(1, 1, weigh=False), whole, rtol=0.01)


def test_several_targets_of_a_step_are_the_next_ones() -> None:
    objective = next_item(make_store(), 2, n_targets=3, steps_per_batch=6.0)  # 6 steps have a target
    batch = batch_of(objective, torch.tensor([3, 1]))
    assert batch.targets_BNS[0].tolist() == [[9, 8, 7], [8, 7, 6], [7, 6, 5], [6, 5, 0], [5, 0, 0]]
    assert batch.targets_BNS[1].tolist() == [[7, 0, 0]] + [[0, 0, 0]] * 4
    assert negatives_of(batch).shape == (2, 5, 3, 2)
    torch.manual_seed(0)
    model = Bigram()
    table = model.table.weight.tolist()
    expected = 0.0
    for row, items in enumerate(batch.history.items_BN.tolist()):
        for step, item in enumerate(items):
            for target, negatives in zip(batch.targets_BNS[row, step], negatives_of(batch)[row, step], strict=True):
                if target != PAD:
                    expected += np.log1p(np.exp(-table[item][target]))
                    expected += sum(np.log1p(np.exp(table[item][n])) for n in negatives)
    assert objective.loss(model, batch)["bce"].item() == pytest.approx(expected / 6, rel=1e-5)


def test_a_shared_negative_does_not_count_where_it_is_the_target() -> None:
    objective = next_item(make_store(), 50, kind="shared", steps_per_batch=5.0)
    batch = batch_of(objective, torch.tensor([3]))
    assert batch.negatives is not None and batch.negatives.items_BNSC.shape == (1, 1, 1, 50)
    shared = batch.negatives.items_BNSC.flatten().tolist()
    torch.manual_seed(0)
    model = Bigram()
    table = model.table.weight.tolist()
    expected = 0.0
    for item, target in zip(batch.history.items_BN[0].tolist(), batch.targets_BNS[0, :, 0].tolist(), strict=True):
        expected += np.log1p(np.exp(-table[item][target]))
        expected += sum(np.log1p(np.exp(table[item][n])) for n in shared if n != target)
    assert objective.loss(model, batch)["bce"].item() == pytest.approx(expected / 5, rel=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "shared"])
def test_pieces_are_the_whole_batch_and_share_their_shared_negatives(kind: str) -> None:
    store = make_store()
    objective = next_item(store, 20, kind=kind)
    rows = Rows(torch.arange(4), 21)
    pieces = list(objective.batches(rows, torch.Generator().manual_seed(0), steps_at_once=40))
    users = [piece.history.users_B.tolist() for piece, _ in pieces]
    assert sorted(map(sorted, users)) == [[0, 1], [2, 3]]
    assert [share for _, share in pieces] == [0.5, 0.5]
    first, second = (piece.negatives for piece, _ in pieces)
    assert first is not None and second is not None and first.shared == second.shared == (kind == "shared")
    if kind == "shared":
        assert torch.equal(first.items_BNSC, second.items_BNSC)


@pytest.mark.parametrize("user", [1, 2])
def test_a_batch_of_one_target_has_its_own_negatives(user: int) -> None:
    """User 2 has had every item, so there is no negative."""
    objective = Prefix(BCE(), sampler(make_store(), 3), make_store(), 1, draw="users")
    objective.steps_per_batch = 1.0
    batch = batch_of(objective, torch.tensor([user]))
    assert batch.negatives is not None
    negatives = batch.negatives.items_BNSC.flatten()
    assert (negatives != PAD).tolist() == [user == 1] * 3
    torch.manual_seed(0)
    model = Bigram()
    scores_M = model.table.weight[batch.history.items_BN[batch.history.items_BN != PAD][-1]]
    expected = softplus(-scores_M[batch.targets_BNS.item()]) + softplus(scores_M[negatives[negatives != PAD]]).sum()
    torch.testing.assert_close(objective.loss(model, batch)["bce"], expected)


def test_softmax_is_over_all_items_and_draws_none() -> None:
    objective = next_item(make_store(), loss=Softmax(), kind="none", steps_per_batch=6.0)
    batch = batch_of(objective, torch.tensor([3, 1]))
    assert batch.negatives is None
    torch.manual_seed(0)
    model = Bigram()
    each = model.table.weight[:, 1:].log_softmax(1)
    expected = -sum(each[item, target - 1] for item, target in [(9, 9), (9, 8), (8, 7), (7, 6), (6, 5), (6, 7)]) / 6
    torch.testing.assert_close(objective.loss(model, batch)["softmax"], expected)


def prefixes(batch: Batch) -> list[tuple[list[int], int]]:
    rows = zip(batch.history.items_BN.tolist(), batch.targets_BNS.flatten().tolist(), strict=True)
    return [([item for item in row if item], target) for row, target in rows]


def test_prefixes_of_users_are_cut_at_every_step_equally_often_and_predict_the_item_after() -> None:
    store = make_store(max_len=3)
    objective = divided_by(6000.0, Prefix(BCE(), sampler(store, 2), store, 16, draw="users"))
    batch = batch_of(objective, torch.full((6000,), 3))
    whole = SEQUENCES[3][:-2]
    cuts = [whole[:end] for end in range(1, len(whole))]
    drawn_pairs = prefixes(batch)
    expected = [(cut[-3:], whole[len(cut)]) for cut in cuts]
    for pair in expected:
        assert abs(drawn_pairs.count(pair) - 6000 / len(cuts)) < 5 * 35
    assert all(pair in expected for pair in drawn_pairs)
    model = Bigram()
    scores = model.table.weight.detach()[[row[-1] for row, _ in drawn_pairs]]
    negatives = softplus(scores.gather(1, negatives_of(batch)[:, 0, 0])).sum(1, keepdim=True)
    each = softplus(-scores.gather(1, batch.targets_BNS[:, 0])) + negatives
    torch.testing.assert_close(objective.loss(model, batch)["bce"], each.mean())


def test_pairs_of_user_and_prefix_are_drawn_equally_often_even_for_long_histories() -> None:
    store = make_store(max_len=30)
    trained = [sequence[:-2] if len(sequence) > 2 else sequence for sequence in SEQUENCES]
    pairs = [(user, items[:end], items[end]) for user, items in enumerate(trained) for end in range(1, len(items))]
    batch = batch_of(Prefix(BCE(), sampler(store, 1), store, 16), torch.arange(4).repeat(4000))
    drawn_pairs = [(user, *pair) for user, pair in zip(batch.history.users_B.tolist(), prefixes(batch), strict=True)]
    for pair in pairs:
        assert drawn_pairs.count(pair) == pytest.approx(16000 / len(pairs), rel=0.25)  # 5 deviations
    assert sum(drawn_pairs.count(pair) for pair in pairs) == 16000


@pytest.mark.parametrize("kind", [NextItem, Prefix, Cloze])
def test_every_target_costs_the_same_in_batches_of_short_and_of_long_sequences(
    kind: Callable[..., Objective],
) -> None:
    """All batches have the same divisor, the mean number of targets in a batch."""
    objective = kind(Softmax(), None, make_store(), 1)
    flat = Filler() if kind is Cloze else Bigram()
    nn.init.zeros_(flat.table.weight)  # every step costs log M
    n_targets, total = 0, 0.0
    for user in range(4):
        for seed in range(1000):
            batch = batch_of(objective, torch.tensor([user]), 4 * seed + user)
            n = int((batch.targets_BNS != PAD).sum())
            cost = objective.loss(flat, batch)["softmax"].item()
            assert cost == pytest.approx(n * np.log(M) / objective.steps_per_batch, rel=1e-4)
            n_targets, total = n_targets + n, total + cost
    assert n_targets / 4000 == pytest.approx(objective.steps_per_batch, rel=0.03)
    assert total / 4000 == pytest.approx(np.log(M), rel=0.03)


@pytest.mark.parametrize(("mask_share", "last_share"), [(0.3, 0.0), (0.3, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_hidden_items_are_the_targets_and_nothing_else_is(mask_share: float, last_share: float) -> None:
    store = make_store()
    objective = Cloze(BCE(), sampler(store, 1), store, 16, mask_share, last_share)
    batch, model = batch_of(objective, torch.tensor([0, 3, 1] * 2000)), Filler()
    objective.loss(model, batch)
    hidden_BN, targets_BN = model.shown_BN == M + 1, batch.targets_BNS[..., 0]
    assert torch.equal(hidden_BN, targets_BN != PAD) and hidden_BN.any(1).all()
    whole_BN = torch.where(hidden_BN, targets_BN, model.shown_BN)
    users_B = batch.history.users_B
    assert torch.equal(whole_BN, store.history(users_B, store.train_lengths[users_B], 50).items_BN)
    rows_BN = hidden_BN[1::3]  # the six of user 3
    newest_alone = (rows_BN == torch.arange(rows_BN.shape[1]).eq(5)).all(1).float().mean().item()
    by_chance = (1 - last_share) * (mask_share * (1 - mask_share) ** 5 + (1 - mask_share) ** 6 / 6)
    assert newest_alone == pytest.approx(last_share + by_chance, abs=0.06)
    others = rows_BN.float().mean().item()
    assert others == pytest.approx(
        (1 - last_share) * (mask_share + (1 - mask_share) ** 6 / 6) + last_share / 6, abs=0.02
    )


@pytest.mark.parametrize("kind", ["uniform", "shared"])
def test_every_hidden_item_costs_once(kind: str) -> None:
    store = make_store()
    objective = Cloze(BCE(), sampler(store, 2, kind), store, 16, 0.5, 0.0)
    batch, model = batch_of(objective, torch.tensor([0, 3, 1])), Filler()
    scores_M = model.table.weight.detach()[M + 1]
    assert batch.negatives is not None
    drawn = batch.negatives.items_BNSC.expand(*batch.targets_BNS.shape, 2)
    each = [
        softplus(-scores_M[target]) + softplus(scores_M[negatives[negatives != target]]).sum()
        for target, negatives in zip(batch.targets_BNS.flatten(), drawn.flatten(0, 2), strict=True)
        if target != PAD
    ]
    assert 3 <= len(each) < 11
    divided_by(len(each), objective)
    torch.testing.assert_close(objective.loss(model, batch)["bce"], torch.stack(each).mean())


MakeObjective = Callable[..., Objective]


@pytest.mark.parametrize(
    ("kind", "loss", "drawn", "model", "words"),
    [
        (Cloze, BCE(), True, Bigram(), "Bigram has no mask item; choose objective=next_item or prefix"),
        (Cloze, BCE(), True, Whole(), "Whole has no mask item"),
        (Prefix, BCE(), True, Filler(), "choose objective=cloze"),
        (partial(Prefix, draw="all"), BCE(), True, Whole(), "Whole cannot make the .*; choose objective.draw=pairs"),
        (partial(Prefix, draw="all"), BCE(), True, Bigram(), "Bigram cannot make the .*; choose objective=next_item"),
        (NextItem, BCE(), True, Filler(), "Filler sees the whole sequence: .*; choose objective=cloze"),
        (NextItem, BCE(), True, Whole(), "Whole sees the whole sequence: .*; choose objective=prefix"),
        (NextItem, BCE(), True, Bigram(log_odds=False), "loss=bce reads scores as log-odds"),
        (Prefix, GBCE(M, t=0.5), True, Bigram(log_odds=False), "loss=gbce reads scores as log-odds"),
        (NextItem, GBCE(M, t=1.5), True, Bigram(), "loss.t=1.5: must be between 0 and 1"),
        (NextItem, GBCE(1, t=0.5), True, Bigram(), "negatives.n=1: loss=gbce takes at most the 0 other items"),
        (NextItem, Softmax(), True, Bigram(), "loss=softmax is over all items and draws no negatives"),
        (NextItem, BPR(), False, Bigram(), "loss=bpr needs negatives"),
        (partial(NextItem, given_category=True), BPR(), True, Bigram(), "Bigram takes no category of the next item"),
    ],
)
def test_combinations_that_cannot_train_are_refused(
    kind: MakeObjective, loss: Loss, drawn: bool, model: Recommender, words: str
) -> None:
    store = make_store()
    with pytest.raises(UserError, match=words) as caught:
        kind(loss, sampler(store, 1) if drawn else None, store, 16).check(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "loss", "model"),
    [
        (Cloze, BCE(), Filler()),
        (Prefix, BCE(), Bigram()),
        (Prefix, BCE(), Whole()),
        (NextItem, BCE(), Bigram()),
        (NextItem, BPR(), Bigram(log_odds=False)),
        (NextItem, Softmax(), Bigram(log_odds=False)),
    ],
)
def test_combinations_that_can_train_are_accepted(kind: MakeObjective, loss: Loss, model: Recommender) -> None:
    store = make_store()
    kind(loss, None if isinstance(loss, Softmax) else sampler(store, 1), store, 16).check(model)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (NextItem, {"n_targets": 0}),
        (NextItem, {"n_targets": 2, "given_category": True}),
        (Prefix, {"draw": "often"}),
        (Cloze, {"mask_share": 1.5}),
        (Cloze, {"mask_share": -0.5}),
        (Cloze, {"last_share": float("nan")}),
    ],
)
def test_settings_that_have_no_meaning_are_refused(kind: MakeObjective, given: dict[str, object]) -> None:
    store = make_store()
    with pytest.raises(UserError, match=rf"^{next(iter(given))}="):
        kind(BCE(), sampler(store, 1), store, 16, **given)


def test_more_targets_than_a_short_batch_has_steps() -> None:
    batch = batch_of(next_item(make_store(), 1, n_targets=3), torch.tensor([1]))
    assert batch.history.items_BN.tolist() == [[6]] and batch.targets_BNS.tolist() == [[[7, PAD, PAD]]]


def test_gbce_has_no_meaning_for_popular_negatives() -> None:
    store = make_store()
    NextItem(GBCE(M), sampler(store, 2, "shared"), store, 16).check(Bigram())
    with pytest.raises(UserError, match="loss=gbce is defined only for uniform negatives"):
        NextItem(GBCE(M), sampler(store, 2, "popular"), store, 16).check(Bigram())
