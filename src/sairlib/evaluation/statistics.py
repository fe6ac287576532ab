"""Statistics over users: how sure a figure is."""

import numpy as np

from sairlib.evaluation.metrics import Floats


def bootstrap_interval(values: Floats, n_resamples: int = 1000, seed: int = 0) -> tuple[Floats, Floats]:
    """95 % percentile bootstrap intervals over users: (low, high), each (n,), from values (U, n)."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.empty((n_resamples, values.shape[1]))
    for i in range(n_resamples):
        means[i] = np.bincount(rng.integers(0, n, n), minlength=n) @ values / n
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high
