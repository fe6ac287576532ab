"""The train command: a whole run from an empty directory, and one clear line for every mistake."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from command_helpers import contents, refused, write_ratings
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from train_helpers import TINY, Command, python, walks

from sairlib.data.sequences import Rows
from sairlib.run import checkpoint
from sairlib.training import losses
from sairlib.training.step import Learner


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
        (["split=null"], ["split=null: choose one of chronological, leave-last, leave-one-out, temporal"]),
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
def test_a_precision_without_effect_is_refused(
    home: Path, command: Command, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "ALL", 0)  # so few items are otherwise scored by one product, which bf16 does change
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
