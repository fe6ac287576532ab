"""The report of finished runs: one table, figures that agree with the runs' own, and no comparison of unlike things."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_helpers import call
from train_helpers import TINY as WORDS
from train_helpers import Command

import sairlib
from sairlib import report
from sairlib.run import collected
from sairlib.run.collected import collect, systems

YOUNGER = ("split.order.", "evaluation.passes", "evaluation.histories", "training.ema")
"""Settings that runs of earlier versions lack."""
TINY = [word for word in WORDS if not word.startswith("run_dir")]


@pytest.fixture
def runs(home: Path, command: Command) -> Path:
    """Two systems with two seeds each, and one run that is not finished, below one folder."""
    for model in ("sasrec", "fmc"):
        for seed in (1, 2):
            words = (f"model={model}", f"seed={seed}", f"run_dir=all/{model}-{seed}")
            assert command(*words, tiny=TINY)[0] == 0
    (home / "all" / "half" / ".hydra").mkdir(parents=True)
    (home / "all" / "half" / "config.yaml").write_text("seed: 1\n")
    return home / "all"


def reported(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = call(report.main, monkeypatch, *words)
    return code, *capfd.readouterr()


def test_one_table_tells_of_all(runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    Path("published.yaml").write_text("ml-latest-small: {SASRec: 0.6}\nelsewhere: {FPMC: 0.1}\n")
    words = (str(runs), "baseline=FPMC", "ranking=full", "published=published.yaml")
    code, out, err = reported(monkeypatch, capfd, *words, "output=table.csv")
    assert code == 0 and "half is not finished" in err
    table = {row["system"]: row for row in csv.DictReader(Path("table.csv").read_text().splitlines())}
    assert set(table) == {"SASRec", "FPMC"} and table["FPMC"]["p"] == ""
    figures = {}
    for system, name in (("SASRec", "sasrec"), ("FPMC", "fmc")):
        own = [json.loads((runs / f"{name}-{seed}" / "test.json").read_text())["full"]["ndcg@10"] for seed in (1, 2)]
        figures[system] = sum(own) / 2
        assert float(table[system]["mean"]) == pytest.approx(figures[system])
        assert f"{figures[system]:.4f} ± " in out
        assert float(table[system]["low"]) <= figures[system] <= float(table[system]["high"])
    assert float(table["SASRec"]["difference"]) == pytest.approx(figures["SASRec"] - figures["FPMC"])
    assert table["SASRec"]["p"] == table["SASRec"]["p_holm"] and table["SASRec"]["published"] == "0.6"
    code, out, _ = reported(monkeypatch, capfd, str(runs), f"baseline={runs}/fmc-2", "output=table.tex", "metric=mrr")
    assert (
        code == 0 and r"\begin{tabular}" in Path("table.tex").read_text() and r"$\pm$" in Path("table.tex").read_text()
    )
    Path("published.yaml").write_text("SASRec: 0.6\n")
    code, _, err = reported(monkeypatch, capfd, str(runs), "published=published.yaml")
    assert code == 1 and "must be a yaml file of figures by data set and system" in err
    code, out, err = reported(monkeypatch, capfd, str(runs), "baseline=Caser")
    assert code == 1 and "baseline=Caser: no such system; there are FPMC, SASRec" in err


def test_a_run_that_lacks_later_settings_is_of_the_same_system(runs: Path) -> None:
    run = collected.collect([runs])[0][0]
    earlier = {name: value for name, value in run.settings.items() if not name.startswith(YOUNGER)}
    assert len(earlier) <= len(run.settings) - len(YOUNGER), "all of these are settings"
    other = replace(run, settings={**earlier, "seed": 77})
    assert [len(system.runs) for system in collected.systems([run, other])] == [2]


def test_unlike_runs_are_not_compared(
    runs: Path, command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "splits": "dataset.filters.item_core=8",
        "candidates": "evaluation.candidates_seed=7",
        "passes": "evaluation.passes=users",
        "orders": "evaluation.histories=shuffled",
    }
    for name, change in changes.items():
        assert command(change, f"run_dir={name}", tiny=[*TINY, "model=sasrec"])[0] == 0
        code, _, err = reported(monkeypatch, capfd, str(runs), name)
        what = "orders of histories" if name == "orders" else name
        assert code == 1 and f"have other {what} of ml-latest-small" in err and err.count("\n") <= 2
    assert reported(monkeypatch, capfd, str(runs), "candidates", "ranking=full")[0] == 0
    code, out, _ = reported(monkeypatch, capfd, str(runs), "candidates", "ranking=full")
    assert "SASRec evaluation.candidates_seed=7" in out and "SASRec evaluation.candidates_seed=2022" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "which runs? Give their directories"),
        (("nosuch",), "nosuch is not a directory"),
        ((".",), "no finished run in ."),
        ((".", "metric=ndcg@x"), "metric=ndcg@x: must be like ndcg@10"),
        ((".", "output=table.doc"), "output=table.doc: the name must end in one of"),
        ((".", "curves=c.jpg"), "curves=c.jpg: the name must end in .png"),
        ((".", "nonsense=1"), "nonsense"),
    ],
)
def test_a_mistake_gets_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    code, out, err = reported(monkeypatch, capfd, *words)
    assert (code, out) == (1, "") and says in err and err.count("\n") == 1


def test_pictures_of_curves_and_of_pool_and_kept(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'sairlib[plots]'")
    for pool, kept in ((4, 1), (4, 2), (5, 1)):
        words = (f"interests.n_interests={pool}", f"interests.top_k={kept}", f"run_dir=all/{pool}-{kept}")
        assert command(*words, tiny=[*TINY, "model=sair"])[0] == 0
    code, _, err = reported(monkeypatch, capfd, "all", "curves=c.png", "heat_map=h.png", "ranking=full")
    assert code == 0, err
    for name in ("c.png", "h.png"):
        assert Path(name).read_bytes().startswith(b"\x89PNG") and Path(name).stat().st_size > 5_000
    names = [system.name for system in systems(collect([Path("all")])[0])]
    assert names == [f"SAIR n_interests={pool} top_k={kept}" for pool, kept in ((4, 1), (4, 2), (5, 1))]
    code, _, err = reported(monkeypatch, capfd, "all/4-1", "heat_map=h.png")
    assert code == 1 and "needs runs of SAIR with several L or K" in err


def test_what_is_not_a_run_s_is_refused(runs: Path) -> None:
    (runs / "fmc-1" / "test.json").write_text("{}")
    with pytest.raises(sairlib.UserError, match=r"fmc-1 is not a finished run"):
        collect([runs])
