"""The switch between the fast and the plain versions of all kernels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_allowed = os.environ.get("SAIRLIB_PLAIN_KERNELS", "") in ("", "0")  # read once, when this module is first imported


def allowed() -> bool:
    """Whether fast versions are allowed at all."""
    return _allowed


def fast_on(tensor: Tensor) -> bool:
    """Whether a kernel may use its fast version for this tensor: on CPU, not while torch.compile traces the code."""
    return not torch.compiler.is_compiling() and tensor.device.type == "cpu" and _allowed


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Only plain versions run inside ``with plain_kernels(): ...``, whatever the environment says."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before
