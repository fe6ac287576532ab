"""The public interface: what the README shows runs, twice in one process, and inside of a Hydra job."""

import json
import re
import sys
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import DictConfig

import sairlib
from sairlib import build
from sairlib.evaluation.metrics import all_metrics

README = Path(__file__).resolve().parents[1] / "README.md"
WORDS = ("model=sasrec", "model.d=8", "max_len=8", "training.epochs=2", "training.batch_size=64", "device=cpu")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in; data is what ships."""
    monkeypatch.setenv("SAIRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_public_name_is_there_and_explained() -> None:
    assert set(sairlib.__all__) | {"__version__"} <= set(dir(sairlib))
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        sairlib.nosuch  # noqa: B018
    assert sairlib.__version__[0].isdigit() and len(sairlib.__all__) == len(set(sairlib.__all__))
    for name in sairlib.__all__:
        assert (getattr(sairlib, name).__doc__ or "").strip(), name


@pytest.mark.skipif(not README.is_file(), reason="needs a checkout: the README is not in the wheel")
def test_the_readme_s_lines_of_python_run(home: Path) -> None:
    section = README.read_text().split("## From Python")[1]
    block = re.search(r"```python\n(.*?)```", section, re.S)
    assert block is not None
    lines = block[1].replace('"dataset=ml-100k"', '"model.d=8", "device=cpu"').replace("epochs=5", "epochs=1")
    names: dict[str, object] = {}
    exec(lines, names)
    result, run = names["result"], names["run"]
    assert isinstance(result, sairlib.Result) and isinstance(run, sairlib.Run)
    assert (home / "outputs" / "mine" / "test.json").is_file()
    assert json.loads((home / "outputs" / "mine" / "test.json").read_text()) == result.test == run.test()
    assert "ndcg@10" in str(result)


def test_a_study_is_the_same_twice_in_a_process_whatever_is_drawn_between(home: Path) -> None:
    first, second = sairlib.study(*WORDS), sairlib.study(*WORDS)
    one = first.run(home / "one")
    torch.rand(7)
    two = second.run(home / "two")
    assert one.test == two.test and one.validation == two.validation and one.best_epoch == two.best_epoch
    assert sairlib.study(*WORDS, "seed=2").run(home / "other").test != one.test
    with pytest.raises(sairlib.UserError, match="this study has already run"):
        first.run(home / "three")
    assert not (home / "three").exists()
    with pytest.raises(sairlib.UserError, match="already holds a run"):
        sairlib.study(*WORDS).run(home / "one")


def test_ranks_on_disk_give_the_reported_figures(home: Path) -> None:
    result = sairlib.study(*WORDS).run(home / "run")
    users, ranks = sairlib.read_ranks(home / "run" / "ranks.npz")
    assert len(users) == 610 == len(ranks["full"].better_E)
    for ranking in ("sampled", "full"):
        assert ranks[ranking].means((5, 10, 20)) == {name: result.test[ranking][name] for name in result.test[ranking]}
        values = all_metrics(ranks[ranking].better_E, ranks[ranking].tied_E, (10,))
        assert values["ndcg@10"].mean() == result.test[ranking]["ndcg@10"]


def test_a_study_in_a_hydra_job_leaves_the_job_s_hydra_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    @hydra.main(version_base="1.3", config_path=build.CONFIG_PATH, config_name="evaluate")
    def job(config: DictConfig) -> None:
        before = hydra.core.hydra_config.HydraConfig.get().job.name
        seen.append(sairlib.study("model=poprec", "device=cpu").about.dataset)
        seen.append(hydra.core.hydra_config.HydraConfig.get().job.name == before)
        seen.append(hydra.core.global_hydra.GlobalHydra.instance().is_initialized())

    monkeypatch.setattr(sys, "argv", ["job", "run=x"])
    job()
    hydra.core.global_hydra.GlobalHydra.instance().clear()
    assert seen == ["ml-latest-small", True, True]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=nosuch"], "nosuch"),
        (["training.lr=-1"], "training.lr=-1"),
        (["nonsense"], "nonsense"),
        (["model.no_such_option=1"], "no_such_option"),
        (["dataset.archive=nosuch.zip", "dataset.url=null"], "nosuch"),
    ],
)
def test_a_mistake_is_a_user_error_of_one_line(home: Path, words: list[str], says: str) -> None:
    with pytest.raises(sairlib.UserError, match=re.escape(says)) as caught:
        sairlib.study(*words)
    assert "\n" not in str(caught.value)
    with pytest.raises(sairlib.UserError, match="holds no run"):
        sairlib.load(home)
