"""Dropout as a module, on the kernel of the same name."""

from torch import Tensor, nn

from sairlib.errors import UserError
from sairlib.nn.kernels.dropout import dropout


class Dropout(nn.Module):
    """Zero each entry with probability p and scale the others by 1 / (1 - p), as ``nn.Dropout`` does.

    On CPU p is rounded to a multiple of 2^-16, and the scale belongs to the rounded p.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UserError(f"dropout must be in [0, 1), not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        return f"p={self.p}"
