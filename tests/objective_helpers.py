"""Samplers, objectives and batches for tests, without a configuration."""

import torch
from torch import Tensor

from sairlib.batch import Batch
from sairlib.data.sequences import Rows, SequenceStore
from sairlib.training.losses import BCE, Loss
from sairlib.training.negatives import Sampler, Uniform
from sairlib.training.objectives import NextItem, Objective
from sairlib.training.shared_negatives import Popular, Shared


def sampler(store: SequenceStore, n: int, kind: str = "uniform", power: float = 1.0) -> Sampler:
    if kind == "popular":
        return Popular(store, n, power)
    return {"uniform": Uniform, "shared": Shared}[kind](store, n)


def next_item(
    store: SequenceStore,
    n_negatives: int = 1,
    n_targets: int = 1,
    loss: Loss | None = None,
    kind: str = "uniform",
    batch_size: int = 16,
    steps_per_batch: float | None = None,
) -> NextItem:
    """``kind="none"``: for a loss over all items. ``steps_per_batch``: replaces the epoch's mean."""
    negatives = None if kind == "none" else sampler(store, n_negatives, kind)
    objective = NextItem(loss or BCE(), negatives, store, batch_size, n_targets)
    if steps_per_batch is not None:
        objective.steps_per_batch = steps_per_batch
    return objective


def batch_of(objective: Objective, users_B: Tensor, seed: int = 0) -> Batch:
    """The objective's batch of these users."""
    generator = torch.Generator().manual_seed(seed)
    rows = Rows(users_B, int(objective.store.train_steps(users_B).max()))
    [(batch, share)] = objective.batches(rows, generator)
    assert share == 1.0
    return batch
