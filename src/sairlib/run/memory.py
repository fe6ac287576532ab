"""Sizes that no machine can hold, noticed before they are tried: the system may just kill a process."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import register_module_parameter_registration_hook

from sairlib.errors import UserError

MOST_TENSORS = 10_000
"""Of parameters, in one model: some 800 blocks of self-attention."""


def machine_bytes() -> float:
    """The memory of this machine, or of the part of it that this process may use; inf if the system does not say."""
    try:
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows
        return math.inf
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    try:
        return min(total, float(limit.read_text()))
    except (OSError, ValueError):  # there is none, or it is "max"
        return total


def check_fits(what: str, n_bytes: float) -> None:
    """UserError if ``what`` takes more bytes than there are."""
    total = machine_bytes()
    if n_bytes > total:
        raise UserError(f"{what} needs at least {n_bytes / 1e9:,.0f} GB, and this machine has {total / 1e9:,.0f}")


@contextmanager
def bounded_parameters(copies: int) -> Iterator[None]:
    """Stop a model that is being made once its parameters are too many, before they get their first values.

    ``copies``: how often each is held: once, or for training also its gradient and what the optimiser keeps.
    """
    n_bytes = n_tensors = 0

    def count(module: Module, name: str, parameter: Tensor | None) -> None:
        nonlocal n_bytes, n_tensors
        if parameter is not None:
            n_bytes, n_tensors = n_bytes + copies * parameter.nbytes, n_tensors + 1
        if n_tensors > MOST_TENSORS:
            raise UserError(f"the model has more than {MOST_TENSORS:,} tensors of parameters: take fewer layers")
        check_fits("the model", n_bytes)

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
