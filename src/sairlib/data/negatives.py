"""Items a user has not had, drawn exactly and without rejection; and the frozen candidates of an evaluation."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sairlib.batch import PAD
from sairlib.data.dataset import Ints
from sairlib.data.split import Split
from sairlib.errors import UserError

SAMPLERS = ("uniform", "shared", "popular")


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


class Sampler:
    """The negatives of training, drawn with replacement; with each the log of how often it is expected among them.

    kind: ``uniform``: each target its own, uniform outside the user's training history. ``shared``: the same ones for
    the whole batch, uniform; ``popular``: likewise, in proportion to (training count) ^ ``popularity``.
    """

    def __init__(self, kind: str, n: int, popularity: float, unseen: Unseen, counts_M: Tensor) -> None:
        """``counts_M`` (M + 1): how often each item occurs in the training part."""
        if kind not in SAMPLERS:
            raise UserError(f"training.negatives={kind}: choose one of {', '.join(SAMPLERS)}")
        self.kind = kind
        self.n = n
        self.unseen = unseen
        if kind != "uniform":
            weights_M = torch.ones_like(counts_M, dtype=torch.float64)
            if kind == "popular":
                weights_M = counts_M.double() ** popularity * (counts_M > 0)  # 0 ^ 0 is 1
            weights_M[PAD] = 0
            self.cumulated_M = weights_M.cumsum(0) / weights_M.sum()
            self.log_expected_M = (n * weights_M / weights_M.sum()).log().float()

    def draw(self, users_B: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Negatives (B, *shape, C), or (C) where they are shared, and their ``log_expected`` to be broadcast."""
        if self.kind == "uniform":
            sizes = self.unseen.sizes[users_B].view(-1, *(1 for _ in (*shape, 1))).clamp(min=1)
            return self.unseen.draw(users_B, (*shape, self.n), generator), (self.n / sizes).log()
        at_C = torch.rand(self.n, generator=generator, device=users_B.device, dtype=torch.float64)
        drawn_C = torch.searchsorted(self.cumulated_M, at_C, right=True).clamp(max=len(self.cumulated_M) - 1)
        return drawn_C, self.log_expected_M[drawn_C]


def _sorted_unique(keys: Tensor) -> Tensor:
    # On CPUs numpy's sort takes a sixth of torch's time.
    ordered = torch.from_numpy(np.sort(keys.numpy())) if keys.device.type == "cpu" else keys.sort().values
    unique: Tensor = torch.unique_consecutive(ordered)
    return unique


@dataclass(frozen=True)
class Candidates:
    """For each evaluated user, the items the positive is ranked against: distinct, never in the whole history.

    ``items_UC`` is right-padded with PAD where a user has fewer unseen items than asked for.
    """

    items_UC: Ints

    @property
    def n_short(self) -> int:
        """Users with fewer candidates than asked for."""
        return int((self.items_UC == PAD).any(1).sum())

    def sha256(self) -> str:
        """Hash of the candidates: sampled figures are comparable iff these are equal."""
        digest = hashlib.sha256(b"sairlib candidates 1" + repr(self.items_UC.shape).encode())
        digest.update(self.items_UC.astype("<i8").tobytes())
        return digest.hexdigest()


def candidates(split: Split, n_candidates: int, kind: str, seed: int) -> Candidates:
    """Draw them once, without replacement, from (split, seed) alone: the same for every model.

    ``uniform`` gives every unseen item the same chance. ``popular`` draws in proportion to the item's count in
    the TRAINING part (items that never train are never drawn; BERT4Rec and others count over all the data).
    """
    if kind not in ("uniform", "popular"):
        raise UserError(f"evaluation.candidates={kind}: choose uniform or popular")
    rng = np.random.default_rng(seed)
    data = split.dataset
    owners = np.repeat(np.arange(data.n_users), np.diff(data.offsets))
    if kind == "uniform":
        unseen = Unseen(torch.from_numpy(owners), torch.from_numpy(data.items), data.n_users, data.n_items)
        sizes = unseen.sizes.numpy()[split.eval_users]
        ranks = _distinct_ranks(sizes, n_candidates, rng)
        users = torch.from_numpy(split.eval_users)[:, None].expand(-1, n_candidates)
        drawn = unseen.at(users, torch.from_numpy(ranks))
        return Candidates(drawn.numpy())
    position = np.arange(len(data.items)) - data.offsets[owners]
    trains = data.items[position < split.train_lengths[owners]]
    counts = np.bincount(trains, minlength=data.n_items + 1).astype(np.float64)
    return Candidates(_popular(split, counts, n_candidates, rng))


def _distinct_ranks(sizes: Ints, n: int, rng: np.random.Generator) -> Ints:
    """n distinct integers below each size, as a random subset; where size < n: 0..size-1, then values past it."""
    rows: Ints = np.broadcast_to(np.arange(n), (len(sizes), n)).copy()
    dense = np.flatnonzero((sizes > n) & (sizes < 4 * n))  # redrawing repeats would take long: shuffle them all
    for start in range(0, len(dense), 4096):
        users = dense[start : start + 4096]
        keys = rng.random((len(users), 4 * n))
        keys[np.arange(4 * n) >= sizes[users, None]] = 2.0
        rows[users] = np.argsort(keys, axis=1)[:, :n]
    todo = np.flatnonzero(sizes >= 4 * n)
    rows[todo] = rng.integers(0, sizes[todo, None], (len(todo), n))
    todo = todo[_has_repeats(rows[todo])]
    while len(todo):
        order = np.argsort(rows[todo], axis=1, kind="stable")
        ordered = np.take_along_axis(rows[todo], order, axis=1)
        repeats = np.zeros(order.shape, bool)
        np.put_along_axis(repeats, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
        again = repeats.any(1)
        todo, repeats = todo[again], repeats[again]
        fresh = rng.integers(0, sizes[todo, None], (len(todo), n))
        rows[todo] = np.where(repeats, fresh, rows[todo])
    return rows


def _has_repeats(rows: Ints) -> NDArray[np.bool_]:
    ordered = np.sort(rows, axis=1)
    repeats: NDArray[np.bool_] = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    return repeats


def _popular(split: Split, counts: np.ndarray, n: int, rng: np.random.Generator) -> Ints:
    """The n largest of log(count) + Gumbel noise over unseen items: drawing without replacement in proportion."""
    data = split.dataset
    with np.errstate(divide="ignore"):
        log_counts = np.log(counts)
    drawn = np.full((len(split.eval_users), n), PAD, np.int64)
    rows_at_once = max(1, 2**22 // (data.n_items + 1))
    for start in range(0, len(drawn), rows_at_once):
        users = split.eval_users[start : start + rows_at_once]
        keys = log_counts + rng.gumbel(size=(len(users), data.n_items + 1))
        lengths = data.offsets[users + 1] - data.offsets[users]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        keys[
            np.repeat(np.arange(len(users)), lengths), data.items[np.repeat(data.offsets[users], lengths) + within]
        ] = -np.inf
        kept = min(n, data.n_items)
        best = np.argpartition(-keys, kept - 1, axis=1)[:, :kept]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(keys, best, 1), axis=1), 1)
        found = np.isfinite(np.take_along_axis(keys, best, 1))
        drawn[start : start + len(users), :kept] = np.where(found, best, PAD)
    return drawn
