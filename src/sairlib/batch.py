"""THE CONVENTION, said once. Every tensor in sairlib follows this page.

Ids       users are 0..U-1, items are 1..M, and ``PAD = 0`` is never an item.
Time      runs left to right. Sequences are padded on the RIGHT, so under a causal mask no real step can see
          padding and attention needs no padding mask. A batch is as wide as its longest sequence, not more;
          what does not fit into ``max_len`` is cut from the old end.
Shift     ``targets`` are the items shifted by one; a step counts iff its target is not PAD.
Position  counts back from the newest item: the newest is at 0 whatever the length.

    a user's training items: a b c d e                another user's: f g h

              step 0  1  2  3                                   step 0  1  2  3
    items_BN       a  b  c  d                         items_BN       f  g  0  0
    targets_BN     b  c  d  e                         targets_BN     g  h  0  0
    positions_BN   3  2  1  0                         positions_BN   1  0  0  0   (PAD's is never looked at)

Masks     are boolean and True where something is real, may be attended to, or counts. Always.
Scores    higher is better, for every model (a distance model returns its negative).
Names     carry shapes: ``states_BND``, ``scores_BC``.

    B users in a batch    N steps      D width         H heads
    L pool of interests   K kept       T categories    M items (tables have M + 1 rows, row 0 is PAD)
    C candidates: for training, column 0 is the target and the others are negatives
    S targets of a step   X rows of any kind, flattened
    U users in the data   G categories of one item, at most
"""

from typing import NamedTuple

import torch
from torch import Tensor

PAD = 0


class Batch(NamedTuple):
    """What a training step sees.

    ``targets_BNS`` are the S items to be told at each step (S = 1: the next one), PAD where there is none; where the
    newest step alone is asked about, N is 1 in them. ``negatives`` are (B, N, S, C), each target's own, PAD where a
    user has had everything; or (C), the same for all of the batch. ``log_expected``, see ``losses.py``, is
    (B, 1, 1, 1) or (C) likewise.
    """

    users_B: Tensor
    items_BN: Tensor
    targets_BNS: Tensor
    negatives: Tensor
    log_expected: Tensor


class EvalBatch(NamedTuple):
    """What an evaluation step sees: histories, and the one item to be found next."""

    users_B: Tensor
    items_BN: Tensor
    targets_B: Tensor


def lengths(items_BN: Tensor) -> Tensor:
    """Number of real steps of each row (B)."""
    return (items_BN != PAD).sum(1)


def positions(items_BN: Tensor) -> Tensor:
    """Steps back from the newest item (B, N); 0 at the newest and, harmlessly, at padding."""
    steps_N = torch.arange(items_BN.shape[1], device=items_BN.device)
    return (lengths(items_BN)[:, None] - 1 - steps_N).clamp_(min=0)


def last_steps(items_BN: Tensor) -> Tensor:
    """Where each row's newest item stands (B); 0 for an empty history."""
    return (lengths(items_BN) - 1).clamp_(min=0)


def at_steps(states_BND: Tensor, steps_B: Tensor) -> Tensor:
    """One step's state of each row (B, D)."""
    return states_BND[torch.arange(len(steps_B), device=steps_B.device), steps_B]


def tail(items_BN: Tensor, length: int) -> Tensor:
    """The newest ``length`` items of each row (B, length), right-padded: all that a short memory needs."""
    starts_B1 = (lengths(items_BN) - length).clamp_(min=0)[:, None]
    index_BN = starts_B1 + torch.arange(min(length, items_BN.shape[1]), device=items_BN.device)
    return items_BN.gather(1, index_BN.clamp_(max=items_BN.shape[1] - 1))


def newest(states_BND: Tensor, items_BN: Tensor) -> Tensor:
    """The state at each row's newest item (B, D); at step 0 for an empty history."""
    return at_steps(states_BND, last_steps(items_BN))
