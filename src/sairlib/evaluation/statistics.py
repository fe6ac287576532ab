"""Statistics: how certain a figure is."""

import numpy as np

from sairlib.evaluation.metrics import Floats, Ints


def bootstrap_interval(
    values: Floats, people: Ints | None = None, n_resamples: int = 1000, seed: int = 0
) -> tuple[Floats, Floats]:
    """95 % percentile bootstrap intervals of the mean over rows: (low, high), each (n,), from ``values`` (E, n).

    ``people`` (E) says whose each row is: people are drawn, each with all of his or her rows, for these are alike.
    None: each row is another's.
    """
    rng = np.random.default_rng(seed)
    sums, sizes = values, np.ones(len(values))
    if people is not None:
        _, codes = np.unique(people, return_inverse=True)
        sizes = np.bincount(codes).astype(float)
        sums = np.stack([np.bincount(codes, column) for column in values.T], 1)
    n_people = len(sums)
    means = np.empty((n_resamples, values.shape[1]))
    for i in range(n_resamples):
        drawn = np.bincount(rng.integers(0, n_people, n_people), minlength=n_people)
        means[i] = drawn @ sums / (drawn @ sizes)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high
