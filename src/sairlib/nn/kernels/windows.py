"""Windows of the last few steps."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sairlib.nn.kernels.switch import fast_on


def recent(vectors_BND: Tensor, length: int) -> Tensor:
    """The vectors of each step and the ``length`` - 1 steps before (B, N, length, D), oldest first; 0 before step 0."""
    if not fast_on(vectors_BND):
        return plain_recent(vectors_BND, length)
    windows: Tensor = _Recent.apply(vectors_BND, length)  # type: ignore[no-untyped-call]
    return windows


def plain_recent(vectors_BND: Tensor, length: int) -> Tensor:
    return pad(vectors_BND, (0, 0, length - 1, 0)).unfold(1, length, 1).transpose(-1, -2)


class _Recent(torch.autograd.Function):
    """The plain view, with a gradient of L sums of whole sequences: on CPU a fifth of the time of ``Tensor.unfold``."""

    @staticmethod
    def forward(ctx: Any, vectors_BND: Tensor, length: int) -> Tensor:
        return plain_recent(vectors_BND, length)

    @staticmethod
    def backward(ctx: Any, gradient_BNLD: Tensor) -> tuple[Tensor, None]:
        N, L = gradient_BNLD.shape[1:3]
        summed_BND = gradient_BNLD[:, :, -1].clone()
        for back in range(1, min(L, N)):
            summed_BND[:, : N - back] += gradient_BNLD[:, back:, L - 1 - back]
        return summed_BND, None
