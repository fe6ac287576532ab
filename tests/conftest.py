"""Fixtures for all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# The tensors here are tiny: more threads only wait for one another, for minutes where the cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Gives a published data set by file name; the test is skipped where it is not at hand."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("SAIRLIB_TEST_DATA", default))

    def find(name: str) -> Path:
        if not (root / name).exists():
            pytest.skip(f"{name} is not in {root} (set SAIRLIB_TEST_DATA to the folder that has it)")
        return root / name

    return find
