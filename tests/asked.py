"""Objectives for tests, without a configuration."""

from sairlib.data.negatives import Sampler
from sairlib.data.sequences import SequenceStore
from sairlib.losses import bce
from sairlib.objectives import Loss, NextItem


def sampler(store: SequenceStore, n_negatives: int, kind: str = "uniform", popularity: float = 1.0) -> Sampler:
    return Sampler(kind, n_negatives, popularity, store.unseen, store.counts_M)


def next_item(
    store: SequenceStore,
    n_negatives: int = 1,
    steps_per_batch: float | None = None,
    n_targets: int = 1,
    loss: Loss = bce,
    kind: str = "uniform",
) -> NextItem:
    return NextItem(loss, sampler(store, n_negatives, kind), steps_per_batch, n_targets)
