"""The paired test against all sign patterns, Holm's correction by hand, and the power that is claimed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sairlib.evaluation.comparison import compare, holm, randomisation_p


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_p_is_the_share_of_sign_patterns_as_far_from_zero(differences: list[int]) -> None:
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns(len(differences))]
    exact = np.mean([total >= abs(sum(differences)) for total in sums])
    assert randomisation_p(np.array(differences, float)) == pytest.approx(exact, abs=0.03)


def patterns(n: int) -> "itertools.product[tuple[int, ...]]":
    return itertools.product((-1, 1), repeat=n)


def test_p_is_small_for_a_clear_difference_and_uniform_for_none() -> None:
    rng = np.random.default_rng(0)
    assert randomisation_p(rng.normal(0.5, 1, 200)) < 0.001
    p_values = [randomisation_p(rng.normal(0, 1, 60), 400, seed) for seed in range(300)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.04)
    assert randomisation_p(np.zeros(5)) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_smallest_difference_is_found_with_probability_four_in_five() -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 1, 400)
    noise = [rng.normal(0, 0.3, (400, 1)) for _ in range(2)]
    baseline = shared[:, None] + noise[0]
    smallest = compare(shared[:, None] + noise[1], baseline, n_flips=200).smallest
    found = 0
    for _ in range(300):
        differences = rng.normal(smallest, 0.3 * 2**0.5, 400)
        found += abs(differences.mean()) > 1.96 * differences.std(ddof=1) / 20
    assert found / 300 == pytest.approx(0.8, abs=0.08)


def test_seeds_widen_what_can_be_shown_and_people_must_be_the_same() -> None:
    rng = np.random.default_rng(2)
    people = rng.normal(0, 1, (50, 1))
    steady, moody = people + np.zeros(3), people + np.array([-0.5, 0, 0.5])
    other = people + rng.normal(0, 0.1, (50, 3))
    assert compare(moody, other, 200).smallest > 2 * compare(steady, other, 200).smallest
    compared = compare(steady + 0.2, people, 200)
    assert (compared.difference, compared.low, compared.high) == pytest.approx((0.2, 0.2, 0.2))
    with pytest.raises(ValueError, match="50 people are compared with 49"):
        compare(people, people[1:])
