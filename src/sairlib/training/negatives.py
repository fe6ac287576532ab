"""Samplers of negatives for training. All draw with replacement."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias, final

import torch
from torch import Tensor

from sairlib.batch import Negatives
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
