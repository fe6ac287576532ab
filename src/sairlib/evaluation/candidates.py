"""The frozen candidates of a sampled ranking: drawn once from (data set, split, seed), the same for every model."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sairlib.batch import PAD
from sairlib.data.dataset import Ints
from sairlib.data.sequences import Unseen
from sairlib.data.split import Split
from sairlib.errors import UserError

KINDS = ("uniform", "popular")


@dataclass(frozen=True)
class Candidates:
    """For each evaluated user, the items that a held-out one is ranked against: distinct, none that the user ever had.

    ``items_UC`` has a row for each of the ``split.eval_users``, right-padded with PAD where a user has fewer unseen
    items than asked for.
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
    if kind not in KINDS:
        raise UserError(f"evaluation.candidates={kind}: choose one of {', '.join(KINDS)}")
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
