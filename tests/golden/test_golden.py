"""Every golden run gives the recorded figures. ``golden.py`` makes them, and compares commits to the last digit."""

import json

import pytest
from golden import CASES, RECORDED, golden

recorded = json.loads(RECORDED.read_text())


def test_every_model_has_a_golden_run() -> None:
    assert list(recorded) == list(CASES), "make them again: python tests/golden/golden.py --keep"


@pytest.mark.parametrize("case", CASES)
def test_a_golden_run(case: str) -> None:
    run = golden(CASES[case])
    # Another processor rounds differently, and different rounding can change a rank.
    assert run["losses"] == pytest.approx(recorded[case]["losses"], rel=1e-3)
    assert run["mrr"] == pytest.approx(recorded[case]["mrr"], rel=0.05, abs=2e-3)
