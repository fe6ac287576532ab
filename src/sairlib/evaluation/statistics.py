"""Statistics: how certain a figure is."""

import numpy as np

from sairlib.evaluation.metrics import Floats


def bootstrap_interval(values: Floats, n_resamples: int = 1000, seed: int = 0) -> tuple[Floats, Floats]:
    """95 % percentile bootstrap intervals over rows: (low, high), each (n,), from ``values`` (E, n)."""
    rng = np.random.default_rng(seed)
    n_rows = len(values)
    means = np.empty((n_resamples, values.shape[1]))
    for i in range(n_resamples):
        means[i] = np.bincount(rng.integers(0, n_rows, n_rows), minlength=n_rows) @ values / n_rows
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high
