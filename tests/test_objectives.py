"""The next-item objective: what counts, what is drawn, and whom it refuses."""

from typing import final

import numpy as np
import pytest
import torch
from asked import next_item
from torch import Tensor, nn

from sairlib.batch import PAD, Batch
from sairlib.data.dataset import Dataset
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import leave_one_out
from sairlib.errors import UserError
from sairlib.models.recommender import Recommender

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
        self.table = nn.Embedding(M + 1, M + 1)

    def encode(self, items_BN: Tensor, users_B: Tensor) -> Tensor:
        states_BND: Tensor = self.table(items_BN)
        return states_BND

    def score(self, states: Tensor, items: Tensor) -> Tensor:
        return states.gather(-1, items)

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
        torch.zeros(()),
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
