"""A tiny data set for the train command, and the words that train on it in a second."""

import os
import subprocess
import sys
from collections.abc import Callable

TINY = [
    *("device=cpu", "model.d=8", "max_len=8", "training.epochs=2", "training.batch_size=16"),
    *("evaluation.n_candidates=5", "run_dir=run"),
]
Command = Callable[..., tuple[int, str, str]]


def walks(n_users: int = 20, n_items: int = 25, length: int = 9) -> list[tuple[int, int]]:
    return [(user, (3 * user + step) % n_items) for user in range(n_users) for step in range(length)]


def python(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SAIRLIB_", "HYDRA_"))}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**clean, **environment}, timeout=250)
