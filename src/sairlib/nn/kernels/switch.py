"""The one place that says whether kernels may take their fast way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_allowed = os.environ.get("SAIRLIB_PLAIN_KERNELS", "") in ("", "0")  # read once, when this module is first imported


def allowed() -> bool:
    """Whether anything but plain versions may run at all."""
    return _allowed


def fast_on(tensor: Tensor) -> bool:
    """Whether a kernel may take its fast way with this tensor: on CPU, and not while torch.compile reads the code."""
    return not torch.compiler.is_compiling() and tensor.device.type == "cpu" and _allowed


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Within it the plain versions run, whatever the environment says: ``with plain_kernels(): ...``."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before
