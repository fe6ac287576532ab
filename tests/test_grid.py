"""Grids: a failing job ends no other, one table at the end, and the same command goes on with what is left."""

import importlib.util
import io
import json
import os
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_helpers import call, contents, refused, write_ratings

from sairlib import build, grid, train
from sairlib.run import progress
from sairlib.run.jobs import Job, duration, read_jobs, report
from sairlib.training.trainer import Trainer

TINY = [
    *("-m", "device=cpu", "model=sasrec", "model.d=8", "max_len=8", "training.epochs=2", "training.batch_size=16"),
    *("evaluation.n_candidates=5", "hydra.sweep.dir=sweep"),
]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory; in it, a tiny data set replaces ml-latest-small."""
    monkeypatch.setenv("SAIRLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SAIRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # put back after the test: the command sets it
    walks = [(user, (3 * user + step) % 25) for user in range(20) for step in range(9)]
    write_ratings(tmp_path / "data" / "ml-latest-small" / "ratings.csv", walks)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a grid in this process: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = call(train.main, monkeypatch, *TINY, *words)
        return code, *capfd.readouterr()

    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_failing_job_ends_no_other_and_one_table_tells_of_all(home: Path, command: Command) -> None:
    code, out, err = command("seed=1,2", "training.lr=0.01,0")
    assert (code, err) == (1, "error: 2 of 4 jobs failed\n")
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == [
        "[1/4] job 0: seed=1 training.lr=0.01",
        "[2/4] job 1: seed=1 training.lr=0",
        "[3/4] job 2: seed=2 training.lr=0.01",
        "[4/4] job 3: seed=2 training.lr=0",
    ]
    assert "failed: training.lr=0.0: must be greater than 0" in lines[1] and "left" in lines[0]
    assert lines[4] == "" and (home / "sweep" / "grid.md").read_text() in out.replace("; this table", "\n; this table")
    assert {path.parent.name for path in home.glob("sweep/*/test.json")} == {"0", "2"}
    assert (home / "sweep" / "1" / "output.txt").read_text().count("\n") == 1  # what a failing job prints is one line
    assert "epoch   2" in (home / "sweep" / "0" / "output.txt").read_text()

    table = read(home / "sweep" / "grid.json")
    assert [job["status"] for job in table["jobs"]] == ["finished", "failed"] * 2
    test = [read(home / "sweep" / name / "test.json")["full"]["ndcg@10"] for name in ("0", "2")]
    [good, bad] = table["over_seeds"]
    assert (good["settings"], good["finished"], bad["finished"]) == ({"training.lr": "0.01"}, 2, 0)
    assert good["mean"]["test full/ndcg@10"] == statistics.fmean(test)
    assert good["sd"]["test full/ndcg@10"] == statistics.stdev(test) > 0
    assert f"{statistics.fmean(test):.4f} ± {statistics.stdev(test):.4f}" in out


def test_a_table_is_a_file_of_what_is_swept_and_the_command_line_replaces_its_parts(
    home: Path, command: Command
) -> None:
    (home / "conf" / "table").mkdir(parents=True)
    (home / "conf" / "table" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  sweep: {subdir: 'b${model.n_blocks}-s${seed}'}\n"
        "  sweeper: {params: {seed: '1,2,3', model.n_blocks: '0,1'}}\n"
    )
    words = ("hydra.searchpath=[file://conf]", "table=mine")
    code, out, _ = command(*words, "seed=1")
    assert code == 0 and "[2/2] job 1: model.n_blocks=1" in out
    assert {path.parent.name for path in home.glob("sweep/*/test.json")} == {"b0-s1", "b1-s1"}
    ended = (home / "sweep" / "b1-s1" / "test.json").stat().st_mtime_ns
    code, out, _ = command(*words)
    assert code == 0 and "6 jobs: 6 finished" in out
    assert (home / "sweep" / "b1-s1" / "test.json").stat().st_mtime_ns == ended, "it is not run again"


def test_a_bug_in_a_job_keeps_its_traceback_and_ends_no_other(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = build.study

    def with_a_bug(config: Any, *arguments: Any) -> Any:
        return 1 / 0 if config.seed == 1 else study(config, *arguments)

    monkeypatch.setattr(build, "study", with_a_bug)
    code, out, err = command("seed=1,2")
    assert (code, err) == (1, "error: 1 of 2 jobs failed\n")
    assert "ZeroDivisionError: division by zero" in out and "Traceback" not in out
    assert "Traceback" in (home / "sweep" / "0" / "output.txt").read_text()
    assert read(home / "sweep" / "1" / "job.json")["status"] == "finished"


def test_an_interrupted_grid_goes_on_with_what_is_left(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = Trainer.train_epoch

    def interrupted(trainer: Trainer, log: Any) -> Any:
        if trainer.progress.epoch == 1 and Path("sweep/0/test.json").exists():
            raise KeyboardInterrupt
        return epoch(trainer, log)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", interrupted)
        code, out, err = command("seed=1,2,3")
    assert code == 130 and "the same command with hydra.sweep.dir=sweep goes on" in err
    assert err.endswith("interrupted\n") and err.count("\n") == 2
    assert "2 jobs: 1 finished, 0 failed, 1 not ended, 1 not started" in out
    before = contents(home / "sweep" / "0")
    code, out, err = command("seed=1,2,3")
    assert (code, err) == (0, "")
    assert "[1/3] job 0: seed=1" in out and out.count("already finished") == 1
    assert "3 jobs: 3 finished, 0 failed" in out
    assert {**contents(home / "sweep" / "0"), "job.json": before["job.json"]} == before
    written = (home / "sweep" / "1" / "output.txt").read_text()
    assert written.count("epoch   1") == written.count("epoch   2") == 1  # it was resumed, not started again
    straight = read(home / "sweep" / "1" / "test.json")
    assert command("seed=2,3", "hydra.sweep.dir=straight")[0] == 0
    assert read(home / "straight" / "0" / "test.json") == straight


def test_a_directory_of_another_grid_is_refused(home: Path, command: Command) -> None:
    assert command("seed=1,2")[0] == 0
    before = {name: text for name, text in contents(home / "sweep").items() if "multirun" not in name}
    assert refused(command("seed=1,2", "training.lr=0.5"), "other settings", "training.lr=0.001 there, 0.5 here")
    after = contents(home / "sweep")
    assert {name: after[name] for name in before} == before


def test_a_grid_that_cannot_begin_says_so_in_one_line(home: Path, command: Command) -> None:
    (home / "file").write_text("")
    assert refused(command("seed=1,2", "hydra.sweep.dir=file"), "hydra.sweep.dir=file")
    assert refused(command("seed=1,2", "nonsense=1"), "nonsense")
    assert refused(command("seed=1,x", "model=sasrec,nosuch"), "nosuch")
    if importlib.util.find_spec("hydra_plugins") is None:
        assert refused(command("grid=joblib", "seed=1,2"), "pip install 'sairlib[joblib]'")
    assert not list(home.glob("*/*/job.json"))


def test_a_job_below_the_median_stops_early(home: Path, command: Command) -> None:
    median = "hydra.callbacks.grid.median={jobs: 2, epochs: 2}"
    code, out, err = command(median, "training.epochs=4", "training.lr=0.01,0.02,1e-9,0.03")
    assert (code, err) == (0, "")
    jobs = read(home / "sweep" / "grid.json")["jobs"]
    assert [bool(job["reason"]) for job in jobs[:3]] == [False, False, True]
    assert "stopped early at epoch 2: " in out and "the median of 2 jobs" in out
    text = (home / "sweep" / "2" / "output.txt").read_text()
    assert "epoch   2" in text and "epoch   3" not in text and "epoch   4" in (home / "sweep/0/output.txt").read_text()
    assert refused(command("seed=1,2", "hydra.callbacks.grid.median={jobs: 0}", "hydra.sweep.dir=b"), "jobs=0")


def record(sweep: Path, number: int, **values: Any) -> Job:
    """A finished job by hand, with figures."""
    words = [f"seed={number % 2}", f"model.d={8 * (1 + number // 2)}", "max_len=8"]
    job = Job(number, words, **{"status": "finished", "monitor": "full/ndcg@10", "value": 0.5, **values})
    directory = sweep / str(number)
    directory.mkdir(parents=True, exist_ok=True)
    figures = {"full": {"ndcg@10": number / 8, "hr@10": 0.25, "mrr": 0.0}, "ci95": {"full": {}}}
    (directory / "test.json").write_text(json.dumps(figures))
    job.write(directory)
    return job


def test_the_table_is_made_from_what_lies_in_the_directories(tmp_path: Path) -> None:
    for number in range(4):
        record(tmp_path, number)
    record(tmp_path, 4, status="failed", reason="no | luck", value=None)
    record(tmp_path, 5, status="running", value=None)
    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "job.json").write_text('{"number": 6')
    made = report(tmp_path, 8)
    assert "6 jobs: 4 finished, 1 failed, 1 not ended, 2 not started" in made.text
    assert [set(row["settings"]) for row in made.values["over_seeds"]] == [{"model.d"}] * 3
    assert [row["mean"].get("test full/ndcg@10") for row in made.values["over_seeds"]] == [1 / 16, 5 / 16, None]
    heads, _, first, *rows = made.text.splitlines()
    names = ["job", "seed", "model.d", "validation full/ndcg@10", "test full/ndcg@10", "test full/hr@10"]
    assert [cell.strip() for cell in heads.split("|")[1:-1]] == [*names, "time", "status"]
    assert [cell.strip() for cell in first.split("|")[1:-3]] == ["0", "0", "8", "0.5000", "0.0000", "0.2500"]
    assert f"- job 4: no | luck ({tmp_path / '4' / 'output.txt'})" in rows


def test_a_line_for_each_job_that_ends_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.01)
    record(tmp_path, 0)
    stream = io.StringIO()
    watching = progress.Progress(tmp_path, 4, ["seed"], stream)
    watching.start()
    old = record(tmp_path, 0)
    record(tmp_path, 1, status="running")
    record(tmp_path, 2, seconds=61.0, ended=2.0)
    while not stream.getvalue():
        pass
    replace(old, again=True, ended=3.0).write(tmp_path / "0")
    record(tmp_path, 1, status="failed", reason="no luck", ended=4.0)
    watching.stop()
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("[1/4] job 2: seed=0  full/ndcg@10 0.5000  1 min 1 s  about ")
    assert lines[1] == "[2/4] job 0: seed=0  full/ndcg@10 0.5000  already finished"
    assert lines[2].startswith("[3/4] job 1: seed=1  failed: no luck") and len(lines) == 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (12.3, "12 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("launcher", "n_jobs", "threads"),
    [
        ({"_target_": "x.BasicLauncher"}, 9, None),
        ({"_target_": "x.JoblibLauncher", "n_jobs": 4}, 20, 4),
        ({"_target_": "x.JoblibLauncher", "n_jobs": 4}, 2, 8),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, 20, 1),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, 4, 4),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -2}, None, 1),
        ({"_target_": "x.JoblibLauncher", "n_jobs": 40}, None, 1),
        ({"_target_": "x.LocalLauncher", "cpus_per_task": None}, 5, 3),
        ({"_target_": "x.LocalLauncher", "cpus_per_task": 2}, 5, 2),
        ({"_target_": "x.SlurmLauncher", "cpus_per_task": 6}, 5, 6),
        ({"_target_": "x.SlurmLauncher", "cpus_per_task": None}, 5, None),
    ],
)
def test_jobs_that_run_at_once_share_the_cores(launcher: dict[str, Any], n_jobs: int | None, threads: int) -> None:
    assert grid.threads_of_a_job(launcher, n_jobs, n_cpus=16) == threads


def python(*words: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    command = [sys.executable, "-m", "sairlib.train", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250)


def installed(package: str) -> bool:
    return importlib.util.find_spec("hydra_plugins") is not None and (
        importlib.util.find_spec(f"hydra_plugins.{package}") is not None
    )


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("hydra_joblib_launcher", ["grid=joblib", "hydra.launcher.n_jobs=2"]),
        ("hydra_submitit_launcher", ["grid=submitit-local"]),
        ("hydra_ray_launcher", ["grid=ray", "+hydra.launcher.ray.init.num_cpus=2"]),
    ],
)
def test_a_failing_job_in_another_process_ends_no_other(home: Path, package: str, words: list[str]) -> None:
    if not installed(package):
        pytest.skip(f"{package} is not installed")
    done = python(*TINY, *words, "seed=1,2", "training.lr=0.01,0")
    assert done.returncode == 1 and done.stderr.endswith("error: 2 of 4 jobs failed\n"), done.stderr
    lines = done.stdout.splitlines()
    assert all(f"[{i}/4]" in lines[i - 1] for i in range(1, 5)) and "over seeds" in done.stdout.lower()
    jobs = read_jobs(home / "sweep")
    assert [job.status for job in jobs.values()] == ["finished", "failed"] * 2
    share = 1 if "ray" in package else max(1, len(os.sched_getaffinity(0)) // (4 if "submitit" in package else 2))
    record = read(home / "sweep" / "0" / "run.json")
    assert record["machine"]["threads"] == share
    assert record["command"].endswith("seed=1 training.lr=0.01")


def test_a_search_with_optuna_goes_on_in_its_study(home: Path) -> None:
    if not installed("hydra_optuna_sweeper"):
        pytest.skip("hydra_optuna_sweeper is not installed")
    words = [word for word in TINY if not word.startswith("hydra.sweep.dir")]
    search = ["grid=optuna", "training.lr=choice(0.01,0)", "hydra.sweeper.n_trials=4"]
    for seed in (3, 1):  # of the first four trials all fail
        done = python(*words, *search, f"hydra.sweeper.sampler.seed={seed}")
        assert done.returncode == 1 and "jobs failed" in done.stderr and "Traceback" not in done.stderr, done.stderr
    with closing(sqlite3.connect("optuna.db")) as study:
        states = [state for (state,) in study.execute("SELECT state FROM trials")]
        figures = {value for (value,) in study.execute("SELECT value FROM trial_values")}
    assert len(states) == 8 and {*states} == {"COMPLETE", "FAIL"}
    assert figures | {None} == {job["value"] for path in home.rglob("grid.json") for job in read(path)["jobs"]}
