"""Only the seed decides a study: not what others draw from torch's generator between its assembly and its run."""

from pathlib import Path

import pytest
import torch
from calls import TINY, turning, write_data

import sairlib


def test_what_is_drawn_before_a_study_runs_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path, turning())
    monkeypatch.setenv("SAIRLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SAIRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    found = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        study = sairlib.study("model=sasrec", "training.epochs=1", f"seed={seed}", *TINY)
        torch.rand(len(found))
        study.run(name)
        found.append([value.clone() for value in study.model.parameters()])
    assert all(map(torch.equal, found[0], found[1]))
    assert not all(map(torch.equal, found[0], found[2]))
