"""The directory of a run that the train command writes: never overwritten, resumed with its own settings, one owner."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_helpers import call, contents, refused, write_ratings
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf
from train_helpers import TINY, Command, walks

from sairlib import resume, train
from sairlib.data.sequences import Rows
from sairlib.run.directory import DOCUMENTS, EARLY, LOCK, RunDirectory
from sairlib.training.step import Learner


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


def test_a_finished_run_of_a_version_without_lists_can_be_given_them(
    home: Path, command: Command, run_of_two_epochs: Path
) -> None:
    config, test = run_of_two_epochs / "config.yaml", run_of_two_epochs / "test.json"
    config.write_text(config.read_text().replace("  lists: 0\n", ""))
    before = json.loads(test.read_text())
    code, out, _ = command("resume=true", "evaluation.lists=3")
    assert code == 0 and "lists of 3" in out and "epoch   " not in out
    after = json.loads(test.read_text())
    assert after.pop("lists")["k"] == 3 and after == before
    assert "nothing is repeated" in command("resume=true", "evaluation.lists=3")[1]


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
