"""The store: all sequences as one flat array on the training device, cut into batches by index arithmetic."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sairlib.batch import PAD, EvalBatch, History
from sairlib.data.split import Part, Split


class Lanes(NamedTuple):
    """One step of each user of a batch. ``ends_B``: the position of its target among the user's items. ``begins_B``:
    whether the step is the first of its session."""

    ends_B: Tensor
    begins_B: Tensor


class Rows(NamedTuple):
    """The users of a training batch, and the number of steps of the longest of their sequences.

    ``n_steps`` is a Python number, so that cutting the batch out of the store does not wait for the device. ``lanes``:
    if the batch has one step of each user, which one; else None.
    """

    users_B: Tensor
    n_steps: int
    lanes: Lanes | None = None


class Windows(NamedTuple):
    """One history for several held-out items of a user, T at most: each comes after a step of it.

    ``rows_BT``: the items' indices among the E targets, -1 where a window has fewer. ``steps_BT``: each one's step.
    """

    history: History
    rows_BT: Tensor
    steps_BT: Tensor


class SequenceStore:
    """Histories of a split (CSR) on one device. ``max_len`` is the longest window of steps that it cuts.

    ``train_users`` are the users with at least 2 training actions; the others have nothing to predict. ``counts_M``
    (M + 1) is how often each item occurs in the training part, ``unseen`` the items that each user lacks in it,
    ``n_train_steps`` the number of training steps of all users together.
    """

    def __init__(self, split: Split, max_len: int, device: torch.device) -> None:
        self.max_len = max_len
        self.device = device
        data = split.dataset
        self.n_items = data.n_items
        self.items = torch.from_numpy(data.items).to(device)
        self.times = None if data.times is None else torch.from_numpy(data.times).to(device)
        self.starts = torch.from_numpy(data.offsets[:-1]).to(device)
        self.lengths = torch.from_numpy(data.offsets[1:] - data.offsets[:-1]).to(device)
        self.train_lengths = torch.from_numpy(split.train_lengths).to(device)
        owners = torch.repeat_interleave(torch.arange(data.n_users, device=device), self.lengths)
        trains = torch.arange(len(owners), device=device) - self.starts[owners] < self.train_lengths[owners]
        # Of the training part only: never drawing held-out items as negatives would reveal them to the model.
        self.unseen = Unseen(owners[trains], self.items[trains], data.n_users, data.n_items)
        self.counts_M = torch.bincount(self.items[trains], minlength=data.n_items + 1)
        self.train_users = torch.nonzero(self.train_lengths >= 2).squeeze(1)
        self.n_train_steps = float(self.train_steps(self.train_users).sum())
        self._targets = {
            part: tuple(torch.from_numpy(array).to(device) for array in (targets.users_E, targets.positions_E))
            for part, targets in ((part, split.targets(part)) for part in Part)
        }

    def history(self, users_B: Tensor, ends_B: Tensor, width: int, longest: int | None = None) -> History:
        """The last ``width`` actions before position ``ends_B`` of each user, right-padded (B, N).

        N is the longest of them, at least 1. Pass it as ``longest`` if it is known: finding it waits for the device.
        """
        lengths_B = ends_B.clamp(max=width)
        steps_N = torch.arange(max(1, int(lengths_B.max())) if longest is None else longest, device=self.device)
        index_BN = (self.starts[users_B] + ends_B - lengths_B)[:, None] + steps_N
        index_BN.clamp_(max=len(self.items) - 1)
        real_BN = steps_N < lengths_B[:, None]
        times_BN = None if self.times is None else torch.where(real_BN, self.times[index_BN], 0)
        return History(users_B, torch.where(real_BN, self.items[index_BN], PAD), times_BN)

    def n_batches(self, batch_size: int) -> int:
        """How many batches an epoch has."""
        return math.ceil(len(self.train_users) / batch_size)

    def epoch(self, batch_size: int, window: int, generator: torch.Generator) -> list[Rows]:
        """Every training user exactly once, in shuffled batches.

        Shuffled users are sorted by length within each ``window * batch_size``, so that a batch has similar lengths.
        """
        shuffled = self.train_users[torch.randperm(len(self.train_users), generator=generator, device=self.device)]
        batches: list[Tensor] = []
        for users in shuffled.split(window * batch_size) if len(shuffled) else ():
            batches.extend(users[torch.argsort(self.train_steps(users), stable=True)].split(batch_size))
        order = torch.randperm(len(batches), generator=generator, device=self.device)
        longest = [self.train_steps(users_B).max() for users_B in batches]
        n_steps = torch.stack(longest).tolist() if longest else []  # one wait for the device, not one for each batch
        return [Rows(batches[i], n_steps[i]) for i in order.tolist()]

    def pieces(self, rows: Rows, steps_at_once: int | None) -> list[Rows]:
        """A batch cut into pieces of similar length and about ``steps_at_once`` steps each; None does not cut it."""
        n_pieces = 1 if steps_at_once is None else round(len(rows.users_B) * rows.n_steps / steps_at_once)
        if n_pieces < 2:
            return [rows]
        ordered = rows.users_B[self.train_steps(rows.users_B).argsort(stable=True)]
        return [Rows(users_B, int(self.train_steps(users_B[-1:]))) for users_B in ordered.chunk(n_pieces)]

    def train_steps(self, users_B: Tensor) -> Tensor:
        """How many training steps each user has (B), at most ``max_len``."""
        return (self.train_lengths[users_B] - 1).clamp_(max=self.max_len)

    def first_rows(self, n: int) -> Rows:
        """The first ``n`` training users, or as many as there are."""
        users_B = self.train_users[:n]
        return Rows(users_B, int(self.train_steps(users_B).max()))

    def train_window(self, rows: Rows) -> tuple[History, Tensor]:
        """The newest training steps of these users, and their targets: the same items shifted by one (B, N)."""
        users_B, n_steps = rows.users_B, rows.n_steps
        window = self.history(users_B, self.train_lengths[users_B], self.max_len + 1, n_steps + 1)
        targets_BN = window.items_BN[:, 1:]
        # The last training item has no target. It is dropped from the inputs, so that the newest input has a target.
        items_BN = torch.where(targets_BN != PAD, window.items_BN[:, :-1], PAD)
        times_BN = None if window.times_BN is None else torch.where(targets_BN != PAD, window.times_BN[:, :-1], 0)
        return History(users_B, items_BN, times_BN), targets_BN

    def n_targets(self, part: Part) -> int:
        """How many targets a part has (E)."""
        return len(self._targets[part][0])

    def evaluation(self, part: Part, batch_size: int) -> Iterator[EvalBatch]:
        """All targets of a part in batches, histories of similar length together."""
        users_E, positions_E = self._targets[part]
        for rows_B in torch.argsort(positions_E.clamp(max=self.max_len), stable=True).split(batch_size):
            history = self.history(users_E[rows_B], positions_E[rows_B], self.max_len)
            yield EvalBatch(history, self.target_items(part, rows_B), rows_B)

    def windows(self, part: Part, batch_size: int) -> Iterator[Windows]:
        """All targets of a part with one history for those of a user, in batches of similar length.

        A history ends before the newest of its targets. The oldest of them sees at least half of ``max_len`` items, or
        all that there are: targets further apart get another history, and so does a target without any item before it.
        """
        users_E, positions_E = self._targets[part]
        order_E = torch.argsort(users_E * (int(positions_E.max()) + 1) - positions_E, stable=True)  # newest first
        users_E, positions_E = users_E[order_E], positions_E[order_E]
        newest_E = positions_E[torch.searchsorted(users_E, users_E)]
        stride = max(1, self.max_len // 2)
        numbers_E = torch.where(positions_E > 0, (newest_E - positions_E) // stride, newest_E // stride + 1)
        begins = torch.ones(len(users_E), dtype=torch.bool, device=self.device)
        begins[1:] = (users_E[1:] != users_E[:-1]) | (numbers_E[1:] != numbers_E[:-1])
        firsts_W = begins.nonzero()[:, 0]
        sizes_W = torch.diff(firsts_W, append=torch.tensor([len(users_E)], device=self.device))
        ends_W = positions_E[firsts_W]
        for windows_B in torch.argsort(ends_W.clamp(max=self.max_len), stable=True).split(batch_size):
            ends_B, slots_T = ends_W[windows_B], torch.arange(int(sizes_W[windows_B].max()), device=self.device)
            real_BT = slots_T < sizes_W[windows_B, None]
            at_BT = (firsts_W[windows_B, None] + slots_T).clamp_(max=len(users_E) - 1)
            steps_BT = positions_E[at_BT] - 1 - (ends_B - self.max_len).clamp(min=0)[:, None]
            history = self.history(users_E[firsts_W[windows_B]], ends_B, self.max_len)
            yield Windows(history, torch.where(real_BT, order_E[at_BT], -1), steps_BT.clamp_(min=0))

    def target_items(self, part: Part, rows_B: Tensor) -> Tensor:
        """The items of these targets (B)."""
        users_E, positions_E = self._targets[part]
        return self.items[self.starts[users_E[rows_B]] + positions_E[rows_B]]

    def had(self, part: Part, rows_B: Tensor) -> Tensor:
        """All items before these targets, not cut to ``max_len`` (B, width of the longest), right-padded.

        Full ranking leaves these out.
        """
        users_E, positions_E = self._targets[part]
        ends_B = positions_E[rows_B]
        return self.history(users_E[rows_B], ends_B, int(ends_B.max())).items_BN


class Unseen:
    """The items that are not in each user's history, by rank: "the r-th item that user u has not seen".

    With a user's history sorted as s_0 < s_1 < ..., the number of unseen items below s_k is s_k - 1 - k, so the
    r-th unseen item (r from 0) is r + 1 + k, where k is how many s_k have s_k - 1 - k <= r: one binary search in keys
    sorted by (user, s_k - 1 - k). No draw is rejected, and memory grows with the number of actions only.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        """``users`` and ``items`` hold one action at each index, in any order, repeats allowed."""
        self.n_items = n_items
        seen = _sorted_unique(users * (n_items + 1) + items)
        owner = seen // (n_items + 1)
        counts = torch.bincount(owner, minlength=n_users)
        self.starts = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(seen), device=seen.device) - self.starts[owner]
        self.keys = seen - 1 - rank
        self.sizes = n_items - counts
        """How many items each user has not seen (U)."""

    def users_of_items(self) -> Tensor:
        """How many users have seen each item (M + 1)."""
        owner = torch.repeat_interleave(self.n_items - self.sizes)
        rank = torch.arange(len(owner), device=owner.device) - self.starts[owner]
        return torch.bincount(self.keys + 1 + rank - owner * (self.n_items + 1), minlength=self.n_items + 1)

    def at(self, users: Tensor, ranks: Tensor) -> Tensor:
        """The unseen items of ``users`` at ``ranks`` (same shapes, ranks from 0); PAD for a rank past the last one."""
        below = torch.searchsorted(self.keys, users * (self.n_items + 1) + ranks, right=True) - self.starts[users]
        return torch.where(ranks < self.sizes[users], ranks + 1 + below, PAD)

    def draw(self, users_B: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Unseen items drawn uniformly (B, *shape), repeats allowed; PAD for a user who has seen every item."""
        users = users_B.view(-1, *(1 for _ in shape))
        # The modulo favours small ranks by less than size / 2^62.
        ranks = torch.randint(2**62, (len(users_B), *shape), generator=generator, device=users.device)
        ranks %= self.sizes[users].clamp(min=1)
        if ranks[:1].numel() < 2 * self.n_items:
            return self.at(users.expand(ranks.shape), ranks)
        # So many that it takes less time to write down all unseen items, one search for each, than to search for each.
        all_BM = self.at(users_B[:, None].expand(-1, self.n_items), torch.arange(self.n_items, device=users.device))
        return all_BM.gather(1, ranks.flatten(1)).view(ranks.shape)


def _sorted_unique(keys: Tensor) -> Tensor:
    # On a CPU, numpy's sort takes a sixth of torch's time.
    ordered = torch.from_numpy(np.sort(keys.numpy())) if keys.device.type == "cpu" else keys.sort().values
    unique: Tensor = torch.unique_consecutive(ordered)
    return unique
