"""Seeds, device, versions."""

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sairlib.errors import UserError
from sairlib.run import runtime


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "", "cpu:x"])
def test_a_missing_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"^device={name} is not available on this machine"):
        runtime.choose_device(name)


def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.choose_device("auto").type == "cuda"


def test_seeds() -> None:
    drawn = []
    for seed in (1, 1, 2, 2**63 - 1, 0):
        runtime.seed_everything(seed)
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1] and len(set(drawn)) == 4
    for seed in (-1, 2**63):
        with pytest.raises(UserError, match=f"^seed={seed}: must be between"):
            runtime.seed_everything(seed)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_the_allocator_takes_the_setting() -> None:
    assert runtime.keep_freed_memory()


def test_the_record_names_what_matters() -> None:
    record = runtime.describe(torch.device("cpu"))
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert {"sairlib", "python", "numpy", "pandas", "hydra-core"} <= record["versions"].keys()
    assert record["machine"]["device"] == "cpu" and record["machine"]["cpu"]
    peak = runtime.peak_memory_bytes()
    assert peak is None or 50e6 < peak < 100e9


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_package_and_of_nothing_around_it(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "batch.py").write_text("PAD = 0\n")
    assert runtime.git_state(package) is None
    git("init")
    assert runtime.git_state(package) is None  # installed inside somebody else's checkout
    git("add", "-A")
    git("commit", "-m", "first")
    assert runtime.git_state(package) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (package / "batch.py").write_text("PAD = 1\n")
    assert runtime.git_state(package) == {"commit": git("rev-parse", "HEAD"), "dirty": True}
