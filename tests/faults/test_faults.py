"""Every fault is survived, in a few of its tries; ``faults.py`` takes them all."""

import pytest
from faults import Fault, all_faults, attempt

TRIES = [
    pytest.param(fault, number, id=f"{fault.name} {number}") for fault in all_faults() for number in range(fault.few)
]


@pytest.mark.parametrize(("fault", "number"), TRIES)
def test_a_fault_is_survived(fault: Fault, number: int) -> None:
    assert attempt(fault, number) is None
