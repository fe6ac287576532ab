"""Join the processes that ``torchrun`` starts."""

import atexit
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from sairlib import processes
from sairlib.errors import UserError

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others. Process 0 alone reads a data set for the first time."""


def join() -> None:
    """Join the other processes, if ``torchrun`` started this one as one of several. Only the first keeps its output.

    Gradients of a GPU are exchanged by nccl, all else by gloo. UserError if the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, rank, size = next(rendezvous("env://"))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot join the other processes of WORLD_SIZE={os.environ['WORLD_SIZE']} ({error})"
        ) from error
    processes.share(store)
    atexit.register(leave)
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)


def device_of_this_process(device: torch.device) -> torch.device:
    """Its own GPU for each of several processes on a machine. UserError if there are not enough."""
    if processes.size() == 1 or device.type != "cuda":
        return device
    own = int(os.environ["LOCAL_RANK"])
    if own >= torch.cuda.device_count():
        raise UserError(
            f"{os.environ['LOCAL_WORLD_SIZE']} processes on a machine with {torch.cuda.device_count()} GPUs: give"
            " --nproc-per-node at most that number, or device=cpu"
        )
    torch.cuda.set_device(own)
    return torch.device("cuda", own)


def lost_another(error: RuntimeError) -> bool:
    """Whether ``error`` says that another process can no longer be reached."""
    message = str(error).lower()
    return processes.size() > 1 and any(word in message for word in ("gloo", "nccl", "connection", "peer"))


def leave() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
