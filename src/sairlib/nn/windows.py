"""What a short memory looks at."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


class _Recent(torch.autograd.Function):
    """A view, whose gradient is L sums of whole sequences: on CPU in a fifth of the time of ``Tensor.unfold``'s."""

    @staticmethod
    def forward(ctx: Any, vectors_BND: Tensor, length: int) -> Tensor:
        return pad(vectors_BND, (0, 0, length - 1, 0)).unfold(1, length, 1).transpose(-1, -2)

    @staticmethod
    def backward(ctx: Any, gradient_BNLD: Tensor) -> tuple[Tensor, None]:
        N, L = gradient_BNLD.shape[1:3]
        summed_BND = gradient_BNLD[:, :, -1].clone()
        for back in range(1, min(L, N)):
            summed_BND[:, : N - back] += gradient_BNLD[:, back:, L - 1 - back]
        return summed_BND, None


def recent(vectors_BND: Tensor, length: int) -> Tensor:
    """What stands at every step and the ``length`` - 1 before (B, N, length, D), oldest first; 0 before the first."""
    found: Tensor = _Recent.apply(vectors_BND, length)  # type: ignore[no-untyped-call]
    return found
