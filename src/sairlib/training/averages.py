"""Moving averages of a model's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Averages:
    """Exponential moving averages of all weights, with which training validates and that it saves as the best.

    After step t, counted from 1, an average moves 1 - min(decay, (1 + t) / (10 + t)) of the way to its weight, so that
    the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = dict(model.named_parameters())
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Call it after each step of the optimiser."""
        moved = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._averages.values()), list(self._weights.values()), moved)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the model's weights are the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self._weights.items():
            weight.data, self._averages[name] = self._averages[name], weight.data

    def state(self) -> dict[str, Tensor]:
        """The averages by the names of the weights."""
        return dict(self._averages)

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        for name, average in self._averages.items():
            average.copy_(state[name])
