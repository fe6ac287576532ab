"""Samplers of negatives for training. All draw with replacement."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias, final

import torch
from torch import Tensor

from sairlib.batch import PAD, Negatives
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError

Draw: TypeAlias = Callable[[Tensor, tuple[int, ...]], Negatives]
"""From ``users_B`` and ``shape`` to negatives for targets (B, *shape)."""


class Sampler(ABC):
    """Draws ``n`` negatives for each target, given the training part of ``store``."""

    def __init__(self, store: SequenceStore, n: int) -> None:
        if n < 1:
            raise UserError(f"n={n}: must be 1 or more")
        self.n = n

    @abstractmethod
    def begin(self, generator: torch.Generator) -> Draw:
        """A function that draws for one batch. Call it for each piece of the batch."""


@final
class Uniform(Sampler):
    """Own negatives for each target, uniform outside the user's training history (SASRec, section III-E)."""

    def __init__(self, store: SequenceStore, n: int) -> None:
        super().__init__(store, n)
        self.unseen = store.unseen

    def begin(self, generator: torch.Generator) -> Draw:
        def draw(users_B: Tensor, shape: tuple[int, ...]) -> Negatives:
            sizes = self.unseen.sizes[users_B].view(-1, *(1 for _ in (*shape, 1))).clamp(min=1)
            return Negatives(self.unseen.draw(users_B, (*shape, self.n), generator), (self.n / sizes).log())

        return draw


class ByWeight(Sampler):
    """The same negatives for the whole batch, each item drawn in proportion to its weight (M + 1)."""

    def __init__(self, store: SequenceStore, n: int, weights_M: Tensor) -> None:
        super().__init__(store, n)
        weights_M[PAD] = 0
        self.cumulative_M = weights_M.cumsum(0) / weights_M.sum()
        self.log_expected_M = (n * weights_M / weights_M.sum()).log().float()

    def begin(self, generator: torch.Generator) -> Draw:
        random_C = torch.rand(self.n, generator=generator, device=self.cumulative_M.device, dtype=torch.float64)
        drawn_C = torch.searchsorted(self.cumulative_M, random_C, right=True).clamp(max=len(self.cumulative_M) - 1)
        negatives = Negatives(drawn_C[None, None, None], self.log_expected_M[drawn_C], shared=True)
        return lambda users_B, shape: negatives


@final
class Shared(ByWeight):
    """The same negatives for the whole batch, uniform over all items."""

    def __init__(self, store: SequenceStore, n: int) -> None:
        super().__init__(store, n, torch.ones_like(store.counts_M, dtype=torch.float64))


@final
class Popular(ByWeight):
    """The same negatives for the whole batch, drawn by (training count) ^ ``power`` (alpha in GRU4Rec, CIKM 2018)."""

    def __init__(self, store: SequenceStore, n: int, power: float = 0.75) -> None:
        if not power >= 0:
            raise UserError(f"power={power}: must be 0 or more")
        counts_M = store.counts_M
        super().__init__(store, n, counts_M.double() ** power * (counts_M > 0))  # power 0 would give 0 ^ 0 = 1
