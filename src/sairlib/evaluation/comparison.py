"""Comparing two systems on the same people, and several comparisons at once."""

from dataclasses import dataclass

import numpy as np

from sairlib.evaluation.metrics import Floats
from sairlib.evaluation.statistics import bootstrap_interval

LEVEL = 1.959964
"""In standard errors: a two-sided test at the level 0.05 finds what is further from 0."""
POWER = LEVEL + 0.841621
"""Of a two-sided test at the level 0.05: a difference of so many standard errors is found with probability 0.8."""
FLIPS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Comparison:
    """What a system's figure is above a baseline's."""

    difference: float
    """Mean over people of the differences, each a mean over seeds."""
    low: float
    high: float
    """95 % bootstrap interval of that mean, over people."""
    p: float
    """Of the randomisation test: how often signs drawn at random give a mean as far from 0, two-sided."""
    effect: float
    """Mean by standard deviation of the people's differences (Cohen's d for pairs); 0 if all are equal."""
    smallest: float
    """The smallest true difference that so many people and seeds find with probability 0.8 at the level 0.05. Of a
    single seed a side, how seeds differ is not known, and it is too small."""


def compare(system_US: Floats, baseline_US: Floats, n_flips: int = 10_000, seed: int = 0) -> Comparison:
    """Compare figures of the same people (rows), for each of their seeds (columns; the two may have other numbers).

    ValueError if the people are not as many.
    """
    if len(system_US) != len(baseline_US):
        raise ValueError(f"{len(system_US)} people are compared with {len(baseline_US)}")
    differences_U = system_US.mean(1) - baseline_US.mean(1)
    low, high = bootstrap_interval(differences_U[:, None])
    n_people = len(differences_U)
    mean, deviation = float(differences_U.mean()), float(differences_U.std(ddof=1)) if n_people > 1 else 0.0
    several = [side.mean(0) for side in (system_US, baseline_US) if side.shape[1] > 1]
    of_seeds = sum(float(means_S.var(ddof=1)) / len(means_S) for means_S in several)
    return Comparison(
        mean,
        float(low[0]),
        float(high[0]),
        randomisation_p(differences_U, n_flips, seed),
        mean / deviation if deviation else 0.0,
        POWER * float(np.sqrt(deviation**2 / n_people + of_seeds)),
    )


def randomisation_p(differences_U: Floats, n_flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of "each difference is as likely to be negative": signs are drawn ``n_flips`` times.

    The observed signs count as one draw, so that p is never 0.
    """
    rng = np.random.default_rng(seed)
    differences_U = differences_U[differences_U != 0]  # their signs change nothing
    observed = abs(differences_U.sum())
    at_once = max(1, FLIPS_AT_ONCE // max(1, len(differences_U)))
    as_far = 1
    for start in range(0, n_flips, at_once):
        rows = min(at_once, n_flips - start)
        signs = rng.integers(0, 2, (rows, len(differences_U)), dtype=np.int8)
        sums = 2 * (signs @ differences_U) - differences_U.sum()
        as_far += int((np.abs(sums) >= observed * (1 - 1e-12)).sum())
    return as_far / (n_flips + 1)


def holm(p_values: list[float]) -> list[float]:
    """Holm's corrected p values: below 0.05, they keep the chance of any false finding in the table below 0.05."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
