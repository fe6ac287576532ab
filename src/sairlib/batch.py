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
States    are a tensor, or a tuple of tensors; their first dimension is the row: (B, ...), or (X, ...) when flattened.
Names     carry shapes: ``states_BND``, ``scores_BC``.

    B users in a batch    N steps      D width         H heads
    L pool of interests   K kept       T categories    M items (tables have M + 1 rows, row 0 is PAD)
    C candidates: for training, column 0 is the target and the others are negatives
    S targets of a step   X rows of any kind, flattened
    U users in the data   G categories of one item, at most
    E held-out items to be found, in an evaluation
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

PAD = 0

State: TypeAlias = Tensor | tuple[Tensor, ...]
"""What a model makes of histories, and what items are scored against."""


class History(NamedTuple):
    """All that a model may look at: who it is, and what they did, right-padded.

    ``times_BN`` are as the data has them (epoch seconds, mostly), 0 at padding; None if it has none.
    """

    users_B: Tensor
    items_BN: Tensor
    times_BN: Tensor | None = None

    def tail(self, length: int) -> "History":
        """The newest ``length`` steps of each row, right-padded: all that a short memory needs."""
        width = self.items_BN.shape[1]
        starts_B1 = (lengths(self.items_BN) - length).clamp_(min=0)[:, None]
        steps_BN = starts_B1 + torch.arange(min(length, width), device=self.items_BN.device)
        steps_BN.clamp_(max=width - 1)
        times_BN = None if self.times_BN is None else self.times_BN.gather(1, steps_BN)
        return History(self.users_B, self.items_BN.gather(1, steps_BN), times_BN)


class Negatives(NamedTuple):
    """Items that are to score lower than the targets.

    ``items_BNSC``: each target's own, PAD where a user has had everything; or, if ``shared``, the same for the whole
    batch, of shape (1, 1, 1, C). ``log_expected`` (to be broadcast to it): the logarithm of how often a negative like
    this one is expected among the C drawn.
    """

    items_BNSC: Tensor
    log_expected: Tensor
    shared: bool = False


class Batch(NamedTuple):
    """What a training step sees.

    ``targets_BNS`` are the S items to be told at each step (S = 1: the next one), PAD where there is none. Where one
    state stands for a whole sequence, N is 1 in them. ``negatives`` is None for a loss over all items.
    """

    history: History
    targets_BNS: Tensor
    negatives: Negatives | None


class EvalBatch(NamedTuple):
    """What an evaluation step sees: histories, the one item to be found next, and its row among all to be found."""

    history: History
    targets_B: Tensor
    rows_B: Tensor


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


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """``function`` of every tensor of a state."""
    return function(state) if isinstance(state, Tensor) else tuple(function(part) for part in state)


def as_rows(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state."""
    return (state,) if isinstance(state, Tensor) else state


def like(state: State, rows: tuple[Tensor, ...]) -> State:
    """``as_rows``, undone: these tensors as a state of the same form."""
    return rows[0] if isinstance(state, Tensor) else rows
