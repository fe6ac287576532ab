"""Which differences between two systems a design can show: simulated from the figures of runs at hand."""

from dataclasses import dataclass, replace

import numpy as np

from sairlib.evaluation.comparison import LEVEL
from sairlib.evaluation.metrics import Floats, Ints


@dataclass(frozen=True)
class Differences:
    """What the runs of two systems say of how a system's figure minus another's varies.

    ``centred_U``: each person's difference, a mean over his or her targets and over R pairs of runs, minus its mean
    over people. ``of_runs``: the part of its variance that comes from the R trainings, and would halve with twice as
    many. ``of_figures``: the variance of the two figures' difference from one pair of trainings to another, of which
    ``of_people`` is what single people's luck gives anyhow. Of a single pair these are unknown, and 0.
    """

    centred_U: Floats
    n_pairs: int
    of_runs: float
    of_figures: float
    of_people: float

    @property
    def of_seeds(self) -> float:
        """The variance of the figures' difference by seeds that would be there with any number of people."""
        return max(0.0, self.of_figures - self.of_people)

    def of_design(self, n_seeds: int) -> tuple[Floats, float]:
        """People's differences (U) as they would vary with ``n_seeds`` seeds a side, and the variance of seeds."""
        variance = float(self.centred_U.var())
        wanted = max(0.0, variance - self.of_runs) + self.of_runs * self.n_pairs / n_seeds
        return self.centred_U * np.sqrt(wanted / variance if variance else 1.0), self.of_seeds / n_seeds


def differences(system_ES: Floats, baseline_ES: Floats, people_E: Ints, n_targets: int, seed: int = 0) -> Differences:
    """From the figures of E targets in the runs of each system (columns), of which ``people_E`` says whose they are.

    ``n_targets`` of each person are drawn; who has fewer is left out. ValueError if nobody has so many.
    """
    paired = min(system_ES.shape[1], baseline_ES.shape[1])
    chosen_X = _drawn(people_E, n_targets, seed)
    _, codes_X = np.unique(people_E[chosen_X], return_inverse=True)
    by_person = [
        np.stack([np.bincount(codes_X, column) for column in figures[chosen_X, :paired].T], 1) / n_targets
        for figures in (system_ES, baseline_ES)
    ]
    differences_UR = by_person[0] - by_person[1]
    differences_UR -= differences_UR.mean(0)
    within = float(differences_UR.var(1, ddof=1).mean()) if paired > 1 else 0.0
    parts = [_of_figures(side, people_E) for side in (system_ES, baseline_ES)]
    return Differences(
        differences_UR.mean(1), paired, within / paired, *(sum(part) for part in zip(*parts, strict=True))
    )


def _of_figures(figures_ES: Floats, people_E: Ints) -> tuple[float, float]:
    """The variance of a system's figure by seeds, and how much of it single people's differences by seeds make."""
    if figures_ES.shape[1] < 2:
        return 0.0, 0.0
    _, codes_E = np.unique(people_E, return_inverse=True)
    means_S = figures_ES.mean(0)
    sums_US = np.stack([np.bincount(codes_E, column) for column in (figures_ES - means_S).T], 1)
    return float(means_S.var(ddof=1)), float(sums_US.var(1, ddof=1).sum()) / len(figures_ES) ** 2


def _drawn(people_E: Ints, n_targets: int, seed: int) -> Ints:
    """Indices of ``n_targets`` random targets of each person who has as many, by person."""
    order_E = np.lexsort((np.random.default_rng(seed).random(len(people_E)), people_E))
    _, starts_U, counts_U = np.unique(people_E[order_E], return_index=True, return_counts=True)
    starts_U = starts_U[counts_U >= n_targets]
    if not len(starts_U):
        raise ValueError(f"nobody has {n_targets} targets")
    chosen: Ints = order_E[(starts_U[:, None] + np.arange(n_targets)).ravel()]
    return chosen


@dataclass(frozen=True)
class Design:
    """An experiment: how many people are tested, and how many seeds of each system are trained."""

    n_people: int
    n_seeds: int


@dataclass(frozen=True)
class Power:
    """What a design shows, by simulation."""

    smallest: float
    """The smallest true difference that is found with probability 0.8."""
    false_alarms: float
    """How often two equal systems are found to differ, were seeds not counted: 0.05 if seeds do not differ."""


def power(varies: Differences, design: Design, n_experiments: int = 2000, seed: int = 0) -> Power:
    """Repeat an experiment with people drawn with replacement, and seeds from a normal distribution.

    In each, the figure's difference is the true one plus the mean of the people drawn plus the seeds' share. It is
    found if it is further from 0 than 1.96 standard errors, which count people and seeds. So a true difference above
    1.96 errors minus what was drawn is found, and the 0.8 quantile of these is the smallest that four in five find.
    (That a difference is found with the wrong sign adds nothing at such a power.)
    """
    rng = np.random.default_rng(seed)
    scaled_U, of_seeds = varies.of_design(design.n_seeds)
    means, errors = np.empty(n_experiments), np.empty(n_experiments)
    for i in range(n_experiments):
        drawn = scaled_U[rng.integers(0, len(scaled_U), design.n_people)]
        means[i], errors[i] = drawn.mean(), drawn.var(ddof=1) / design.n_people
    means += rng.normal(0.0, np.sqrt(of_seeds), n_experiments)
    needed = LEVEL * np.sqrt(errors + of_seeds) - means
    return Power(float(np.quantile(needed, 0.8)), float((np.abs(means) > LEVEL * np.sqrt(errors)).mean()))


def with_seeds_of(varies: Differences, figures: tuple[list[float], list[float]]) -> Differences:
    """The same people with the seeds' variance of other runs, from the figures of several runs of each system.

    All of it counts as seeds'. A little of it is single people's luck, which is then counted twice.
    """
    return replace(varies, of_figures=sum(float(np.var(side, ddof=1)) for side in figures), of_people=0.0)
