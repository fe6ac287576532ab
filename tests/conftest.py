"""Fixtures for all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# The tensors here are tiny: more threads only wait for one another, for minutes where the cores are busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

from command_helpers import call, write_ratings
from train_helpers import TINY, Command, walks

from sairlib import train


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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; beside it, a tiny data set replaces ml-latest-small."""
    monkeypatch.setenv("SAIRLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SAIRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # put back after the test: the command sets it
    write_ratings(tmp_path / "data" / "ml-latest-small" / "ratings.csv", walks())
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def command(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs ``train`` in this process: exit code, stdout, stderr."""

    def run(*overrides: str, tiny: list[str] = TINY) -> tuple[int, str, str]:
        flags = [word for word in overrides if word == "-m"]
        words = [word for word in overrides if word != "-m"]
        capfd.readouterr()
        code = call(train.main, monkeypatch, *flags, *tiny, *words)
        return code, *capfd.readouterr()

    return run
