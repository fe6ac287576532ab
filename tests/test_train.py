"""The train command: a whole run from an empty directory, and one clear line for every mistake."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from command_helpers import call, contents, refused, write_ratings
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from sairlib import resume, train
from sairlib.data.sequences import Rows
from sairlib.run import checkpoint
from sairlib.run.directory import DOCUMENTS, EARLY, LOCK, RunDirectory
from sairlib.training.step import Learner

TINY = [
    *("device=cpu", "model.d=8", "max_len=8", "training.epochs=2", "training.batch_size=16"),
    *("evaluation.n_candidates=5", "run_dir=run"),
]
Command = Callable[..., tuple[int, str, str]]


def walks(n_users: int = 20, n_items: int = 25, length: int = 9) -> list[tuple[int, int]]:
    return [(user, (3 * user + step) % n_items) for user in range(n_users) for step in range(length)]


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, trained once."""
    path = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAIRLIB_DATA", str(path / "data"))
        patch.setenv("SAIRLIB_CACHE", str(path / "cache"))
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.chdir(path)
        write_ratings(path / "data" / "ml-latest-small" / "ratings.csv", walks())
        assert call(train.main, patch, *TINY) == 0
    return path / "run"


@pytest.fixture
def run_of_two_epochs(home: Path, trained: Path) -> Path:
    """A copy of the finished run in ``run`` below the working directory."""
    shutil.copytree(trained, home / "run")
    return home / "run"


def python(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SAIRLIB_", "HYDRA_"))}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**clean, **environment}, timeout=250)


class Returned(Callback):
    """Records what a job returns to Hydra, which a sweeper would optimise."""

    values: ClassVar[list[Any]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        self.values.append(job_return.return_value)


def test_a_search_over_settings_sees_validation_and_never_test(command: Command, home: Path) -> None:
    Returned.values.clear()
    callback = f"+hydra.callbacks.returned._target_={__name__}.Returned"
    answer = command("-m", "hydra.sweep.dir=sweep", "training.lr=0.01,0.001", callback)
    assert answer[0] == 0, answer
    lines = [line for path in home.glob("sweep/*/metrics.jsonl") for line in path.read_text().splitlines()]
    measured = [json.loads(line).get("validation") for line in lines]
    best = max(figures["full/ndcg@10"] for figures in measured if figures)
    assert max(Returned.values) == best and len(Returned.values) == 2


def test_a_whole_run_from_an_empty_directory_and_its_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = str(tmp_path / "cache")
    small = ("training.epochs=1", "training.batch_size=64", "model.d=16", "device=cpu", "max_len=20", "run_dir=run")
    done = python("sairlib.train", *small, SAIRLIB_CACHE=cache)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    run = tmp_path / "run"
    files = set(contents(run))
    expected = {"config.yaml", "run.json", "metrics.jsonl", "best.pt", "last.pt", "ranks.npz", "test.json"}
    hydra = {f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")}
    events = {name for name in files if "tfevents" in name}
    assert files - events == expected | hydra and events
    assert {path.name for path in tmp_path.iterdir()} == {"run", "cache"}

    figures = json.loads((run / "test.json").read_text())
    metrics = {f"{m}@{k}" for m in ("hr", "ndcg") for k in (5, 10, 20)} | {"mrr"}
    for ranking in ("sampled", "full"):
        assert figures[ranking].keys() == metrics == figures["ci95"][ranking].keys()
        for name, value in figures[ranking].items():
            low, high = figures["ci95"][ranking][name]
            assert 0 <= low <= value <= high <= 1
    assert figures["best_epoch"] == 1 and figures["n_users"] == 610
    record = json.loads((run / "run.json").read_text())
    for name in ("split_sha256", "candidates_sha256"):
        assert len(figures[name]) == 64 and record[name] == figures[name]
    assert figures["split_sha256"] in done.stdout and "ndcg@10" in done.stdout
    assert record["seed"] == 1 and record["dataset"] == "ml-latest-small"
    assert {"git", "versions", "machine", "seconds", "command", "dataset_sha256"} <= record.keys()
    assert {*record["seconds"]} == {"preparing", "training_and_validation", "test"}
    config = OmegaConf.load(run / "config.yaml")
    assert config.training.epochs == 1 and config.model.n_interests == config.interests.n_interests
    assert "training.epochs=1" in OmegaConf.to_object(OmegaConf.load(run / ".hydra" / "overrides.yaml"))  # type: ignore[operator]

    with np.load(run / "ranks.npz") as ranks:
        rank = 1 + ranks["full_better"] + ranks["full_tied"] / 2
        assert len(ranks["user"]) == len(set(ranks["user"].tolist())) == 610
        assert (1 / rank).mean() == pytest.approx(figures["full"]["mrr"], rel=1e-3)

    before = contents(run)
    again = python("sairlib.evaluate", "run=run", "output=again.json", "device=cpu", SAIRLIB_CACHE=cache)
    assert (again.returncode, again.stderr) == (0, "")
    assert (tmp_path / "again.json").read_text() == (run / "test.json").read_text()
    assert contents(run) == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "cache", "again.json"}


def test_a_mistake_on_the_real_command_line_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = python("sairlib.train", "training.lr=0")
    assert refused((done.returncode, done.stdout, done.stderr), "training.lr=0")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_never_overwritten_but_can_be_resumed(home: Path, command: Command) -> None:
    assert command()[0] == 0
    before = contents(home / "run")
    assert refused(command("training.epochs=3"), "run_dir=", "already holds a run", "python -m sairlib.resume run=")
    assert contents(home / "run") == before

    code, out, err = command("training.epochs=4", "resume=true")
    assert (code, err) == (0, "")
    assert "epoch   3" in out and "epoch   1" not in out and "epoch   2" not in out
    resumed = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    assert command("training.epochs=4", "run_dir=straight")[0] == 0
    straight = [json.loads(line) for line in (home / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert [{**line, "seconds": 0} for line in resumed] == [{**line, "seconds": 0} for line in straight]
    assert (home / "run" / "test.json").read_text() == (home / "straight" / "test.json").read_text()


def test_a_resumed_run_keeps_its_settings_but_for_those_that_may_change(home: Path, command: Command) -> None:
    given = ("experiment=quickstart", "model=sasrec", "training.lr=0.02", "data.root=${oc.env:SAIRLIB_DATA}")
    assert command(*given)[0] == 0
    began = OmegaConf.load(home / "run" / "config.yaml")
    before = contents(home / "run")
    lr = ("resume=true", "run_dir=run", "training.epochs=3", "training.lr=0.03")
    assert refused(command(*lr, tiny=[]), "other settings: training.lr 0.02 -> 0.03;")
    assert contents(home / "run") == before
    freely = ("training.lr=2e-2", "training.patience=7", "training.eval_every=2", "evaluation.batch_size=3")
    code, out, err = command("resume=true", "run_dir=run", "training.epochs=3", *freely, tiny=[])
    assert (code, err) == (0, "") and "epoch   3" in out
    config = OmegaConf.load(home / "run" / "config.yaml")
    began.training.epochs, began.training.patience, began.training.eval_every = 3, 7, 2
    began.evaluation.batch_size = 3
    assert config == began
    assert command("resume=true", "run_dir=run", "training.epochs=4", tiny=[])[0] == 0
    assert OmegaConf.load(home / "run" / "config.yaml").training.patience == 7
    (home / "run" / ".hydra" / "overrides.yaml").write_text("{")
    assert refused(command("resume=true", "run_dir=run", tiny=[]), "overrides.yaml is not a run's configuration")


@pytest.mark.parametrize(
    "change",
    [
        *("seed=2", "loss=bpr", "model.dropout=0.4", "training.batch_size=8", "training.optimizer=adagrad"),
        *("training.monitor=full/mrr", "evaluation.n_candidates=6", "evaluation.ks=[10]", "negatives=shared"),
        *("training.schedule=linear", "max_len=9", "split.min_actions=4", "model=sasrec", "training.compile=true"),
    ],
)
def test_another_setting_is_refused_with_the_difference(
    home: Path, command: Command, run_of_two_epochs: Path, change: str
) -> None:
    before = contents(run_of_two_epochs)
    name = change.partition("=")[0]
    line = command("resume=true", "training.epochs=3", change)
    assert refused(line, f"other settings: {name}", " -> ", "training.epochs, training.patience")
    assert contents(home / "run") == before


def test_resuming_what_is_not_this_run_is_refused(home: Path, command: Command) -> None:
    assert refused(command("resume=true"), "no checkpoint at")
    assert not (home / "run").exists()
    assert command()[0] == 0
    before = contents(home / "run")
    write_ratings(home.parent / "data" / "ml-latest-small" / "ratings.csv", walks(21))
    assert refused(command("resume=true"), "last.pt", "another data and split")
    (home / "run" / "last.pt").write_bytes(before["last.pt"][:1000])
    assert refused(command("resume=true"), "last.pt", "not a complete checkpoint")
    assert {**contents(home / "run"), "last.pt": before["last.pt"]} == before


def test_a_default_that_changed_since_stays_what_it_was_for_a_run(
    home: Path, command: Command, run_of_two_epochs: Path
) -> None:
    path = run_of_two_epochs / "config.yaml"
    old = OmegaConf.load(path)
    old.training.lr, old.training.patience = 0.5, 1  # as if these had been the defaults when it began
    del old.training.length_window  # and sairlib had not known this yet
    path.write_text(OmegaConf.to_yaml(old))
    code, out, err = command("resume=true", "training.epochs=3", "training.patience=9")
    assert (code, err) == (0, ""), err
    assert "keeps what was the default when it began: training.lr=0.5 (now 0.001)" in out and "patience=" not in out
    new = OmegaConf.load(path)
    assert (new.training.lr, new.training.patience, new.training.length_window) == (0.5, 9, 32)
    new.training.momentum = 0.1
    path.write_text(OmegaConf.to_yaml(new))
    assert refused(command("resume=true"), "another version of sairlib", "training.momentum 0.1 -> (not set)")


def test_a_schedule_that_ends_elsewhere_is_told(home: Path, command: Command) -> None:
    assert command("training.schedule=cosine")[0] == 0
    code, out, _ = command("resume=true", "training.schedule=cosine", "training.epochs=3")
    assert code == 0 and "training.schedule=cosine ends at the last epoch: with training.epochs=3, not 2" in out


def test_a_finished_run_repeats_nothing(home: Path, command: Command, run_of_two_epochs: Path) -> None:
    before = contents(run_of_two_epochs)
    for words in (["resume=true"], ["resume=auto"], ["resume=true", "training.epochs=1"]):
        code, out, err = command(*words)
        assert (code, err) == (0, "") and "run is finished, at epoch 2" in out and "ndcg@10" in out
        assert contents(run_of_two_epochs) == before
    for name in ("test.json", "ranks.npz"):  # stopped after the last epoch: it is tested, and not trained
        (run_of_two_epochs / name).unlink()
        code, out, err = command("resume=true")
        assert (code, err) == (0, "") and "epoch   " not in out
        assert {name: contents(run_of_two_epochs)[name] for name in ("test.json", "last.pt", "metrics.jsonl")} == {
            name: before[name] for name in ("test.json", "last.pt", "metrics.jsonl")
        }


def test_figures_of_an_earlier_end_are_not_taken_for_those_of_the_run(
    home: Path, command: Command, run_of_two_epochs: Path
) -> None:
    old = (run_of_two_epochs / "test.json").read_text()
    figures = json.loads(old)
    (run_of_two_epochs / "test.json").write_text(json.dumps({**figures, "best_epoch": figures["best_epoch"] - 1}))
    code, out, _ = command("resume=true")
    assert code == 0 and "finished" not in out and (run_of_two_epochs / "test.json").read_text() == old


def test_a_run_whose_patience_has_ended_is_not_trained_on(home: Path, command: Command) -> None:
    words = ("training.epochs=30", "training.patience=1", "training.lr=1e-9")
    code, out, _ = command(*words)
    assert code == 0 and "epoch   2" in out
    before = contents(home / "run")
    last = json.loads(before["metrics.jsonl"].splitlines()[-1])["epoch"]
    assert last < 30
    code, out, _ = command(*words, "resume=true")
    assert code == 0 and f"finished, at epoch {last}" in out and contents(home / "run") == before
    assert f"epoch {last + 1:>3}" in command(*words, "training.patience=2", "resume=true")[1]


def test_resume_auto_starts_a_run_and_goes_on_with_it(home: Path, command: Command) -> None:
    code, out, err = command("resume=auto")
    assert (code, err) == (0, "") and "epoch   1" in out
    code, out, err = command("resume=auto", "training.epochs=3")
    assert (code, err) == (0, "") and "epoch   3" in out and "epoch   2" not in out
    grid = ("-m", "resume=auto", "seed=1,2", "training.epochs=1")
    assert command(*grid, "hydra.sweep.dir=grid")[1].count("already finished") == 0
    assert command(*grid, "hydra.sweep.dir=grid")[1].count("already finished") == 2
    assert refused(command(*grid), "resume=auto needs hydra.sweep.dir=DIR")
    without = [word for word in TINY if not word.startswith("run_dir=")]
    assert refused(command("resume=auto", tiny=without), "resume=auto needs run_dir=DIR")
    assert refused(command("resume=true", tiny=without), "resume=true needs run_dir=DIR")
    assert refused(command("resume=auto", "seed=2"), "other settings: seed 1 -> 2")


def test_three_runs_started_at_the_same_moment_have_a_directory_each(home: Path) -> None:
    small = [word for word in TINY if not word.startswith("run_dir=")]
    command = [sys.executable, "-m", "sairlib.train", *small, "training.epochs=1", "model=poprec"]
    start = [[*(word for word in command if not word.startswith("model.")), f"seed={seed}"] for seed in (1, 2, 3)]
    runs = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for words in start]
    assert [(run.communicate(timeout=200)[1], run.returncode) for run in runs] == [("", 0)] * 3
    configs = sorted(home.glob("outputs/*/*/config.yaml"))
    assert sorted(OmegaConf.load(path).seed for path in configs) == [1, 2, 3]
    assert all((path.parent / "test.json").is_file() and not (path.parent / ".lock").exists() for path in configs)


def test_two_runs_in_one_directory_are_refused_while_the_first_lives(home: Path, command: Command) -> None:
    with RunDirectory(home / "run"):
        assert refused(command(), "run_dir=run is in use by process", str(os.getpid()))
        assert refused(command("resume=auto"), "in use")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("documents", [1, 2, 3, 4, 5])
def test_a_run_that_was_killed_early_can_be_resumed_and_replaced(
    home: Path, command: Command, run_of_two_epochs: Path, documents: int
) -> None:
    """Killed after it has written so many of its documents, and then everything before its first checkpoint."""
    whole = contents(run_of_two_epochs)
    early = {**dict.fromkeys((*DOCUMENTS[:documents],), b""), **dict.fromkeys(EARLY if documents > 4 else (), b"")}
    for name in {*whole} - {*early}:
        (run_of_two_epochs / name).unlink()
    (run_of_two_epochs / LOCK).write_text("\n".join(["123 elsewhere", *DOCUMENTS, *EARLY]) + "\n")
    shutil.copytree(run_of_two_epochs, home / "other")
    code, out, err = command("resume=true", tiny=["run_dir=run"])
    assert (code, err) == (0, "") and "starts from the beginning" in out
    assert command("seed=2", "run_dir=other")[0] == 0
    same = ("test.json", "metrics.jsonl", ".hydra/overrides.yaml")
    figures = {name: value for name, value in contents(home / "run").items() if name in same}
    assert figures["test.json"] == whole["test.json"]
    assert figures["metrics.jsonl"].count(b"\n") == whole["metrics.jsonl"].count(b"\n")
    assert OmegaConf.load(home / "other" / "config.yaml").seed == 2
    assert not (home / "run" / LOCK).exists() and not (home / "other" / LOCK).exists()


ODD = ["a  b 'q' \"é\n$HOME", "x\\'y", "a,b=[1]{2}", "back\\", "-m", "${x}"]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_of_a_directory_works(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    word = QuotedString(name.replace("${", "\\${"), Quote.single).with_quotes()
    poprec = [word for word in TINY if not word.startswith(("model.", "run_dir="))]
    tiny = [*poprec, "model=poprec", f"run_dir={word}"]
    code, _, err = command(tiny=tiny)
    assert (code, err) == (0, "") and (home / name / "test.json").is_file()
    assert "python -m sairlib.resume" in command(tiny=tiny)[2]
    (home / name / "test.json").unlink()
    assert call(resume.main, monkeypatch, f"run={name}") == 0 and (home / name / "test.json").is_file()
    again = shlex.split(json.loads((home / name / "run.json").read_text())["command"])
    assert command(tiny=again[3:])[::2] == (0, "")  # the recorded command is right too


def test_a_name_that_cannot_be_written_gets_one_line(home: Path, command: Command) -> None:
    (home / "file").write_text("mine")
    bad = {"file": "not a directory", "file/run": "Not a directory", "n" * 300: "too long", "/proc/x/run": "No such"}
    for name, says in bad.items():
        assert refused(command(f"run_dir={name}"), says, "run_dir=" if "not" in says else "run directory")
    assert refused(command(f"run_dir='{os.fsdecode(bytes([255]))}'"), "run directory", "not UTF-8")
    assert refused(command("hydra.run.dir=x"), "give run_dir=DIR")
    assert refused(command("run_dir="), "run_dir= is empty")
    assert [path.name for path in home.iterdir()] == ["file"]


@pytest.mark.parametrize("becomes", ["nothing", "a file", "another run's"])
def test_a_directory_that_vanishes_in_mid_run_gets_one_line(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    step = Learner.step

    def vanish(self: Learner, rows: Rows) -> Any:
        if self.n_steps == 3:
            shutil.rmtree("run")
            if becomes == "a file":
                Path("run").write_text("mine")
            elif becomes == "another run's":
                other.append(RunDirectory(Path("run")))
        return step(self, rows)

    other: list[RunDirectory] = []
    monkeypatch.setattr(Learner, "step", vanish)
    answer = command()
    if other:  # whose directory it is now: that one's lock is left alone
        assert (home / "run" / LOCK).is_file()
        other[0].close()
    else:
        assert refused(answer, "could not write", "run")
        assert [path.read_text() for path in home.iterdir()] == ([] if becomes == "nothing" else ["mine"])


def test_a_clock_that_goes_backwards_breaks_nothing(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch, run_of_two_epochs: Path
) -> None:
    now, jumps = time.time(), iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 1000 * next(jumps))
    assert command("training.epochs=3", "resume=true")[::2] == (0, "")
    monkeypatch.undo()
    lines = (home / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 1, 2, 2, 3, 3]


def test_a_name_that_the_terminal_cannot_show_is_no_obstacle(home: Path) -> None:
    poprec = [word for word in TINY if not word.startswith(("model.", "run_dir="))]
    command = [sys.executable, "-m", "sairlib.train", *poprec, "model=poprec", "run_dir='été ☃'"]
    plain = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env={**os.environ, **plain}, timeout=250)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (home / "été ☃" / "test.json").is_file() and rb"kept in \xe9t\xe9 \u2603" in done.stdout


def test_multirun_makes_a_directory_for_each_job(home: Path, command: Command) -> None:
    code, _, err = command("-m", "seed=1,2", "training.epochs=1")
    assert (code, err) == (0, "")
    results = sorted((home / "multirun").rglob("test.json"))
    assert len(results) == 2 and results[0].read_text() != results[1].read_text()
    assert {OmegaConf.load(path.parent / "config.yaml").seed for path in results} == {1, 2}
    assert not (home / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.learning_rate=1"], ["learning_rate"]),
        (["nonsense=1"], ["nonsense"]),
        (["+training.momentum=1"], ["training.momentum"]),
        (["model=nosuch"], ["nosuch"]),
        (["dataset=nosuch"], ["nosuch"]),
        (["model._target_=sairlib.models.nosuch.Model"], ["sairlib.models.nosuch.Model"]),
        (["model.no_such_option=1"], ["no_such_option"]),
        (["+model.no_such_option=1"], ["no_such_option"]),
        (["training.epochs=many"], ["training.epochs", "many"]),
        (["training.lr=fast"], ["training.lr", "fast"]),
        (["training.compile=perhaps"], ["training.compile", "perhaps"]),
        (["training.betas=[0.9]"], ["training.betas"]),
        (["evaluation.ks=10"], ["evaluation.ks"]),
        (["evaluation.ks=[ten]"], ["evaluation", "ten"]),
        (["dataset.filters.user_core=-1"], ["user_core=-1"]),
        (["dataset.filters.min_rating=6"], ["nothing is left"]),
        (["training.lr=0"], ["training.lr=0"]),
        (["training.lr=-1"], ["training.lr=-1"]),
        (["training.lr=null"], ["training.lr"]),
        (["training.precision=fp8"], ["fp32", "bf16"]),
        (["training.monitor=full/auc"], ["not measured"]),
        (["seed=-1"], ["seed=-1"]),
        (["seed=x"], ["seed", "x"]),
        (["seed=null"], ["seed"]),
        (["seed=99999999999999999999"], ["seed"]),
        (["device=abacus"], ["device=abacus"]),
        (["device=null"], ["device"]),
        (["max_len=0"], ["max_len=0"]),
        (["max_len=long"], ["max_len", "long"]),
        (["resume=perhaps"], ["resume", "perhaps"]),
        (["model=sasrec", "+interests=ml-20m"], ["interests", "only SAIR's models"]),
        (["interests.top_k=11"], ["11"]),
        (["interests.top_k=0"], ["0"]),
        (["interests.n_interests=0"], ["0"]),
        (["model.encoder.n_heads=3"], ["3", "8"]),
        (["model.encoder._target_=sairlib.models.sair.nosuch"], ["nosuch"]),
        (["negatives.n=0"], ["negatives", "n=0"]),
        (["negatives.n=many"], ["negatives.n", "many"]),
        (["negatives=none"], ["loss=bce needs negatives"]),
        (["loss=softmax", "negatives=uniform"], ["negatives=none"]),
        (["negatives.power=1"], ["power"]),
        (["model.positions=middle"], ["middle"]),
        (["split.min_actions=2"], ["min_actions=2"]),
        (["model.d=-8"], ["-8"]),
        (["model.dropout=1.5"], ["1.5"]),
        (["model.d=eight"], ["eight"]),
        (["model.encoder.n_blocks=1.5"], ["1.5"]),
        (["model.variant=best"], ["best"]),
        (["model=sair-label"], ["categories"]),
        (["training.epochs="], ["training.epochs"]),
        (["training.lr"], ["training.lr"]),
        (["training.lr=[1"], ["'[1'"]),
        (["data.root=/dev/null/data", "dataset=amazon-games"], ["Video.txt", "amazon-games"]),
        (["dataset.reader.file=x"], ["dataset.reader"]),
        (["dataset.archive=../x.zip"], ["plain file names"]),
        (["data.root=10", "dataset=amazon-games"], ["10/"]),
        (["data.root=[a]"], ["data.root"]),
        (["dataset.name=7", "dataset.archive=7.zip", "dataset.url=null"], ["'7'"]),
        (["split=null"], ["split=null: choose one of chronological, leave-one-out"]),
        (["training=0"], ["training"]),
        (["training=null"], ["training"]),
        (["model=" + "a" * 5000], ["model=aaa", "choose one of"]),
        (["loss=20"], ["loss"]),
        (["model=null"], ["model"]),
        (["evaluation=[]"], ["evaluation"]),
        (["dataset.filters=3"], ["dataset.filters=3"]),
        (["evaluation.candidates_seed=-1"], ["evaluation.candidates_seed=-1"]),
        (["training.lr=" + "9" * 4301], ["training.lr"]),
        (["seed=" + "9" * 4301], ["seed"]),
        (["--cfg", "job", "-m"], ["--multirun", "--cfg"]),
        (["model.encoder.n_blocks=100000000000000000000"], ["model.encoder.n_blocks", "at most 1,000,000"]),
        (["model.encoder.n_blocks=1000000"], ["10,000 tensors"]),
        (["model.d=1000000"], ["model: its settings need more memory"]),
        (["model.d=1000000000"], ["model.d", "at most 1,000,000"]),
        (["max_len=1000000000000"], ["max_len"]),
        (["negatives.n=1000000000"], ["negatives.n"]),
        (["evaluation.n_candidates=1000000000000"], ["evaluation.n_candidates", "GB"]),
        (["objective.n_targets=1000000"], ["n_targets=1000000", "max_len"]),
        (["training.batch_size=100000000000000000000"], ["training.batch_size"]),
        (["evaluation.batch_size=100000000000000000000"], ["evaluation.batch_size"]),
        (["+model.n_items=3"], ["model.n_items=3", "leave it out"]),
        (["model._target_=sairlib.training.losses.BCE"], ["not a Recommender"]),
        (["dataset.reader._target_=sairlib.training.losses.BCE"], ["not a reader"]),
        (["split._target_=builtins.len"], ["split"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_line_and_leaves_nothing(
    home: Path, command: Command, overrides: list[str], words: list[str]
) -> None:
    assert refused(command(*overrides), *words)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("words", ["--help", "--cfg job", "training.epochs=1 device=cpu"])
def test_a_closed_pipe_ends_the_command_without_a_word(home: Path, words: str) -> None:
    command = [sys.executable, "-m", "sairlib.train", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 141)


def test_ctrl_c_while_everything_loads_gets_one_line(home: Path) -> None:
    import signal

    for seconds in (0.15, 0.4, 0.9):
        with subprocess.Popen(
            [sys.executable, "-m", "sairlib.train", *TINY], stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            assert (process.communicate(timeout=60)[1], process.returncode) in (
                ("interrupted\n", 130),
                ("interrupted\n", -2),
            )
    assert list(home.iterdir()) == []


def test_cuda_where_there_is_none(home: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert refused(command("device=cuda"), "device=cuda", "device=auto or device=cpu")
    assert list(home.iterdir()) == []


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "header only": (b"userId,movieId,rating,timestamp\n", "no rows"),
    "truncated": (b"userId,movieId,rating,timestamp\n1,2,4.0,7\n1,3", "line 3"),
    "binary": (bytes(range(256)) * 40, "not a text file"),
    "separator": (b"userId;movieId;rating;timestamp\n1;2;4;7\n", "no column 'userId'"),
    "columns": (b"user,item,rating,timestamp\n1,2,4,7\n", "no column 'userId'"),
    "not a number": (b"userId,movieId,rating,timestamp\n1,2,4.0,noon\n", "noon"),
    "no number": (b"userId,movieId,rating,timestamp\n1,nan,4.0,7\n", "nan"),
    "negative": (b"userId,movieId,rating,timestamp\n-1,2,4.0,7\n", "-1"),
    "huge": (b"userId,movieId,rating,timestamp\n1,99999999999999999999,4.0,7\n", "99999999999999999999"),
    "short users": (b"userId,movieId,rating,timestamp\n1,2,4,7\n2,3,4,7\n", "3 or more actions"),
    "one item": (b"userId,movieId,rating,timestamp\n1,2,4,1\n1,2,4,2\n1,2,4,3\n", "single item"),
    "one user": (b"userId,movieId,rating,timestamp\n1,2,4,1\n1,3,4,2\n1,4,4,3\n1,5,4,4\n", "all items"),
    "nothing to train on": (b"userId,movieId,rating,timestamp\n1,2,4,1\n1,3,4,2\n1,4,4,3\n2,5,4,4\n", "2 training"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_gets_one_line_and_leaves_nothing(home: Path, command: Command, fault: str) -> None:
    content, word = BAD_FILES[fault]
    (home.parent / "data" / "ml-latest-small" / "ratings.csv").write_bytes(content)
    assert refused(command(), word)
    assert list(home.iterdir()) == []


def test_missing_data_without_network_says_which_file_to_put_where(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    root = home.parent / "data"
    assert refused(command("dataset=ml-20m"), "no connection", f"{root / 'ml-20m'}{os.sep}", str(root / "ml-20m.zip"))
    assert refused(command("dataset=ml-20m", "data.root=new"), str(home / "new" / "ml-20m.zip"))
    assert list(home.iterdir()) == []
    assert sorted(path.name for path in root.iterdir()) == ["ml-latest-small"]


def test_a_user_who_has_had_every_item_is_no_obstacle(home: Path, command: Command) -> None:
    rows = walks(6, 7, 5) + [(99, item) for item in range(7)]
    write_ratings(home.parent / "data" / "ml-latest-small" / "ratings.csv", rows)
    code, out, err = command()
    assert (code, err) == (0, "")
    assert "7 users have fewer unseen items than asked for" in out


def test_short_users_train_and_are_counted(home: Path, command: Command) -> None:
    ratings = home.parent / "data" / "ml-latest-small" / "ratings.csv"
    write_ratings(ratings, [*walks(), (50, 1), (50, 2), (51, 3)])
    ratings.write_text(ratings.read_text() + ratings.read_text().splitlines()[-1] + "\n")
    code, out, _ = command()
    assert code == 0 and "2 users have too few actions to be evaluated" in out
    assert "actions repeat an earlier one of the same user, item and time" in out
    assert json.loads((home / "run" / "test.json").read_text())["n_users"] == 20


def test_users_ranked_by_an_untrained_vector_are_reported(home: Path, command: Command) -> None:
    write_ratings(home.parent / "data" / "ml-latest-small" / "ratings.csv", [*walks(), (50, 1), (50, 2), (50, 3)])
    message = "1 of the evaluated users have a single training action"
    assert message in command("model=bpr-mf")[1]
    assert message not in command("model=bpr-mf", "split.min_actions=4", "run_dir=fewer")[1]
    assert message not in command("model=sasrec", "run_dir=without")[1]  # knows no users


@pytest.mark.parametrize("model", ["bpr-mf", "fpmc", "fmc"])
def test_a_precision_without_effect_is_refused(home: Path, command: Command, model: str) -> None:
    assert refused(command(f"model={model}", "training.precision=bf16"), "bf16 changes nothing", "use fp32")
    assert list(home.iterdir()) == []


def test_a_loss_of_nan_stops_the_command_with_one_line(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Learner.step

    def broken(self: Learner, rows: Rows) -> Any:
        done = step(self, rows)
        if self.n_steps == 3:
            done.figures["loss"] *= float("nan")
        return done

    monkeypatch.setattr(Learner, "step", broken)
    assert refused(command(), "NaN or inf at step 3")
    assert checkpoint.load(home / "run" / "last.pt")["progress"]["epoch"] == 1
    assert not (home / "run" / "test.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file size there")
@pytest.mark.parametrize("room", [1000, 3000, 20_000])
def test_no_room_on_disk_gets_one_line(home: Path, room: int) -> None:
    program = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}));"
        f" sys.argv = {['train', *TINY, 'data.cache=null']!r}; from sairlib.train import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert refused((done.returncode, done.stdout, done.stderr), "")
    left = [path for path in home.rglob("*") if path.suffix == ".tmp"]
    assert left == []
    if room == 1000:
        assert list(home.iterdir()) == []
