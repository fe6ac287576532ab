"""The conventions that every tensor in sairlib follows, and the values that models and losses exchange.

Ids       users are 0..U-1, items are 1..M. ``PAD = 0`` is never an item.
Time      runs left to right. Sequences are padded on the RIGHT, so under a causal mask no real step sees padding
          and attention needs no padding mask. A batch is as wide as its longest sequence. A sequence of more than
          ``max_len`` items loses its oldest ones.
Shift     ``targets`` are the items shifted by one; a step counts if its target is not PAD.
Position  counts back from the newest item, which is at 0 in every sequence.

    a user's training items: a b c d e                another user's: f g h

              step 0  1  2  3                                   step 0  1  2  3
    items_BN       a  b  c  d                         items_BN       f  g  0  0
    targets_BN     b  c  d  e                         targets_BN     g  h  0  0
    positions_BN   3  2  1  0                         positions_BN   1  0  0  0   (unused at PAD)

Masks     are boolean: True where something is real, may be attended to, or counts.
Scores    higher is better, for every model (a distance model returns its negative).
States    are a tensor, or a tuple of tensors; their first dimension is the row: (B, ...), or (X, ...) when flattened.
Names     carry shapes: ``states_BND``, ``scores_BC``.

    B users in a batch    N steps      D width         H heads
    L interests           K of them kept               T categories
    M items (tables have M + 1 rows, row 0 is PAD)
    C candidates: for training, column 0 is the target and the others are negatives
    S targets of a step   X rows of any kind, flattened
    U users in the data   G categories of one item, at most
    E held-out targets of an evaluation
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

PAD = 0

STRANGER = -1
"""The number of a person who is not in the data. A model with a vector for each user ranks by the mean of these."""

State: TypeAlias = Tensor | tuple[Tensor, ...]
"""A model's summary of each history. Items are scored against it."""


class History(NamedTuple):
    """All that a model may look at: the users, their items, and the times of these, right-padded.

    ``times_BN`` are in the data's unit (mostly seconds since 1970), 0 at padding; None if the data has no times.
    """

    users_B: Tensor
    items_BN: Tensor
    times_BN: Tensor | None = None

    def tail(self, length: int) -> "History":
        """The newest ``length`` steps of each sequence, right-padded."""
        width = self.items_BN.shape[1]
        starts_B1 = (lengths(self.items_BN) - length).clamp_(min=0)[:, None]
        steps_BN = starts_B1 + torch.arange(min(length, width), device=self.items_BN.device)
        steps_BN.clamp_(max=width - 1)
        times_BN = None if self.times_BN is None else self.times_BN.gather(1, steps_BN)
        return History(self.users_B, self.items_BN.gather(1, steps_BN), times_BN)


def nobody(device: torch.device) -> History:
    """The empty history of a stranger (B = N = 1), with the time of padding: it asks a model what it can say."""
    nothing_BN = torch.full((1, 1), PAD, device=device)
    return History(torch.tensor([STRANGER], device=device), nothing_BN, nothing_BN)


class Negatives(NamedTuple):
    """Items that should score lower than the targets.

    ``items_BNSC``: C negatives of each target, PAD if the user has had all items. If ``shared``, one set for the whole
    batch, of shape (1, 1, 1, C). ``log_expected`` (broadcast to ``items_BNSC``): log of how often each negative is
    expected among C draws.
    """

    items_BNSC: Tensor
    log_expected: Tensor
    shared: bool = False


class Batch(NamedTuple):
    """What a training step sees.

    ``targets_BNS``: the S items to predict at each step (S = 1: the next one), PAD where there is none. N is 1 in it
    for a model with one state per sequence. ``negatives`` is None for a loss over all items. ``begins_B``: if the steps
    of a batch go on from those of the batch before, which ones begin a session; else None.
    """

    history: History
    targets_BNS: Tensor
    negatives: Negatives | None
    begins_B: Tensor | None = None


class EvalBatch(NamedTuple):
    """What an evaluation step sees: histories, the held-out item after each, and its index among the E targets."""

    history: History
    targets_B: Tensor
    rows_B: Tensor


def lengths(items_BN: Tensor) -> Tensor:
    """Number of real steps of each row (B)."""
    return (items_BN != PAD).sum(1)


def positions(items_BN: Tensor) -> Tensor:
    """Steps back from the newest item (B, N); 0 at the newest and at padding."""
    steps_N = torch.arange(items_BN.shape[1], device=items_BN.device)
    return (lengths(items_BN)[:, None] - 1 - steps_N).clamp_(min=0)


def last_steps(items_BN: Tensor) -> Tensor:
    """Index of each row's newest item (B); 0 for an empty history."""
    return (lengths(items_BN) - 1).clamp_(min=0)


def at_steps(states_BND: Tensor, steps_B: Tensor) -> Tensor:
    """The state at one step of each row (B, D)."""
    return states_BND[torch.arange(steps_B.shape[0], device=steps_B.device), steps_B]


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply ``function`` to every tensor of a state."""
    return function(state) if isinstance(state, Tensor) else tuple(function(part) for part in state)


def single(part: Tensor) -> Tensor:
    """A tensor of a state in single precision, in which items are ranked; indices and masks unchanged."""
    return part.float() if part.is_floating_point() else part


def as_rows(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state, as a tuple."""
    return (state,) if isinstance(state, Tensor) else state


def like(state: State, rows: tuple[Tensor, ...]) -> State:
    """The inverse of ``as_rows``: a state made of ``rows``, of the same form as ``state``."""
    return rows[0] if isinstance(state, Tensor) else rows
