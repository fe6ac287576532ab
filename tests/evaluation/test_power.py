"""Simulated power against the closed form, on figures whose variances are known."""

import numpy as np
import pytest

from sairlib.evaluation.comparison import POWER
from sairlib.evaluation.metrics import Floats, Ints
from sairlib.evaluation.power import Design, Differences, differences, power, with_seeds_of

PERSON, TARGET, TRAINING, SEED = 0.3, 0.5, 0.2, 0.01
"""Standard deviations: of a person's difference, of a target, of a target in one training, of a training's figure."""


def generated(n_people: int, n_targets: int, n_runs: int, seed: int = 0) -> tuple[Floats, Floats, Ints]:
    """Figures of two systems of the same level; runs of the second are all alike."""
    rng = np.random.default_rng(seed)
    people_E = np.repeat(np.arange(n_people), n_targets)
    own_E = PERSON * rng.normal(size=n_people)[people_E] + TARGET * rng.normal(size=len(people_E))
    of_runs = TRAINING * rng.normal(size=(len(people_E), n_runs)) + SEED * rng.normal(size=n_runs)
    return own_E[:, None] + of_runs, np.zeros_like(of_runs), people_E


@pytest.mark.parametrize("n_targets", [1, 4])
@pytest.mark.parametrize("n_seeds", [1, 3, 12])
def test_the_smallest_difference_is_that_of_the_closed_form(n_targets: int, n_seeds: int) -> None:
    """Of designs with other numbers of targets, seeds and people than the runs at hand."""
    varies = differences(*generated(20_000, 4, 3), n_targets)
    simulated = power(with_seeds_of(varies, ([0.0, SEED * np.sqrt(2)], [0.5, 0.5])), Design(3000, n_seeds), 4000)
    variance = PERSON**2 + (TARGET**2 + TRAINING**2 / n_seeds) / n_targets
    exact = POWER * np.sqrt(variance / 3000 + SEED**2 / n_seeds)
    assert simulated.smallest == pytest.approx(exact, rel=0.04)


def test_seeds_differ_by_what_the_runs_show() -> None:
    """Of which single people's luck is no part, though with few people it makes most of what runs differ by."""
    varies = differences(*generated(100, 2, 400), 2)
    assert varies.of_figures == pytest.approx(SEED**2 + TRAINING**2 / 200, rel=0.25)
    assert varies.of_seeds == pytest.approx(SEED**2, rel=0.4)
    assert varies.of_runs * 400 == pytest.approx(TRAINING**2 / 2, rel=0.05)


def test_seeds_that_are_not_counted_are_false_alarms() -> None:
    people = np.random.default_rng(0).normal(size=4000)
    people -= people.mean()
    alike, unlike = (Differences(people, 1, 0.0, of_seeds, 0.0) for of_seeds in (0.0, 0.01))
    assert power(alike, Design(1000, 1)).false_alarms == pytest.approx(0.05, abs=0.015)
    assert power(unlike, Design(1000, 1)).false_alarms > 0.4


def test_who_has_too_few_targets_is_left_out() -> None:
    system, baseline, people = generated(10, 4, 2)
    fewer = people != 3
    fewer[3] = True
    people_left = np.concatenate([people[fewer], people[people == 3][:1]])
    figures = [np.concatenate([side[fewer], side[people == 3][:1]]) for side in (system, baseline)]
    assert len(differences(*figures, people_left, 1).centred_U) == 10
    assert len(differences(*figures, people_left, 4).centred_U) == 9
    with pytest.raises(ValueError, match="nobody has 5 targets"):
        differences(*figures, people_left, 5)
