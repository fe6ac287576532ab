"""The command that explains a run: what it prints and writes, and what it refuses."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_helpers import call, contents, refused, train_tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sairlib
from sairlib import explain
from sairlib.data.split import Part
from sairlib.run import explained, histories

Command = Callable[..., tuple[int, str, str]]
ACTIONS = [(user, (3 * user + step) % 40) for user in range(30) for step in range(4 + user % 5)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny data set, which has titles and genres, and runs on it."""
    home = tmp_path_factory.mktemp("trained")
    train_tiny(home, ACTIONS, "sair", "sasrec", "poprec")
    return home


@pytest.fixture
def command(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Runs ``explain`` for a run by its name, in an empty directory; ``typed`` is its standard input."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("SAIRLIB_DATA", str(trained / "data"))
    monkeypatch.chdir(tmp_path)

    def run(name: str, *words: str, typed: str = "") -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        place = f"data.cache={trained / 'cache'}"
        code = call(explain.main, monkeypatch, str(trained / name), "device=cpu", place, *words)
        return code, *capfd.readouterr()

    return run


def tags(folder: Path) -> set[str]:
    """The pictures that TensorBoard finds there."""
    board = EventAccumulator(str(folder))
    board.Reload()
    return set(board.Tags()["images"])


def test_interests_are_told_drawn_and_written(command: Command, trained: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
    before = contents(trained / "sair")
    code, out, err = command("sair", "user=[7,8]", "steps=3")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "user 7, after 5 actions:" and "interests over 30 people" in out and "block 1" in out
    assert [line.split()[0] for line in lines[2:5]] == ["-2", "-1", "0"]
    assert lines[4].split()[1:3] == ["Film", "25"]  # the one before the test item, which is film 26
    assert sum(float(part.split(":")[1]) for part in lines[4].split()[3:]) == pytest.approx(1, abs=0.02)
    folder = trained / "sair" / "explain"
    pictures = {"interests.png", "attention-block-1.png", "attention-block-2.png", "attention-interaction.png"}
    of_people = {"user-7.png", "user-8.png"}
    events = {"events.out.tfevents.explain", *(f"events.out.tfevents.explain.user-{n}" for n in (7, 8))}
    projector = {"tensors.tsv", "metadata.tsv", "projector_config.pbtxt"}
    assert contents(folder).keys() == pictures | of_people | events | projector | {"figures.json"}
    assert {name: content for name, content in contents(trained / "sair").items() if name in before} == before
    on_board = {"interests", "attention/block 1", "attention/block 2", "attention/interaction", "user-7", "user-8"}
    assert tags(folder) == on_board

    run = sairlib.load(trained / "sair", device="cpu")
    found, _ = explained.over(run, histories.before(run.split, Part.TEST))
    figures = json.loads((folder / "figures.json").read_text())
    assert found is not None and figures["interests"]["difference"] == pytest.approx(found.difference._asdict())
    assert f"{found.after.mean:.4f} [{found.after.low:.4f}, {found.after.high:.4f}]" in out
    assert figures["interests"]["along"]["changes_N"][0] is None and len(figures["interests"]["names"]) == 10
    assert np.loadtxt(folder / "tensors.tsv") == pytest.approx(run.item_vectors()[0].numpy(), rel=1e-4, abs=1e-6)
    table = [line.split("\t") for line in (folder / "metadata.tsv").read_text().splitlines()]
    assert table[0] == ["title", "item", "categories", "actions"] and len(table) == 1 + run.split.dataset.n_items
    assert table[4][:3] == ["Film 3", "3", "Genre 3"]

    assert command("sair", "projector=5")[0] == 0  # again, into the same folder
    assert tags(folder) == on_board and len((folder / "tensors.tsv").read_text().splitlines()) == 5


def test_a_model_without_interests_shows_its_attention(command: Command) -> None:
    words = ["history=-", "people=0", "output=here", "pictures=false", "projector=0"]
    code, out, err = command("sasrec", *words, typed="anna: 3 4 999 5\n")
    assert (code, err) == (0, "") and contents(Path()) == {}
    lines = out.splitlines()
    assert lines[0] == "user anna, after 3 actions:" and lines[1].split() == [
        "step",
        "item",
        "block",
        "1",
        "block",
        "2",
    ]
    weights = np.array([[float(word) for word in line.split()[3:]] for line in lines[2:5]])
    assert weights.sum(0) == pytest.approx(np.ones(2), abs=0.01)


def test_mistakes_get_one_line_and_leave_nothing(
    command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, of_run = contents(Path()), contents(trained / "sasrec")
    for words, says in [
        (["user=77"], "user=77: nobody in the data has this id"),
        (["user=1.5"], "an id is an integer or text"),
        (["user=1", "history=x"], "user and history do not go together"),
        (["people=0"], "people=0 leaves nobody"),
        (["people=-1"], "people=-1: must be 0 or more"),
        (["steps=0"], "steps=0: must be 1 or more"),
        (["before=train"], "choose one of test, validation"),
        (["output=gone/there"], "output=gone/there: the folder cannot be made"),
    ]:
        assert refused(command("sasrec", *words), says)
    assert refused(command("sasrec", "history=-", typed="x: 999\n"), "x: nothing to explain")
    assert refused(command("poprec"), "PopRec has neither interests nor causal attention: nothing to explain")
    assert refused(command("nowhere"), "holds no run")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    assert refused(command("sasrec"), "pip install 'sairlib[plots]', or add pictures=false")
    assert contents(Path()) == before and contents(trained / "sasrec") == of_run
