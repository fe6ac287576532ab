"""The figures in the documents equal those of the recorded runs."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from command_helpers import actions_with_new_last_items, write_data

import sairlib
from sairlib.evaluation.comparison import Comparison
from sairlib.run.collected import System
from sairlib.run.comparison_table import Row

HERE = Path(__file__).parents[1]
SCRIPT = HERE / "experiments" / "results.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs a checkout: experiments/ is not in the wheel")


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["results"] = module
    spec.loader.exec_module(module)
    return module


def record(
    folder: Path, *, best: int, looks: list[int], last: int, epochs: int, ndcg: float = 0.5, resume: bool = False
) -> Path:
    """A run's record, as small as it may be."""
    folder.mkdir()
    words = "experiment=caser-ml-1m training.epochs=9 seed=3 run_dir=r/x" + " resume=true" * resume
    run = {"command": f"python -m sairlib.train {words}", "git": {"commit": "c" * 40}, "seconds": {"a": 60, "b": 120}}
    interval = {"ndcg@10": [0.1, 0.9], "hr@10": [0.2, 0.8]}
    test = {"sampled": {"ndcg@10": ndcg, "hr@10": 0.75}, "ci95": {"sampled": interval}, "best_epoch": best}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "test.json").write_text(json.dumps({**test, "split_sha256": "5" * 64, "candidates_sha256": None}))
    events = [{"epoch": epoch, "train": {}} for epoch in range(1, last + 1)]
    events += [{"epoch": epoch, "validation": {}} for epoch in looks]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    (folder / "config.yaml").write_text(f"training: {{epochs: {epochs}}}\ndata: {{root: /secret}}\n")
    return folder


def test_the_documents_equal_the_records(results: ModuleType) -> None:
    # Else run: python experiments/results.py
    stale = [path.name for path, text in results.generated().items() if path.read_text(encoding="utf-8") != text]
    assert stale == []


def test_every_preset_and_no_other_has_its_line_among_the_published(results: ModuleType) -> None:
    folder = HERE / "conf" / "experiment"
    presets = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yaml")}
    published = {f"{table}/{name}" for table, about in results.PUBLISHED["tables"].items() for name in about["presets"]}
    assert published == presets
    assert set(results.PUBLISHED["renamed"].values()) <= presets


def test_every_kept_run_is_in_the_table_of_all(results: ModuleType) -> None:
    text = (HERE / "experiments" / "RESULTS.md").read_text(encoding="utf-8")
    assert [run.name for run in sorted(results.RUNS.iterdir()) if f"](runs/{run.name})" not in text] == []


@pytest.mark.parametrize(
    ("best", "looks", "last", "epochs", "rising"),
    [
        (10, [5, 10], 10, 10, True),  # cut at its best
        (10, [5, 10], 12, 12, True),  # two more epochs which nobody looked at
        (5, [5, 10], 10, 10, False),  # had fallen
        (10, [5, 10], 10, 1000, False),  # ended by itself: PopRec after its only epoch
    ],
)
def test_a_row_is_marked_where_training_was_cut_while_validation_rose(
    results: ModuleType, tmp_path: Path, best: int, looks: list[int], last: int, epochs: int, rising: bool
) -> None:
    folder = record(tmp_path / "x-s1", best=best, looks=looks, last=last, epochs=epochs)
    claim = results.Claim([results.Run(folder)])
    assert claim.figures("sampled") == "0.5000 / 0.7500" + r" \*" * rising
    assert claim.epochs() == f"{best} of {last}"


def test_a_row_of_seeds_has_mean_and_half_range_and_one_seed_its_interval(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RUNS", tmp_path)
    settled = {"best": 1, "looks": [1, 2], "last": 2, "epochs": 2}
    runs = [
        results.Run(record(tmp_path / "x-s1", ndcg=0.5, **settled)),
        results.Run(record(tmp_path / "x-s2", ndcg=0.51, resume=True, **settled)),
        results.Run(record(tmp_path / "x-s3", ndcg=0.55, **settled)),
    ]
    claim = results.Claim(runs)
    assert claim.figures("sampled") == "0.5200 ± 0.0250 / 0.7500 ± 0.0000"
    assert claim.figures("full") == "-"
    assert (claim.epochs(), claim.minutes(), claim.split()) == ("1, 1, 1 of 2", "3", "55555555")
    assert claim.links("up/") == "[x-s1](up/runs/x-s1), [s2](up/runs/x-s2), [s3](up/runs/x-s3)"
    # One command for all, in the name that the preset has today.
    assert claim.command() == "`experiment=sasrec-table3/caser-ml-1m-sasrec training.epochs=9`, resumed"
    assert (
        results.Claim(runs[:1]).figures("sampled", interval=True) == "0.5000 [0.1000, 0.9000] / 0.7500 [0.2000, 0.8000]"
    )


def test_records_are_kept_without_weights_and_folders(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = record(tmp_path / "run", best=1, looks=[1], last=1, epochs=1)
    (run / "best.pt").write_bytes(b"weights")
    monkeypatch.setattr(results, "RUNS", tmp_path / "kept")
    results.keep("mine-s1", run)
    copied = tmp_path / "kept" / "mine-s1"
    assert {path.name for path in copied.iterdir()} == set(results.RECORDS)
    assert "secret" not in (copied / "config.yaml").read_text()
    shutil.rmtree(copied)
    (run / "test.json").unlink()
    with pytest.raises(SystemExit, match=r"no test\.json"):
        results.keep("mine-s1", run)
    assert not copied.exists()


def test_the_verdict_is_made_from_records_and_says_what_is_missing(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path, actions_with_new_last_items())
    small = ("model.d=8", "max_len=8", "training.epochs=2", "device=cpu", "evaluation.n_candidates=5")
    where = (f"data.root={tmp_path / 'data'}", "data.cache=null", "dataset.url=null")
    for model, seed in (("sasrec", 1), ("sasrec", 2), ("sair", 1), ("sair", 2), ("fpmc", 1)):
        study = sairlib.study(f"model={model}", f"seed={seed}", *small, *where)
        study.run(tmp_path / "grid" / f"{model}-s{seed}")
    monkeypatch.setattr(results, "TABLES", tmp_path / "tables")
    results.keep_table("mine", tmp_path / "grid")
    kept = tmp_path / "tables" / "mine" / "sair-s2"
    events = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in events] == [1, 2] and "root:" not in (kept / "config.yaml").read_text()

    names = ["sasrec", "sair", "fpmc", "caser"]
    question = {"ask": "Who?", "runs": [f"tables/mine/{name}" for name in names], "use": True}
    text = results.verdict.answer(question, tmp_path)
    assert "Not run yet: caser." in text
    assert "`python -m sairlib.report experiments/tables/mine/sasrec-s* experiments/tables/mine/sair-s*" in text
    tests = {name: [json.loads((tmp_path / "grid" / f"{name}-s{s}" / "test.json").read_text()) for s in seeds]
             for name, seeds in (("sasrec", (1, 2)), ("sair", (1, 2)), ("fpmc", (1,)))}  # fmt: skip
    means = {name: sum(test["full"]["ndcg@10"] for test in own) / len(own) for name, own in tests.items()}
    for system, name in (("SAIR", "sair"), ("FPMC", "fpmc")):
        said = next(line for line in text.splitlines() if line.startswith("- ") and system in line and "full" in line)
        assert f"{means[name] - means['sasrec']:+.4f} [" in said
    assert "SAIR: as if " in text and "SASRec: its records do not say" in text
    apart = results.verdict.answer({**question, "apart": True}, tmp_path)
    assert "| `experiments/tables/mine/sair-s*` | 2 | " in apart and f" {means['sair']:.4f} ± " in apart
    empty = results.verdict.answer({**question, "runs": ["tables/mine/none", "tables/mine/sair"]}, tmp_path)
    assert empty == "### Who?\n\nNot run yet: none.\n"


def test_a_sentence_says_what_was_found_and_what_could_not_be(results: ModuleType) -> None:
    def sentence(difference: float, p: float, n_seeds: int = 2) -> str:
        run = SimpleNamespace(rises=False)
        compared = Comparison(difference, difference - 0.01, difference + 0.01, p, 0.1, 0.02)
        row = Row(System("A", (run,)), None, 0.5, None, 0.4, 0.6, compared, p)  # type: ignore[arg-type]
        said: str = results.verdict.sentence(row, "B", n_seeds, "full")
        return said

    assert sentence(0.03, 0.0001) == "**A is above B**: +0.0300 [+0.0200, +0.0400] of full NDCG@10, p < 0.001."
    assert sentence(-0.03, 0.04).startswith("**A is below B**: -0.0300 [-0.0400, -0.0200]")
    assert sentence(0.001, 0.3) == (
        "No difference between A and B is shown: +0.0010 [-0.0090, +0.0110] of full NDCG@10, p = 0.300;"
        " one of 0.0200 would have been found with probability 0.8."
    )
    few = "These trainings of A are above those of B: +0.0130 [+0.0030, +0.0230] of full NDCG@10, p = 0.010; with "
    assert sentence(0.013, 0.01) == f"{few}2 seeds, whose spread alone makes 0.0140 possible, others may not be."
    assert sentence(0.013, 0.01, 1) == f"{few}one seed, others may not be."
