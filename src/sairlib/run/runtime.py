"""The environment of a run: device, seeds, memory, versions."""

import ctypes
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from sairlib import processes
from sairlib.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of this name; ``auto`` prefers CUDA, then MPS, then the CPU. UserError if it is not available."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise UserError(f"device={name} is not available on this machine; use device=auto or device=cpu") from None
    return device


def seed_everything(seed: int) -> None:
    """Seed torch's global generators, which draw initial weights and dropout; UserError for a seed out of range."""
    if not 0 <= seed < 2**63:
        raise UserError(f"seed={seed}: must be between 0 and 2^63 - 1")
    torch.manual_seed(seed)


def use_deterministic_kernels() -> None:
    """From now on, in this process, use only kernels of CUDA that give the same digits every time.

    An operation that has none raises RuntimeError when it runs.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's first matrix product runs
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for later tensors; False if the C library is another one.

    By default glibc returns part of a step's memory to the system and requests it again, zeroed page by page, in the
    next step. That takes a tenth of an epoch of SAIR on ML-1M.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    largest = 32 * 2**20  # the largest value that glibc accepts for this threshold
    return bool(mallopt(m_mmap_threshold, largest) and mallopt(m_trim_threshold, 2**31 - 1))


def describe(device: torch.device) -> dict[str, Any]:
    """Machine, versions and commit, for the record of a run."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "pandas", "hydra-core")}
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "git": git_state(Path(__file__).parents[1]),
        "versions": {"sairlib": importlib.metadata.version("sairlib"), "python": platform.python_version(), **versions},
        "machine": {
            "device": str(device),
            "accelerator": accelerator,
            "cpu": _cpu_name(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": processes.size(),
            "system": platform.system(),
        },
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the git checkout that holds ``folder``, and whether files below it differ; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", str(folder / "batch.py")) == "":
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", str(folder)))}
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_bytes() -> int | None:
    """Peak resident memory of this process; None on a system that does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
