"""Small made-up histories and random weights, for models whose equations are a line or two."""

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sairlib.nn.table import Table

M, USERS, MAX_LEN, D = 11, 6, 6, 4
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8], [10, 11], [8, 2, 8], [1, 2, 3, 4]]


def padded() -> Tensor:
    return torch.tensor([row + [0] * (MAX_LEN - len(row)) for row in HISTORIES])


def randomised(model: nn.Module) -> None:
    """Into eval mode and double precision; all weights random but PAD's: nothing hides behind a 0."""
    model.double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for module in model.modules():
            if isinstance(module, Table) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0


def arrays(model: nn.Module) -> dict[str, NDArray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}
