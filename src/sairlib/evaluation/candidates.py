"""The fixed candidates of a sampled ranking, drawn once from (data set, split, seed): the same for every model."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sairlib.batch import PAD
from sairlib.data.ids import Ints
from sairlib.data.sequences import Unseen
from sairlib.data.split import Split
from sairlib.errors import UserError

KINDS = ("uniform", "popular")


@dataclass(frozen=True)
class Candidates:
    """For each evaluated user, the items that a target is ranked against: distinct, and never seen by the user.

    ``items_UC`` has one row for each of ``split.eval_users``, in that order, right-padded with PAD if the user has
    fewer unseen items than C.
    """

    items_UC: Ints

    @property
    def n_short(self) -> int:
        """How many users have fewer than C candidates."""
        return int((self.items_UC == PAD).any(1).sum())

    def sha256(self) -> str:
        """Hash of the candidates: sampled figures are comparable iff their hashes are equal."""
        digest = hashlib.sha256(b"sairlib candidates 1" + repr(self.items_UC.shape).encode())
        digest.update(self.items_UC.astype("<i8").tobytes())
        return digest.hexdigest()


def candidates(split: Split, n_candidates: int, kind: str, seed: int) -> Candidates:
    """Draw ``n_candidates`` (C) items for each evaluated user, without replacement; (split, seed) determine them.

    ``kind="uniform"`` gives every unseen item the same chance. ``"popular"`` draws in proportion to the item's count in
    the TRAINING part, so items that never train are never drawn (BERT4Rec and others count over all the data).
    UserError for another kind.
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
    """A random subset of n distinct integers below each of ``sizes`` (U, n); 0..n-1 if the size is n or less."""
    ranks: Ints = np.broadcast_to(np.arange(n), (len(sizes), n)).copy()
    dense = np.flatnonzero((sizes > n) & (sizes < 4 * n))  # redrawing repeats would take long: shuffle all ranks
    for start in range(0, len(dense), 4096):
        users = dense[start : start + 4096]
        keys = rng.random((len(users), 4 * n))
        keys[np.arange(4 * n) >= sizes[users, None]] = 2.0
        ranks[users] = np.argsort(keys, axis=1)[:, :n]
    pending = np.flatnonzero(sizes >= 4 * n)
    ranks[pending] = rng.integers(0, sizes[pending, None], (len(pending), n))
    pending = pending[_has_repeats(ranks[pending])]
    while len(pending):
        order = np.argsort(ranks[pending], axis=1, kind="stable")
        ordered = np.take_along_axis(ranks[pending], order, axis=1)
        repeats = np.zeros(order.shape, bool)
        np.put_along_axis(repeats, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
        repeated = repeats.any(1)
        pending, repeats = pending[repeated], repeats[repeated]
        redrawn = rng.integers(0, sizes[pending, None], (len(pending), n))
        ranks[pending] = np.where(repeats, redrawn, ranks[pending])
    return ranks


def _has_repeats(ranks: Ints) -> NDArray[np.bool_]:
    ordered = np.sort(ranks, axis=1)
    repeats: NDArray[np.bool_] = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    return repeats


def _popular(split: Split, counts: np.ndarray, n: int, rng: np.random.Generator) -> Ints:
    """The n unseen items with the largest log(count) + Gumbel noise (U, n), which draws in proportion to the counts."""
    data = split.dataset
    with np.errstate(divide="ignore"):
        log_counts = np.log(counts)
    drawn = np.full((len(split.eval_users), n), PAD, np.int64)
    users_at_once = max(1, 2**22 // (data.n_items + 1))
    for start in range(0, len(drawn), users_at_once):
        users = split.eval_users[start : start + users_at_once]
        keys = log_counts + rng.gumbel(size=(len(users), data.n_items + 1))
        lengths = data.offsets[users + 1] - data.offsets[users]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        keys[
            np.repeat(np.arange(len(users)), lengths), data.items[np.repeat(data.offsets[users], lengths) + within]
        ] = -np.inf
        n_drawn = min(n, data.n_items)
        best = np.argpartition(-keys, n_drawn - 1, axis=1)[:, :n_drawn]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(keys, best, 1), axis=1), 1)
        possible = np.isfinite(np.take_along_axis(keys, best, 1))
        drawn[start : start + len(users), :n_drawn] = np.where(possible, best, PAD)
    return drawn
