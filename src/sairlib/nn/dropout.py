"""Dropout whose mask costs an eighth of the random numbers: on CPUs drawing them is what dropout spends its time on."""

import torch
from torch import Tensor, nn

from sairlib.errors import UserError


class Dropout(nn.Module):
    """Zero each entry with probability p and scale the others by 1 / (1 - p), as ``nn.Dropout`` does.

    On CPU one 64-bit draw serves four entries, whose probability is p rounded to a multiple of 2^-16; the scale
    belongs to the rounded p, so the expectation is exact. Elsewhere this is ``nn.functional.dropout``.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UserError(f"dropout must be in [0, 1), not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return nn.functional.dropout(x, self.p)
        steps = min(round(self.p * 2**16), 2**16 - 1)
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        # An entry is kept iff its 16 bits are at least steps - 2^15. Arithmetic on floats says so (exactly, these are
        # integers) in a fraction of the time that a boolean mask costs, here and in the backward pass.
        mask = bits.view(torch.int16)[: x.numel()].view(x.shape).float().sub_(steps - 2**15 - 1).clamp_(0, 1)
        return (x * mask.mul_(1 / (1 - steps / 2**16))).to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"
