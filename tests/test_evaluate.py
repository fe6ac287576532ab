"""Evaluating a finished run, with the same or other settings; the run's own files do not change."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_helpers import call, contents, refused, write_ratings

from sairlib import evaluate, train

SMALL = ["device=cpu", "model.d=8", "max_len=8", "training.epochs=1", "evaluation.n_candidates=5"]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny data set and a run on it."""
    home = tmp_path_factory.mktemp("trained")
    actions = [(user, (3 * user + step) % 40) for user in range(30) for step in range(4 + user % 5)]
    write_ratings(home / "data" / "ml-latest-small" / "ratings.csv", actions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setenv("SAIRLIB_DATA", str(home / "data"))
        patch.setenv("SAIRLIB_CACHE", str(home / "cache"))
        patch.chdir(home)
        assert call(train.main, patch, *SMALL, "run_dir=run") == 0
    return home


@pytest.fixture
def command(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Runs ``evaluate`` beside a copy of the run."""
    shutil.copytree(trained / "data", tmp_path / "data")
    shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = call(evaluate.main, monkeypatch, "device=cpu", "data.root=data", "data.cache=cache", *overrides)
        return code, *capfd.readouterr()

    return run


def result(path: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(Path(path).read_text())
    return figures


def test_the_same_settings_give_the_same_file_and_others_do_not(command: Command) -> None:
    before = contents(Path("run"))
    code, out, err = command("run", "output=same.json")  # the directory needs no key
    assert (code, err) == (0, "")
    assert Path("same.json").read_bytes() == before["test.json"]
    assert f"{result('same.json')['sampled']['ndcg@10']:.4f}" in out

    assert command("run=run", "output=more.json", "evaluation.n_candidates=20", "evaluation.ks=[3]")[0] == 0
    same, more = result("same.json"), result("more.json")
    assert more["candidates_sha256"] != same["candidates_sha256"] and more["split_sha256"] == same["split_sha256"]
    assert more["sampled"].keys() == {"hr@3", "ndcg@3", "mrr"}
    assert more["sampled"]["mrr"] < same["sampled"]["mrr"]  # four times as many to beat
    assert more["full"]["mrr"] == same["full"]["mrr"]

    assert command("run=run", "output=seed.json", "evaluation.candidates_seed=1", "evaluation.full=false")[0] == 0
    assert result("seed.json")["candidates_sha256"] != same["candidates_sha256"]
    assert "full" not in result("seed.json")
    assert contents(Path("run")) == before


def test_a_batch_size_changes_nothing(command: Command) -> None:
    assert command("run=run", "output=one.json", "evaluation.batch_size=1")[0] == 0
    one, same = result("one.json"), result("run/test.json")
    for ranking in ("sampled", "full"):
        assert one[ranking] == pytest.approx(same[ranking], abs=1e-6)


def test_metrics_of_lists_are_reported_if_asked(command: Command) -> None:
    code, out, _ = command("run=run", "output=lists.json", "evaluation.lists=4")
    lists = result("lists.json").pop("lists")
    assert code == 0 and list(lists) == ["k", "coverage", "gini", "novelty", "popular_share"]  # there are no categories
    assert lists["k"] == 4 and 0 < lists["coverage"] <= 1
    assert f"lists of 4\ncoverage       {lists['coverage']:.4f}" in out
    assert {name: value for name, value in result("lists.json").items() if name != "lists"} == result("run/test.json")
    assert refused(command("run=run", "evaluation.lists=-1"), "evaluation.lists=-1")


def test_mistakes_get_one_line_and_leave_nothing(command: Command) -> None:
    before = contents(Path())
    assert refused(command(), "which run?", "sairlib.evaluate DIR")
    assert refused(command("run=[a]"), "run")
    assert refused(command("run=run", "trust=3"), "trust")
    assert refused(command("run=run", "-m", "--cfg", "job"), "--cfg")
    assert refused(command("run=nowhere"), "nowhere holds no run")
    assert refused(command("run=run", "evaluation.n_candidates=-1"), "evaluation.n_candidates=-1")
    assert refused(command("run=run", "evaluation.n_candidates=few"), "evaluation.n_candidates", "few")
    assert refused(command("run=run", "evaluation.nonsense=1"), "nonsense")
    assert refused(command("run=run", "device=abacus"), "device=abacus")
    assert refused(command("run=run", "output=gone/test.json"), "could not write gone/test.json")
    after = contents(Path())
    assert {name: after[name] for name in after if not name.startswith("cache")} == before


def test_files_that_no_longer_fit_the_weights_are_refused(command: Command) -> None:
    best = Path("run/best.pt").read_bytes()
    Path("run/best.pt").write_bytes(best[:-100])
    assert refused(command("run=run"), "best.pt", "not a complete checkpoint")
    Path("run/best.pt").unlink()
    assert refused(command("run=run"), "no checkpoint at", "best.pt")
    Path("run/best.pt").write_bytes(best)
    config = Path("run/config.yaml").read_text()
    Path("run/config.yaml").write_text(config.replace("  d: 8\n", "  d: 16\n"))
    assert refused(command("run=run"), "best.pt", "other settings")
    for broken in ("", "a: [1\n", "just a line\n", config[: len(config) // 2], "\x00\x01"):
        Path("run/config.yaml").write_text(broken)
        assert refused(command("run=run"))
    Path("run/config.yaml").write_text(config)
    with Path("data/ml-latest-small/ratings.csv").open("a") as file:
        file.write("3,11,4.0,999\n")
    assert refused(command("run=run"), "best.pt", "another data and split")
