"""The script that says which differences a design can show, on made-up runs."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "power.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs a checkout: experiments/ is not in the wheel")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("power_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_run(folder: Path, model: str, seed: int, people: int = 50, targets: int = 5) -> Path:
    """The files of a finished run of ``people`` users, as small as they may be."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, ord(model)])
    better = rng.integers(0, 30, people * targets)
    figures = {"sampled": {"ndcg@10": 0.5 + seed / 100, "hr@10": 0.6}}
    test = {**figures, "ci95": figures, "best_epoch": 2, "split_sha256": "a", "candidates_sha256": "b"}
    (folder / "test.json").write_text(json.dumps(test))
    (folder / "run.json").write_text(json.dumps({"dataset": "ml-1m"}))
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 2, "validation": {}}) + "\n")
    (folder / "config.yaml").write_text(f"seed: {seed}\nmodel: {{_target_: x.{model}}}\ntraining: {{epochs: 2}}\n")
    arrays = {"sampled_better": better, "sampled_tied": np.zeros_like(better)}
    np.savez(folder / "ranks.npz", user=np.repeat(np.arange(people), targets), **arrays)
    return folder


def test_tables_of_two_systems(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / f"{model}-{seed}", model, seed) for model in ("A", "B") for seed in (1, 2)]
    monkeypatch.setattr(script, "PEOPLE", (50, 500))
    words = ["power.py", *map(str, runs), "--output", str(tmp_path / "POWER.md")]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    out = capsys.readouterr().out
    assert (tmp_path / "POWER.md").read_text() == out
    assert "A (2 seeds of 2 epochs, ndcg@10 0.5150) and B" in out and "| 5 | 500 |" in out and "| 10 |" not in out
    rows = {
        line.split("|")[1].strip(): line.split("|") for line in out.split("claimed")[1].splitlines() if "| " in line
    }
    claimed = float(rows["sasrec"][3])  # the last row of a system is of hr@10
    assert claimed == pytest.approx(0.8334 - 0.8270)
    smallest = [[float(cell) for cell in line.split("|")[3:7]] for line in out.splitlines() if line.startswith("| 1 |")]
    assert smallest[0] == sorted(smallest[0], reverse=True) and smallest[0][0] > smallest[1][0]

    monkeypatch.setattr(sys, "argv", words[:3])
    with pytest.raises(SystemExit, match="give runs of two systems; these are of 1: A"):
        script.main()
