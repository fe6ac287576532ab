"""The sequence store, and the items a user has not had, against slow plain versions."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import make_dataset, make_split, make_targets
from torch import Tensor

from sairlib.batch import PAD
from sairlib.data.sequences import Rows, SequenceStore, Unseen
from sairlib.data.split import Part, Split

M = 9
CPU = torch.device("cpu")
SEQUENCES = st.lists(st.lists(st.integers(1, M), min_size=1, max_size=12), max_size=12).map(
    lambda s: [[1, 2, 3, 4], *s]
)


def make_store(sequences: list[list[int]], max_len: int, timed: bool = True) -> SequenceStore:
    return SequenceStore(make_split(sequences, M, timed), max_len, CPU)


def training(sequence: list[int]) -> list[int]:
    return sequence[:-2] if len(sequence) >= 3 else sequence


def padded(rows: list[list[int]]) -> list[list[int]]:
    width = max(map(len, rows))
    return [row + [PAD] * (width - len(row)) for row in rows]


def times(sequences: list[list[int]]) -> list[list[int]]:
    """The time of every action in place of its item: its number among all actions, from 1."""
    starts = np.cumsum([1, *map(len, sequences)]).tolist()
    return [list(range(start, start + len(items))) for start, items in zip(starts, sequences, strict=False)]


def listed(times_BN: Tensor | None) -> list[list[int]]:
    assert times_BN is not None
    values: list[list[int]] = times_BN.tolist()
    return values


@given(SEQUENCES, st.integers(1, 6), st.integers(1, 5), st.integers(1, 8), st.integers(0, 3))
def test_an_epoch_equals_the_slow_one(
    sequences: list[list[int]], max_len: int, batch_size: int, window: int, seed: int
) -> None:
    store = make_store(sequences, max_len)
    batches = store.epoch(batch_size, window, torch.Generator().manual_seed(seed))
    assert len(batches) == store.n_batches(batch_size)
    shown = [user for rows in batches for user in rows.users_B.tolist()]
    assert sorted(shown) == [user for user, s in enumerate(sequences) if len(training(s)) >= 2]
    sizes = [len(rows.users_B) for rows in batches]
    assert all(size == batch_size for size in sizes) or sum(size < batch_size for size in sizes) == 1
    n_steps = 0
    for rows in batches:
        history, make_targets_BN = store.train_window(rows)
        windows = [training(sequences[user])[-(max_len + 1) :] for user in rows.users_B.tolist()]
        seconds = [training(times(sequences)[user])[-(max_len + 1) :] for user in rows.users_B.tolist()]
        assert torch.equal(history.users_B, rows.users_B)
        assert history.items_BN.shape[1] == rows.n_steps
        assert history.items_BN.tolist() == padded([window[:-1] for window in windows])
        assert listed(history.times_BN) == padded([window[:-1] for window in seconds])
        assert make_targets_BN.tolist() == padded([window[1:] for window in windows])
        n_steps += sum(len(window) - 1 for window in windows)
    assert store.n_train_steps == n_steps


@given(SEQUENCES, st.integers(1, 6), st.integers(1, 5), st.sampled_from(Part))
def test_evaluation_equals_the_slow_one(sequences: list[list[int]], max_len: int, batch_size: int, part: Part) -> None:
    store = make_store(sequences, max_len)
    evaluated = [user for user, s in enumerate(sequences) if len(s) >= 3]
    assert store.n_targets(part) == len(evaluated)
    seen = []
    for history, make_targets_B, rows_B in store.evaluation(part, batch_size):
        users = history.users_B.tolist()
        assert users == [evaluated[row] for row in rows_B.tolist()]
        seen += users
        ends = [len(sequences[user]) - {Part.VALIDATION: 2, Part.TEST: 1}[part] for user in users]
        before = [sequences[user][:end] for user, end in zip(users, ends, strict=True)]
        seconds = [times(sequences)[user][:end] for user, end in zip(users, ends, strict=True)]
        assert history.items_BN.tolist() == padded([items[-max_len:] for items in before])
        assert listed(history.times_BN) == padded([moments[-max_len:] for moments in seconds])
        assert make_targets_B.tolist() == [sequences[user][end] for user, end in zip(users, ends, strict=True)]
        assert store.had(part, rows_B).tolist() == padded(before)
    assert sorted(seen) == evaluated


@given(SEQUENCES, st.integers(1, 6), st.integers(1, 5), st.data())
def test_a_window_before_several_targets_shows_none_of_them(
    sequences: list[list[int]], max_len: int, batch_size: int, data: st.DataObject
) -> None:
    """Up to its step each sees the newest items before it: at least half of max_len, or all."""
    actions = [(user, at) for user, sequence in enumerate(sequences) for at in range(len(sequence))]
    pairs = data.draw(st.lists(st.sampled_from(actions), min_size=1, unique=True))
    targets = make_targets(*pairs)
    split = Split(make_dataset(sequences, M), np.zeros(len(sequences), np.int64), targets, targets)
    store = SequenceStore(split, max_len, CPU)
    seen = []
    for history, rows_BT, steps_BT in store.windows(Part.TEST, batch_size):
        for items_N, rows_T, steps_T in zip(history.items_BN, rows_BT, steps_BT, strict=True):
            for row, step in zip(rows_T.tolist(), steps_T.tolist(), strict=True):
                if row >= 0:
                    user, at = pairs[row]
                    up_to = [item for item in items_N[: step + 1].tolist() if item]
                    assert at - len(up_to) >= 0 and up_to == sequences[user][at - len(up_to) : at]
                    assert len(up_to) >= min(at, max_len // 2 + 1, max_len)
                    seen.append(row)
    assert sorted(seen) == list(range(len(pairs)))


def test_targets_may_be_any_actions_after_the_training_part() -> None:
    """Two targets of one user, none of another, out of order, and other users in the test than in validation."""
    sequences = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [2, 4, 6, 8]]
    lengths = np.array([2, 3, 0])
    validation, test = make_targets((2, 3), (0, 4), (0, 2)), make_targets((0, 5), (2, 0))
    store = SequenceStore(Split(make_dataset(sequences, M), lengths, validation, test), 3, CPU)
    expected = {Part.VALIDATION: [(2, 3), (0, 4), (0, 2)], Part.TEST: [(0, 5), (2, 0)]}
    for part, pairs in expected.items():
        examples = {}
        for history, make_targets_B, rows_B in store.evaluation(part, 2):
            had = store.had(part, rows_B).tolist()
            for i, row in enumerate(rows_B.tolist()):
                items, before = ([item for item in each if item] for each in (history.items_BN[i].tolist(), had[i]))
                examples[row] = (int(history.users_B[i]), items, int(make_targets_B[i]), before)
        for row, (user, at) in enumerate(pairs):
            before = sequences[user][:at]
            assert examples.pop(row) == (user, before[-3:], sequences[user][at], before)
        assert not examples
        assert all(batch.history.items_BN.shape[1] > 0 for batch in store.evaluation(part, 1)), "models need a step"
    assert store.train_users.tolist() == [0, 1]
    assert store.counts_M.tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 1, 1]


def test_without_times_there_are_none() -> None:
    store = make_store([[1, 2, 3, 4, 5]], 3, timed=False)
    assert store.train_window(Rows(torch.tensor([0]), 2))[0].times_BN is None
    assert next(store.evaluation(Part.TEST, 1)).history.times_BN is None


def test_no_held_out_item_is_ever_trained_on() -> None:
    rng = np.random.default_rng(0)
    ids = iter(range(1, 10**6))
    sequences = [[next(ids) for _ in range(length)] for length in rng.integers(3, 40, 60)]
    store = SequenceStore(make_split(sequences, next(ids)), 10, CPU)
    held_out = {item for s in sequences for item in s[-2:]}
    for rows in store.epoch(7, 8, torch.Generator()):
        history, make_targets_BN = store.train_window(rows)
        assert not held_out & {*history.items_BN.flatten().tolist(), *make_targets_BN.flatten().tolist()}


def test_epochs_are_shuffled_repeatable_and_pad_less_when_grouped() -> None:
    rng = np.random.default_rng(0)
    store = make_store([[1] * int(length) for length in rng.integers(4, 60, 400)], 50)

    def epoch(seed: int, window: int) -> list[list[int]]:
        return [rows.users_B.tolist() for rows in store.epoch(16, window, torch.Generator().manual_seed(seed))]

    def shown(window: int) -> int:
        batches = store.epoch(16, window, torch.Generator().manual_seed(1))
        return sum(store.train_window(rows)[0].items_BN.numel() for rows in batches)

    for window in (1, 8):
        assert epoch(1, window) == epoch(1, window) != epoch(2, window)
    real = int((store.train_lengths.clamp(max=51) - 1).sum())
    mixed_padding, grouped_padding = shown(1) - real, shown(8) - real
    assert grouped_padding < mixed_padding / 3
    # Grouping must not put the batches in order of length: the optimiser would see a curriculum.
    widths = [int(store.train_lengths[users].max()) for users in epoch(1, 8)]
    assert widths != sorted(widths)
    # Nor may the same users share a batch in every epoch.
    first, second = ({tuple(sorted(users)) for users in epoch(seed, 8)} for seed in (1, 2))
    assert not first & second


def test_pieces_hold_every_user_once_and_pad_less() -> None:
    rng = np.random.default_rng(0)
    store = make_store([[1] * int(length) for length in rng.integers(4, 60, 100)], 50)
    rows = Rows(store.train_users, 50)
    pieces = store.pieces(rows, 500)
    assert len(pieces) == 10
    assert sorted(torch.cat([piece.users_B for piece in pieces]).tolist()) == store.train_users.tolist()
    for piece in pieces:
        assert piece.n_steps == int(store.train_steps(piece.users_B).max())
    assert sum(len(piece.users_B) * piece.n_steps for piece in pieces) < 0.65 * 50 * len(rows.users_B)
    for whole in (None, 100 * 50, 10**6):
        assert store.pieces(rows, whole) == [rows]


# Items that a user has not had.


def make_unseen(histories: list[list[int]], n_items: int) -> Unseen:
    users = torch.tensor([u for u, items in enumerate(histories) for _ in items], dtype=torch.long)
    items = torch.tensor([i for items in histories for i in items], dtype=torch.long)
    return Unseen(users, items, len(histories), n_items)


@given(st.integers(1, 8).flatmap(lambda m: st.tuples(st.just(m), st.lists(st.lists(st.integers(1, m)), min_size=1))))
def test_at_enumerates_the_complement(case: tuple[int, list[list[int]]]) -> None:
    n_items, histories = case
    unseen = make_unseen(histories, n_items)
    ranks = torch.arange(n_items + 2)
    for user, history in enumerate(histories):
        complement = sorted(set(range(1, n_items + 1)) - set(history))
        items = unseen.at(torch.full_like(ranks, user), ranks).tolist()
        assert items == complement + [PAD] * (len(ranks) - len(complement))
        assert int(unseen.sizes[user]) == len(complement)


def test_draw_is_uniform_over_the_unseen() -> None:
    histories = [[1, 2, 3, 3, 20], [], [7], list(range(1, 21))]
    unseen = make_unseen(histories, 20)
    drawn = unseen.draw(torch.tensor([2, 0, 3, 1]), (4000, 5), torch.Generator().manual_seed(0))
    assert drawn.shape == (4, 4000, 5)
    for row, user in enumerate([2, 0, 3, 1]):
        counts = np.bincount(drawn[row].flatten().numpy(), minlength=21)
        allowed = sorted(set(range(1, 21)) - set(histories[user])) or [PAD]
        assert counts[allowed].sum() == 20_000
        expected = 20_000 / len(allowed)
        assert np.abs(counts[allowed] - expected).max() < 5 * np.sqrt(expected)
    again = unseen.draw(torch.tensor([2, 0, 3, 1]), (4000, 5), torch.Generator().manual_seed(0))
    other = unseen.draw(torch.tensor([2, 0, 3, 1]), (4000, 5), torch.Generator().manual_seed(1))
    assert torch.equal(drawn, again) and not torch.equal(drawn, other)


def test_many_draws_are_those_that_few_make() -> None:
    unseen = make_unseen([[1, 2, 3, 3, 20], [], list(range(1, 21))], 20)
    for user in range(3):
        few, many = (unseen.draw(torch.tensor([user]), (n,), torch.Generator().manual_seed(0)) for n in (39, 40))
        assert torch.equal(few, many[:, :39])


def test_training_negatives_avoid_the_training_part_alone() -> None:
    # Excluding the held-out items would reveal them to the model.
    store = SequenceStore(make_split([[1, 2, 3, 4, 5]], 6), 5, CPU)
    drawn = store.unseen.draw(torch.tensor([0]), (500,), torch.Generator().manual_seed(0))
    assert set(drawn.flatten().tolist()) == {4, 5, 6}
