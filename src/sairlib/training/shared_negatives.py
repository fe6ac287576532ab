"""Samplers that draw the same negatives for the whole batch."""

from typing import final

import torch
from torch import Tensor

from sairlib.batch import PAD, Negatives
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.training.negatives import Draw, Sampler


class ByWeight(Sampler):
    """The same negatives for the whole batch, each item drawn in proportion to its weight (M + 1)."""

    def __init__(self, store: SequenceStore, n: int, weights_M: Tensor) -> None:
        super().__init__(store, n)
        weights_M[PAD] = 0
        # On the CPU: CUDA has no deterministic kernel for running sums.
        self.cumulative_M = (weights_M.cpu().cumsum(0) / weights_M.cpu().sum()).to(weights_M.device)
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
