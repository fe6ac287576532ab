"""Join the processes that ``torchrun`` starts."""

import atexit
import os
from datetime import timedelta

import torch
import torch.distributed as dist

from sairlib.errors import UserError

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others. Process 0 alone reads a data set for the first time."""


def expected() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: torch.device) -> torch.device:
    """Join the other processes that ``torchrun`` started, if there are any; returns this process's device.

    Gradients of a GPU are exchanged by nccl, all else by gloo. UserError if there are more processes than GPUs here.
    """
    if not expected():
        return device
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UserError(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes on a machine with {torch.cuda.device_count()} GPUs:"
                " give --nproc-per-node at most that number, or device=cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(leave)
    return device


def leave() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
