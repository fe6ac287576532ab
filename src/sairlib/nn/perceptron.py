"""A multilayer perceptron that ends in a single number."""

from collections.abc import Mapping
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sairlib.errors import UserError

ACTIVATIONS = ("prelu", "sigmoid")


@final
class Perceptron(nn.Module):
    """Linear layers with an activation after each, then one to a single number.

    ``widths`` of these layers, one at least, by the names of their options; UserError if one is below 1.

    ``activation``: ``prelu``, max(x, 0) + slope min(x, 0) with a slope for each unit; or ``sigmoid``. Matrices start
    Xavier-uniform, biases 0, slopes 0.1. ``first`` is apart from the ``rest``, so that a model can compute it from
    parts of its input.
    """

    def __init__(self, n_inputs: int, widths: Mapping[str, int], activation: str) -> None:
        super().__init__()
        for name, width in widths.items():
            if width < 1:
                raise UserError(f"{name}={width}: must be 1 or more")
        if activation not in ACTIVATIONS:
            raise UserError(f"activation={activation}: choose one of {', '.join(ACTIVATIONS)}")
        self.widths = list(widths.values())
        self.first = nn.Linear(n_inputs, self.widths[0])
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise([*self.widths, 1]))
        self.slopes = nn.ParameterList(torch.full((width,), 0.1) for width in self.widths if activation == "prelu")
        for layer in (self.first, *self.layers):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))

    def rest(self, x: Tensor) -> Tensor:
        """The number (...) from what the first layer gives (..., A)."""
        for number, (weight, bias) in enumerate(layer.parameters() for layer in self.layers):
            if not self.slopes:
                x = linear(x.sigmoid(), weight, bias)
                continue
            # slope x + (1 - slope) max(x, 0), the same number, as two products: on CPU in two thirds of the time.
            slope = self.slopes[number]
            x = linear(x, weight * slope, bias) + linear(x.relu(), weight * (1 - slope))
        return x.squeeze(-1)
