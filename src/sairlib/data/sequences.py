"""The store: every sequence on the training device as one flat array, and batches by index arithmetic."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sairlib.batch import PAD, EvalBatch, History
from sairlib.data.split import Part, Split


class Rows(NamedTuple):
    """Whose sequences make a batch, and how many steps the longest of them has: known on the host, so that cutting
    the batch out of the store does not wait for the device."""

    users_B: Tensor
    n_steps: int


class SequenceStore:
    """Histories of a split (CSR) on one device.

    ``train_users`` have at least 2 training actions; the others have nothing to predict. ``counts_M`` (M + 1): how
    often each item occurs in the training part. ``unseen``: what each user has not had in it.
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
        # Only the training part: to spare held-out items from being negatives would tell the model which they are.
        self.unseen = Unseen(owners[trains], self.items[trains], data.n_users, data.n_items)
        self.counts_M = torch.bincount(self.items[trains], minlength=data.n_items + 1)
        self.train_users = torch.nonzero(self.train_lengths >= 2).squeeze(1)
        self.n_train_steps = float(self.train_steps(self.train_users).sum())
        self._prefixes_up_to = (self.train_lengths[self.train_users] - 1).cumsum(0)
        self._targets = {
            part: tuple(torch.from_numpy(each).to(device) for each in (targets.users_E, targets.positions_E))
            for part, targets in ((part, split.targets(part)) for part in Part)
        }

    def history(self, users_B: Tensor, ends_B: Tensor, width: int, longest: int | None = None) -> History:
        """The last ``width`` actions before each user's ``end``, N = the longest there is, but 1 if all are empty.

        ``longest`` spares finding N out, where it is known.
        """
        lengths_B = ends_B.clamp(max=width)
        steps_N = torch.arange(max(1, int(lengths_B.max())) if longest is None else longest, device=self.device)
        index_BN = (self.starts[users_B] + ends_B - lengths_B)[:, None] + steps_N
        index_BN.clamp_(max=len(self.items) - 1)
        real_BN = steps_N < lengths_B[:, None]
        times_BN = None if self.times is None else torch.where(real_BN, self.times[index_BN], 0)
        return History(users_B, torch.where(real_BN, self.items[index_BN], PAD), times_BN)

    def n_batches(self, batch_size: int) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.train_users) / batch_size)

    def epoch(self, batch_size: int, window: int, generator: torch.Generator) -> list[Rows]:
        """Every training user exactly once, in shuffled batches; like lengths among ``window`` batches' share one."""
        shuffled = self.train_users[torch.randperm(len(self.train_users), generator=generator, device=self.device)]
        batches: list[Tensor] = []
        for users in shuffled.split(window * batch_size):
            batches.extend(users[torch.argsort(self.train_steps(users), stable=True)].split(batch_size))
        order = torch.randperm(len(batches), generator=generator, device=self.device)
        return self._rows([batches[i] for i in order.tolist()])

    def pieces(self, rows: Rows, steps_at_once: int | None) -> list[Rows]:
        """A batch cut into parts of like length, of about ``steps_at_once`` steps; None for the batch as it is."""
        n_pieces = 1 if steps_at_once is None else round(len(rows.users_B) * rows.n_steps / steps_at_once)
        if n_pieces < 2:
            return [rows]
        ordered = rows.users_B[self.train_steps(rows.users_B).argsort(stable=True)]
        return [Rows(users_B, int(self.train_steps(users_B[-1:]))) for users_B in ordered.chunk(n_pieces)]

    def _rows(self, batches: list[Tensor]) -> list[Rows]:
        longest = [self.train_steps(users_B).max() for users_B in batches if len(users_B)]
        return list(map(Rows, batches, torch.stack(longest).tolist())) if longest else []

    def train_steps(self, users_B: Tensor) -> Tensor:
        """How many steps of each user train (B)."""
        return (self.train_lengths[users_B] - 1).clamp_(max=self.max_len)

    def train_window(self, rows: Rows) -> tuple[History, Tensor]:
        """The users' training parts, and ``targets_BN``, the same shifted by one."""
        users_B, n_steps = rows
        window = self.history(users_B, self.train_lengths[users_B], self.max_len + 1, n_steps + 1)
        targets_BN = window.items_BN[:, 1:]
        # The last training item has no target: dropped as an input, so that the newest input is the last that counts.
        items_BN = torch.where(targets_BN != PAD, window.items_BN[:, :-1], PAD)
        times_BN = None if window.times_BN is None else torch.where(targets_BN != PAD, window.times_BN[:, :-1], 0)
        return History(users_B, items_BN, times_BN), targets_BN

    def prefixes(self, at_B: Tensor) -> tuple[Tensor, Tensor]:
        """Users and lengths (B) of the prefixes that stand at these places, 0 to below 1, among all that have a next
        training item, user by user."""
        index_B = (at_B * self._prefixes_up_to[-1]).long()
        row_B = torch.searchsorted(self._prefixes_up_to, index_B, right=True)
        return self.train_users[row_B], self._prefixes_up_to[row_B] - index_B

    def n_targets(self, part: Part) -> int:
        """Held-out actions to be found (E)."""
        return len(self._targets[part][0])

    def evaluation(self, part: Part, batch_size: int) -> Iterator[EvalBatch]:
        """All that is to be found, histories of like length together."""
        users_E, positions_E = self._targets[part]
        for rows_B in torch.argsort(positions_E.clamp(max=self.max_len), stable=True).split(batch_size):
            users_B, ends_B = users_E[rows_B], positions_E[rows_B]
            targets_B = self.items[self.starts[users_B] + ends_B]
            yield EvalBatch(self.history(users_B, ends_B, self.max_len), targets_B, rows_B)

    def had(self, part: Part, rows_B: Tensor) -> Tensor:
        """All items before these held-out ones, uncut (B, S), right-padded: what full ranking leaves out."""
        users_E, positions_E = self._targets[part]
        ends_B = positions_E[rows_B]
        return self.history(users_E[rows_B], ends_B, int(ends_B.max())).items_BN


class Unseen:
    """The complement of every user's history, addressable by rank: "user u's r-th item not in the history".

    With a user's history sorted as s_0 < s_1 < ..., the number of unseen items below s_k is s_k - 1 - k, so the
    r-th unseen item (r from 0) is r + 1 + k with k = how many s_k have s_k - 1 - k <= r: one binary search in keys
    sorted by (user, s_k - 1 - k). No draw is ever rejected, and memory grows with the actions alone.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        """``users`` and ``items`` (one action each, any order, repeats allowed) are the histories."""
        self.n_items = n_items
        seen = _sorted_unique(users * (n_items + 1) + items)
        owner = seen // (n_items + 1)
        counts = torch.bincount(owner, minlength=n_users)
        self.starts = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(seen), device=seen.device) - self.starts[owner]
        self.keys = seen - 1 - rank
        self.sizes = n_items - counts
        """Unseen items of each user (U)."""

    def at(self, users: Tensor, ranks: Tensor) -> Tensor:
        """Items of ``users`` at ``ranks`` (same shapes, ranks from 0); PAD where a rank is past the last."""
        below = torch.searchsorted(self.keys, users * (self.n_items + 1) + ranks, right=True) - self.starts[users]
        return torch.where(ranks < self.sizes[users], ranks + 1 + below, PAD)

    def draw(self, users_B: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Uniform unseen items (B, *shape), repeats allowed; PAD for a user who has had everything."""
        users = users_B.view(-1, *(1 for _ in shape)).expand(-1, *shape)
        # Modulo leans towards small ranks by less than size / 2^62.
        ranks = torch.randint(2**62, users.shape, generator=generator, device=users.device)
        return self.at(users, ranks % self.sizes[users].clamp(min=1))


def _sorted_unique(keys: Tensor) -> Tensor:
    # On CPUs numpy's sort takes a sixth of torch's time.
    ordered = torch.from_numpy(np.sort(keys.numpy())) if keys.device.type == "cpu" else keys.sort().values
    unique: Tensor = torch.unique_consecutive(ordered)
    return unique
