"""The processes that train one model together. A process on its own is number 0 of 1.

``run/distributed.py`` joins them. The functions here are collective: every process must call them, in the same order.
"""

import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


_stores: list[Any] = []
"""What the processes share, once they are joined."""


def share(store: Any) -> None:
    """Keep what the processes share (a ``torch.distributed.Store``), for ``speaks_for_all``."""
    _stores[:] = [store]


def speaks_for_all() -> bool:
    """Whether this process is the first to ask, so that an error which all of them meet is printed once."""
    if not _stores:  # not joined yet: all do the same
        return os.environ.get("RANK", "0") == "0"
    try:
        return bool(_stores[0].add("errors", 1) == 1)
    except RuntimeError:  # whoever holds the store has ended, and says no more
        return True


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0. Number 0 writes the run directory and speaks to the user."""
    return dist.get_rank() if size() > 1 else 0


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; ``tensor`` itself is overwritten with it."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_of(flags: list[bool]) -> list[bool]:
    """Each flag: whether it is set in any process."""
    if size() == 1:
        return flags
    return [count > 0 for count in total(torch.tensor(flags, dtype=torch.int)).tolist()]


def everyones(value: Value) -> list[Value]:
    """The value of every process, in order."""
    if size() == 1:
        return [value]
    values: list[Value] = [value] * size()
    dist.all_gather_object(values, value)
    return values


def first_s(value: Value) -> Value:
    """The value of process 0."""
    values = [value]
    if size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def wait() -> None:
    """Return when every process has called this."""
    any_of([False])
