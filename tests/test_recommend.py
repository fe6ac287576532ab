"""The command that asks a run for recommendations: what it prints and writes, and what it refuses."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_helpers import call, contents, refused, train_tiny

import sairlib
from sairlib import recommend

Command = Callable[..., tuple[int, str, str]]
N_USERS, N_ITEMS = 30, 40
ACTIONS = [(user, (3 * user + step) % N_ITEMS) for user in range(N_USERS) for step in range(4 + user % 5)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny data set, which has titles and genres, and runs of SAIR and SASRec on it."""
    home = tmp_path_factory.mktemp("trained")
    train_tiny(home, ACTIONS, "sair", "sasrec")
    return home


@pytest.fixture
def command(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Runs ``recommend`` for a run by its name, in an empty directory; ``typed`` is its standard input."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)

    def run(name: str, *words: str, typed: str = "") -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        places = [f"data.root={trained / 'data'}", f"data.cache={trained / 'cache'}"]
        code = call(recommend.main, monkeypatch, str(trained / name), "device=cpu", *places, *words)
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def loaded(trained: Path, monkeypatch: pytest.MonkeyPatch) -> sairlib.Run:
    monkeypatch.setenv("SAIRLIB_DATA", str(trained / "data"))
    return sairlib.load(trained / "sair", device="cpu")


def lists(text: str) -> pd.DataFrame:
    frame: pd.DataFrame = pd.read_csv(io.StringIO(text))
    return frame


def test_a_person_gets_a_table_with_titles_and_interests(command: Command, loaded: sairlib.Run) -> None:
    code, out, err = command("sair", "user=7", "k=3")
    expected = loaded.recommend(users=7, k=3)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "user 7, after 6 actions:"
    assert lines[1].split() == ["rank", "score", "item", "title", "interests"]
    for line, row in zip(lines[2:5], expected.itertuples(), strict=True):
        assert line.split()[:5] == [str(row.rank), f"{row.score:.3f}", str(row.item), "Film", str(row.item)]
        assert sum(float(part.split(":")[1]) for part in line.split()[5:]) == pytest.approx(row.score, abs=0.01)
    assert lines[6].startswith("interest ") and "Genre" in lines[6]
    code, out, err = command("sasrec", "user=[7,8]", "k=3")
    assert (code, err) == (0, "") and "interest" not in out and "user 8, after" in out


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_all_people_are_written_as_python_gives_them(
    command: Command, loaded: sairlib.Run, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr("sairlib.run.recommendations.PEOPLE_AT_ONCE", 7)
    assert command("sair", "users=all", f"out=top.{format}", "k=4", "explain=true") == (0, "", "")
    expected = loaded.recommend(k=4, interests=True)
    assert len(expected) == 4 * N_USERS
    read: dict[str, Callable[[], pd.DataFrame]] = {
        "csv": lambda: pd.read_csv("top.csv"),
        "jsonl": lambda: pd.read_json("top.jsonl", lines=True),
        "parquet": lambda: pd.read_parquet("top.parquet"),
    }
    pd.testing.assert_frame_equal(read[format](), expected, check_dtype=False, rtol=1e-5)


def test_strangers_in_every_layout_get_the_same(command: Command, loaded: sairlib.Run) -> None:
    expected = loaded.recommend({1: [3, 4, 5], 2: [9]}, k=3)
    layouts = {
        "items": "1: 3 4 5\n\n2: 9\n",
        "lines": "1 3 4 5\n2 9\n",
        "csv": "when,item,user,timestamp\nx,5,1,2020-01-03\nx,9,2,2019-01-01\nx,3,1,2020-01-01T10:00+02:00\n"
        "x,4,1,2020-01-02\n",
        "jsonl": '{"user": 1, "items": [3, 4, 5]}\n{"user": 2, "items": ["9"]}\n',
    }
    for layout, text in layouts.items():
        chosen = ["history_format=lines"] if layout == "lines" else []
        code, out, err = command("sair", "history=-", "k=3", "format=csv", *chosen, typed=text)
        assert (code, err) == (0, "")
        pd.testing.assert_frame_equal(lists(out), expected, check_dtype=False, rtol=1e-5)
    Path("people.txt").write_text("3 4 5\n9\n")  # called by their lines
    code, out, err = command("sair", "history=people.txt", "k=3", "format=jsonl")
    assert [json.loads(line)["item"] for line in out.splitlines()] == expected.item.tolist()


def test_what_is_unknown_is_counted_and_popularity_speaks(command: Command) -> None:
    Path("some.txt").write_text("1\n2\n3\nnosuch\n")
    typed = "a: 3 4 999\nb: 998 997\nc:\n"
    code, out, err = command("sair", "history=-", "candidates=some.txt", "k=5", "format=csv", typed=typed)
    found = lists(out)
    assert code == 0 and set(found.item) == {1, 2, 3}
    assert found[found.user == "a"].item.tolist() in ([1, 2], [2, 1])
    assert found.groupby("user")["by"].first().to_dict() == {"a": "model", "b": "popularity", "c": "popularity"}
    assert err.splitlines() == [
        "the model does not know 3 of 5 actions' items, of 2 people: left out",
        "2 people did nothing that the model knows: they get the most popular items",
        "the model does not know 1 of 4 candidates: left out",
        "3 people got fewer than 5 items: no more are left for them to be recommended",
    ]
    code, out, err = command("sair", "history=-", "candidates=some.txt", typed="1 2 3\n")
    assert (code, out) == (0, "user 1, after 3 actions:\nno item is left\n")


def test_filters_and_what_was_seen(command: Command, loaded: sairlib.Run) -> None:
    data = loaded.split.dataset
    code, out, err = command("sair", "user=7", "k=40", "filter=category:Genre 3", "exclude_seen=false", "format=csv")
    assert code == 0 and "fewer than 40" in err
    number = data.category_names.index("Genre 3") + 1
    assert set(lists(out).item) == {
        int(i) for i, of in zip(data.item_ids, data.item_categories[1:], strict=True) if number in of
    }


def test_mistakes_get_one_line_and_leave_nothing(command: Command, trained: Path) -> None:
    before, of_run = contents(Path()), contents(trained / "sair")
    for words, says in [
        ([], "recommend to whom?"),
        (["user=1", "users=all", "out=x.csv"], "user and users do not go together"),
        (["user=77"], "user=77: nobody in the data has this id"),
        (["user=1.5"], "an id is an integer or text"),
        (["users=some"], "only users=all"),
        (["users=all"], "give out=FILE"),
        (["users=all", "out=top.xlsx"], "must end in .csv, .jsonl or .parquet"),
        (["users=all", "out=gone/top.csv"], "could not write gone/top.csv (there is no directory gone)"),
        (["user=1", "k=0"], "k=0"),
        (["user=1", "format=xml"], "format=xml"),
        (["user=1", "filter=Genre 3"], "give filter=category:NAME"),
        (["user=1", "filter=category:Nosuch"], "the data has no such category (it has Genre 0"),
        (["history=gone.txt"], "history=gone.txt: cannot be read"),
    ]:
        assert refused(command("sair", *words), says)
    assert refused(command("sasrec", "user=1", "explain=true"), "has no interests")
    assert refused(command("nowhere", "user=1"), "holds no run")
    assert contents(Path()) == before and contents(trained / "sair") == of_run
