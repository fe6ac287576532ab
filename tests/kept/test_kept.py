"""Runs that earlier versions wrote are loaded, ranked and resumed by the code of today."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from keep import keep

import sairlib
from sairlib.resume import resume

KEPT = sorted(path.parents[1] for path in Path(__file__).parent.glob("*/run/config.yaml"))


def check(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Load, rank and resume the run in ``folder``."""
    patch.chdir(folder)
    patch.delenv("SAIRLIB_DATA", raising=False)
    patch.delenv("SAIRLIB_CACHE", raising=False)
    written = json.loads(Path("run/test.json").read_text())
    [cache] = Path("cache").iterdir()
    run = sairlib.load("run", device="cpu")
    test = run.test()
    for name in ("best_epoch", "split_sha256", "candidates_sha256", "n_users"):
        assert test[name] == written[name], name
    _, stored = sairlib.read_ranks(Path("run/ranks.npz"))
    for ranking, ranks in run.rank().items():
        assert test[ranking] == pytest.approx(written[ranking], abs=1e-9)
        np.testing.assert_array_equal(ranks.better_E, stored[ranking].better_E)
        np.testing.assert_array_equal(ranks.tied_E, stored[ranking].tied_E)
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    last = records[-1]["epoch"]
    result = resume(Path("run"), [f"training.epochs={last + 1}"])
    longer = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert longer[: len(records)] == records and {line["epoch"] for line in longer[len(records) :]} == {last + 1}
    assert result.ranks.keys() == stored.keys()
    assert cache.is_file(), "the cache of an earlier version was removed"


@pytest.mark.parametrize("folder", KEPT, ids=[path.name for path in KEPT])
def test_a_kept_run_is_loaded_ranked_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    check(Path(shutil.copytree(folder, tmp_path / folder.name)), monkeypatch)


def test_what_would_be_kept_today_passes_and_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "today")
    files = [path for path in (tmp_path / "today").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 80_000
    names = (str(tmp_path).encode(), socket.gethostname().encode() + b"\n")
    assert not [path for path in files if any(name in path.read_bytes() for name in names)]
    check(tmp_path / "today", monkeypatch)
