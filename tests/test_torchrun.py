"""The train command on two processes: the same result as on one, one directory, one voice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_helpers import RUN_FILES, actions_with_new_last_items, contents, write_data

TINY = (
    *("model=sasrec", "model.dropout=0", "model.d=8", "max_len=8", "device=cpu", "training.epochs=2"),
    *("training.batch_size=16", "evaluation.n_candidates=5"),
)
TORCHRUN = (*("torch.distributed.run", "--nproc-per-node=2", "--master-port=0"), *("--rdzv-backend=c10d", "-m"))


def python(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    own = {"SAIRLIB_DATA": str(home / "data"), "SAIRLIB_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own}, cwd=home, timeout=250)


@pytest.mark.skipif(sys.platform == "win32", reason="no gloo by default")
def test_two_processes_train_like_one_and_one_of_them_speaks(tmp_path: Path) -> None:
    write_data(tmp_path, actions_with_new_last_items())
    one = python(tmp_path, "sairlib.train", *TINY, "run_dir=one")
    assert (one.returncode, one.stderr) == (0, "")
    two = python(tmp_path, *TORCHRUN, "sairlib.train", *TINY)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("epoch   1") == 1 and two.stdout.count("hr@10") == 1
    (run,) = (tmp_path / "outputs").glob("*/*")
    names = {name for name in contents(run) if "tfevents" not in name}
    assert names == RUN_FILES
    assert json.loads((run / "test.json").read_text()) == json.loads((tmp_path / "one" / "test.json").read_text())
    assert json.loads((run / "run.json").read_text())["machine"]["processes"] == 2

    longer = python(tmp_path, "sairlib.resume", str(run), "training.epochs=3")
    assert longer.returncode == 0 and "epoch   3" in longer.stdout and "epoch   2" not in longer.stdout
    again = python(tmp_path, *TORCHRUN, "sairlib.train", *TINY, f"run_dir={run}")
    assert again.returncode != 0 and again.stderr.count("error: run_dir=") == 1
