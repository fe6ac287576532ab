"""The store: every sequence on the training device as one flat array, and batches by index arithmetic."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sairlib.batch import PAD, EvalBatch
from sairlib.data.negatives import Unseen
from sairlib.data.split import Part, Split


class Rows(NamedTuple):
    """Whose sequences make a batch, and how many steps the longest of them has: known on the host, so that cutting
    the batch out of the store does not wait for the device."""

    users_B: Tensor
    n_steps: int


class SequenceStore:
    """Histories of a split (CSR) on one device.

    ``train_rows`` are the users with at least 2 training actions; the others have nothing to predict. ``counts_M``
    (M + 1): how often each item occurs in the training part.
    """

    def __init__(self, split: Split, max_len: int, device: torch.device) -> None:
        self.max_len = max_len
        self.device = device
        data = split.dataset
        self.n_items = data.n_items
        self.items = torch.from_numpy(data.items).to(device)
        self.starts = torch.from_numpy(data.offsets[:-1]).to(device)
        self.lengths = torch.from_numpy(data.offsets[1:] - data.offsets[:-1]).to(device)
        self.train_lengths = torch.from_numpy(split.train_lengths).to(device)
        self.eval_users = torch.from_numpy(split.eval_users).to(device)
        owners = torch.repeat_interleave(torch.arange(data.n_users, device=device), self.lengths)
        trains = torch.arange(len(owners), device=device) - self.starts[owners] < self.train_lengths[owners]
        # Only the training part: to spare held-out items from being negatives would tell the model which they are.
        self.unseen = Unseen(owners[trains], self.items[trains], data.n_users, data.n_items)
        self.counts_M = torch.bincount(self.items[trains], minlength=data.n_items + 1)
        self.train_rows = torch.nonzero(self.train_lengths >= 2).squeeze(1)
        self._prefixes_up_to = (self.train_lengths[self.train_rows] - 1).cumsum(0)

    def windows(self, users_B: Tensor, ends_B: Tensor, width: int, longest: int | None = None) -> Tensor:
        """The last ``width`` items before each user's ``end`` (B, N), right-padded, N = the longest there is.

        ``longest`` spares finding N out, where it is known.
        """
        lengths_B = ends_B.clamp(max=width)
        steps_N = torch.arange(int(lengths_B.max()) if longest is None else longest, device=self.device)
        index_BN = (self.starts[users_B] + ends_B - lengths_B)[:, None] + steps_N
        real_BN = steps_N < lengths_B[:, None]
        return torch.where(real_BN, self.items[index_BN.clamp_(max=len(self.items) - 1)], PAD)

    def steps_per_batch(self, batch_size: int) -> float:
        """Training steps that count in a batch, on average over an epoch."""
        return float(self.train_steps(self.train_rows).sum()) / max(1, self.n_batches(batch_size))

    def n_batches(self, batch_size: int) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.train_rows) / batch_size)

    def prefixes(self, at_B: Tensor) -> tuple[Tensor, Tensor]:
        """Users and lengths (B) of the prefixes that stand at these places, 0 to below 1, among all that have a next
        training item, user by user."""
        index_B = (at_B * self._prefixes_up_to[-1]).long()
        row_B = torch.searchsorted(self._prefixes_up_to, index_B, right=True)
        return self.train_rows[row_B], self._prefixes_up_to[row_B] - index_B

    def epoch(self, batch_size: int, window: int, generator: torch.Generator) -> list[Rows]:
        """Every training user exactly once, in shuffled batches; like lengths among ``window`` batches' share one."""
        shuffled = self.train_rows[torch.randperm(len(self.train_rows), generator=generator, device=self.device)]
        batches: list[Tensor] = []
        for users in shuffled.split(window * batch_size):
            batches.extend(users[torch.argsort(self.train_steps(users), stable=True)].split(batch_size))
        order = torch.randperm(len(batches), generator=generator, device=self.device)
        return self._rows([batches[i] for i in order.tolist()])

    def _rows(self, batches: list[Tensor]) -> list[Rows]:
        longest = [self.train_steps(users_B).max() for users_B in batches if len(users_B)]
        return list(map(Rows, batches, torch.stack(longest).tolist())) if longest else []

    def train_steps(self, users_B: Tensor) -> Tensor:
        """How many steps of each user train (B)."""
        return (self.train_lengths[users_B] - 1).clamp_(max=self.max_len)

    def train_window(self, users_B: Tensor, n_steps: int | None = None) -> tuple[Tensor, Tensor]:
        """``items_BN`` and the same shifted by one, ``targets_BN``, of the users' training parts.

        ``n_steps``: of the longest, where it is known.
        """
        longest = None if n_steps is None else n_steps + 1
        window = self.windows(users_B, self.train_lengths[users_B], self.max_len + 1, longest)
        targets_BN = window[:, 1:]
        # The last training item has no target: dropped as an input, so that the newest input is the last that counts.
        return torch.where(targets_BN != PAD, window[:, :-1], PAD), targets_BN

    def evaluation(self, part: Part, batch_size: int) -> Iterator[tuple[Tensor, EvalBatch]]:
        """All evaluated users, those of like length together: (their rows among ``eval_users``, the batch)."""
        ends = self.train_lengths[self.eval_users] + part.value
        for rows_B in torch.argsort(ends.clamp(max=self.max_len), stable=True).split(batch_size):
            users_B = self.eval_users[rows_B]
            items_BN = self.windows(users_B, ends[rows_B], self.max_len)
            yield rows_B, EvalBatch(users_B, items_BN, self.items[self.starts[users_B] + ends[rows_B]])

    def histories(self, users_B: Tensor, part: Part) -> Tensor:
        """Everything before the held-out item, uncut (B, S), right-padded: what full ranking removes."""
        ends_B = self.train_lengths[users_B] + part.value
        return self.windows(users_B, ends_B, int(ends_B.max()))
