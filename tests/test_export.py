"""The command: what it prints and writes, and its refusals."""

import json
from pathlib import Path

import pytest
from command_helpers import call, contents, refused
from train_helpers import Command

from sairlib import export


def test_a_run_is_exported_by_the_command(
    command: Command, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("model=fmc", "training.epochs=1")[0] == 0

    def exported(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = call(export.main, monkeypatch, *words)
        return code, *capfd.readouterr()

    before = contents(home / "run")
    code, out, err = exported("run=run", "out=made")
    assert (code, err) == (0, "") and "max difference" in out and "FPMC is in made" in out
    assert {path.name for path in Path("made").iterdir()} == {"states.pt2", "scores.pt2", "items.csv", "export.json"}
    assert json.loads(Path("made/export.json").read_text())["run"]["dataset"] == "ml-latest-small"
    assert refused(exported("run=run", "out=made"), "made exists already")
    assert refused(exported("run=run"), "out=?", "sairlib.export run=DIR")
    assert refused(exported("out=x"), "run=?")
    assert refused(exported("run=nowhere", "out=x"), "nowhere holds no run")
    assert refused(exported("run=run", "out=x", "format=pickle"), "format=pickle", "safetensors")
    assert refused(exported("run=run", "out=x", "color=red"), "color")
    assert contents(home / "run") == before and not Path("x").exists()
