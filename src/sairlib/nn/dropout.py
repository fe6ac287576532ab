"""Dropout whose mask costs an eighth of the random numbers: on CPUs drawing them is what dropout spends its time on."""

import torch
from torch import Tensor, nn

from sairlib.errors import UserError


class _Scaled(torch.autograd.Function):
    """x * mask * scale; keeps the byte-wide mask alone for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, kept: Tensor, scale: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (x * kept).mul_(scale)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (kept,) = ctx.saved_tensors
        return (grad * kept).mul_(ctx.scale), None, None


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
        kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= steps - 2**15
        scaled: Tensor = _Scaled.apply(x, kept, 1 / (1 - steps / 2**16))  # type: ignore[no-untyped-call]
        return scaled

    def extra_repr(self) -> str:
        return f"p={self.p}"
