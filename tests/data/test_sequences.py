"""The store against a slow plain version of the same batches."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sairlib.batch import PAD
from sairlib.data.dataset import Dataset
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part, Split, leave_one_out

M = 9
CPU = torch.device("cpu")
SEQUENCES = st.lists(st.lists(st.integers(1, M), min_size=1, max_size=12), max_size=12).map(
    lambda s: [[1, 2, 3, 4], *s]
)


def split(sequences: list[list[int]], n_items: int = M) -> Split:
    offsets = np.cumsum([0, *map(len, sequences)])
    items = np.concatenate([np.array(s, np.int64) for s in sequences])
    no_categories = np.full((n_items + 1, 0), PAD, np.int64)
    return leave_one_out(
        Dataset(items, offsets, np.arange(len(sequences)), np.arange(1, n_items + 1), no_categories, ())
    )


def training(sequence: list[int]) -> list[int]:
    return sequence[:-2] if len(sequence) >= 3 else sequence


def padded(rows: list[list[int]]) -> list[list[int]]:
    width = max(map(len, rows))
    return [row + [PAD] * (width - len(row)) for row in rows]


@given(SEQUENCES, st.integers(1, 6), st.integers(1, 5), st.integers(1, 8), st.integers(0, 3))
def test_an_epoch_equals_the_slow_one(
    sequences: list[list[int]], max_len: int, batch_size: int, window: int, seed: int
) -> None:
    store = SequenceStore(split(sequences), max_len, CPU)
    batches = store.epoch(batch_size, window, torch.Generator().manual_seed(seed))
    shown = [user for users_B, _ in batches for user in users_B.tolist()]
    assert sorted(shown) == [user for user, s in enumerate(sequences) if len(training(s)) >= 2]
    sizes = [len(users_B) for users_B, _ in batches]
    assert all(size == batch_size for size in sizes) or sum(size < batch_size for size in sizes) == 1
    for users_B, n_steps in batches:
        windows = [training(sequences[user])[-(max_len + 1) :] for user in users_B.tolist()]
        items_BN, targets_BN = store.train_window(users_B)
        assert items_BN.shape[1] == n_steps
        assert all(map(torch.equal, store.train_window(users_B, n_steps), (items_BN, targets_BN)))
        assert items_BN.tolist() == padded([window[:-1] for window in windows])
        assert targets_BN.tolist() == padded([window[1:] for window in windows])


@given(SEQUENCES, st.integers(1, 6), st.integers(1, 5), st.sampled_from(Part))
def test_evaluation_equals_the_slow_one(sequences: list[list[int]], max_len: int, batch_size: int, part: Part) -> None:
    store = SequenceStore(split(sequences), max_len, CPU)
    evaluated = [user for user, s in enumerate(sequences) if len(s) >= 3]
    seen = []
    for rows_B, batch in store.evaluation(part, batch_size):
        users = batch.users_B.tolist()
        assert users == [evaluated[row] for row in rows_B.tolist()]
        seen += users
        ends = [len(sequences[user]) - {Part.VALIDATION: 2, Part.TEST: 1}[part] for user in users]
        before = [sequences[user][:end] for user, end in zip(users, ends, strict=True)]
        assert batch.items_BN.tolist() == padded([history[-max_len:] for history in before])
        assert batch.targets_B.tolist() == [sequences[user][end] for user, end in zip(users, ends, strict=True)]
        assert store.histories(batch.users_B, part).tolist() == padded(before)
    assert sorted(seen) == evaluated


def test_no_held_out_item_is_ever_trained_on() -> None:
    rng = np.random.default_rng(0)
    ids = iter(range(1, 10**6))
    sequences = [[next(ids) for _ in range(length)] for length in rng.integers(3, 40, 60)]
    store = SequenceStore(split(sequences, next(ids)), 10, CPU)
    held_out = {item for s in sequences for item in s[-2:]}
    for users_B, _ in store.epoch(7, 8, torch.Generator()):
        items_BN, targets_BN = store.train_window(users_B)
        assert not held_out & {*items_BN.flatten().tolist(), *targets_BN.flatten().tolist()}


def test_epochs_are_shuffled_repeatable_and_pad_less_when_grouped() -> None:
    rng = np.random.default_rng(0)
    store = SequenceStore(split([[1] * int(length) for length in rng.integers(4, 60, 400)]), 50, CPU)

    def epoch(seed: int, window: int) -> list[list[int]]:
        return [users.tolist() for users, _ in store.epoch(16, window, torch.Generator().manual_seed(seed))]

    def shown(batches: list[list[int]]) -> int:
        return sum(store.train_window(torch.tensor(users))[0].numel() for users in batches)

    for window in (1, 8):
        assert epoch(1, window) == epoch(1, window) != epoch(2, window)
    real = int((store.train_lengths.clamp(max=51) - 1).sum())
    mixed_padding, grouped_padding = shown(epoch(1, 1)) - real, shown(epoch(1, 8)) - real
    assert grouped_padding < mixed_padding / 3
    # Grouping must not put the batches in order of length: the optimiser would see a curriculum.
    widths = [int(store.train_lengths[users].max()) for users in epoch(1, 8)]
    assert widths != sorted(widths)
    # Nor the same company in every epoch.
    first, second = ({tuple(sorted(users)) for users in epoch(seed, 8)} for seed in (1, 2))
    assert not first & second
