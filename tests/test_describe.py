"""The command that describes a data set."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_helpers import call, contents, refused

from sairlib import describe

Describe = Callable[..., tuple[int, str, str]]


@pytest.fixture
def described(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Describe:
    """Runs the command in ``home``: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = call(describe.main, monkeypatch, *words)
        return code, *capfd.readouterr()

    return run


def test_figures_are_printed_and_written_and_nothing_else_is(home: Path, described: Describe) -> None:
    code, out, err = described("output=figures.json", "split=chronological", "max_len=3", "dataset.filters.item_core=3")
    assert (code, err) == (0, "")
    figures = json.loads((home / "figures.json").read_text())
    assert figures["dataset"] == "ml-latest-small" and figures["published"] is None
    assert figures["sizes"]["users"] == 20 and figures["sizes"]["actions"] == 180
    assert figures["split"]["name"].startswith("chronological") and figures["split"]["longer_than_max_len"] == 20
    assert [step["filter"] for step in figures["filters"]] == ["none", "item_core=3"]
    assert figures["ties"]["test"] == {"targets": 20, "tied": 0}
    assert "average length            9.00" in out and "item_core=10" in out
    assert contents(home.parent).keys() == {"data/ml-latest-small/ratings.csv", "home/figures.json"}


def test_published_figures_stand_beside(home: Path, described: Describe) -> None:
    (home.parent / "data" / "ml-latest-small").rename(home.parent / "data" / "ml-1m")
    code, out, _ = described("dataset=ml-1m", "output=figures.json")
    assert code == 0 and "SAIR, Table I" in out and "1,000,038" in out
    assert json.loads((home / "figures.json").read_text())["published"]["users"] == 6041


def test_real_data_is_described_as_published(
    described: Describe, real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = real_data("ml-100k.zip").parent
    code, out, _ = described(f"data.root={folder}", "dataset=ml-100k")
    assert code == 0
    for line in ("users                      943", "items                    1,682", "sparsity, %              93.70"):
        assert line in out


def test_mistakes_get_one_line_and_leave_nothing(
    home: Path, described: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(home.parent)
    assert refused(described("dataset=nosuch"), "dataset/nosuch", "ml-100k")
    assert refused(described("max_len=0"), "max_len=0")
    assert refused(described("max_len=many"), "max_len")
    assert refused(described("output=gone/figures.json"), "output=gone/figures.json", "no directory gone")
    assert refused(described("dataset.filters.user_core=1000", "output=figures.json"), "nothing is left")
    assert refused(described("dataset.filters.nosuch=1"), "nosuch")
    assert refused(described("dataset=amazon-games", "data.root=nowhere"), "nowhere")
    assert refused(described("model=sair"), "model")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    assert refused(described("picture=set.png"), "pip install 'sairlib[plots]'")
    assert contents(home.parent) == before
