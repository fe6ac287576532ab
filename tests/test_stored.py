"""A run may be a stranger's: loading it makes objects of sairlib and of trusted packages only, and tells it nothing."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import sairlib
from sairlib import configuration, resume, stored
from sairlib.errors import UserError

OWN_MODEL = """
from pathlib import Path
from sairlib.models.recommender import Recommender
Path("imported").touch()
class Mine(Recommender): pass
def make(path): Path(path).touch()
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a stranger sends: the texts of a run, and beside it a package of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SECRET", "geheim")
    (tmp_path / "own_models.py").write_text(OWN_MODEL)
    words = ["model=sasrec", "device=cpu"]
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(configuration.compose(words), resolve=True))
    (run / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml(words))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    return run


def change(run: Path, place: str, value: Any) -> None:
    config = changed = yaml.safe_load((run / "config.yaml").read_text())
    *folders, last = place.split(".")
    for folder in folders:
        changed = changed[folder]
    changed[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


PLACES = [
    "model",
    "dataset.reader",
    "split",
    "loss",
    "objective",
    "negatives",
    "training.lr",
    "model.d",
    "evaluation.ks",
]
CALLS = [
    {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": ["stolen"]}]},
    {"_target_": "os.mkdir", "path": "stolen", "_partial_": False, "_convert_": "all"},
    {"_target_": "sairlib.files.write_text", "path": "stolen", "text": ""},  # ours, but no part of a run
    {"_target_": "sairlib.files.os.mkdir", "path": "stolen"},  # looks like ours
    {"_target_": "sairlib.run.log.RunLog", "directory": "stolen"},  # a class of ours that writes
    {"_target_": "own_models.make", "path": "stolen"},
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call["_target_"])
def test_a_stored_target_is_never_called(run: Path, place: str, call: dict[str, Any]) -> None:
    for value in (call, [{"x": call}]):
        change(run, place, value)
        with pytest.raises(UserError, match=r"not part of|of a kind that belongs|No module named"):
            sairlib.load(run, trust=["my_models"])
    assert not Path("stolen").exists() and not Path("imported").exists()


def test_of_a_trusted_package_only_classes_are_made(run: Path) -> None:
    change(run, "model", {"_target_": "own_models.Mine"})
    with pytest.raises(UserError, match=r"own_models\.Mine is not part of sairlib.* add trust=\[own_models\]"):
        sairlib.load(run)
    assert not Path("imported").exists()
    with pytest.raises(UserError, match=r"no checkpoint at .*best\.pt"):  # it went on to the weights
        sairlib.load(run, trust=("own_models",))
    assert Path("imported").exists()
    change(run, "model", {"_target_": "own_models.make", "path": "stolen"})
    with pytest.raises(UserError, match="of a kind that belongs"):
        sairlib.load(run, trust=("own_models",))
    with pytest.raises(UserError, match="not part of sairlib"):  # own is not a package that own_models belongs to
        sairlib.load(run, trust=("own",))
    assert not Path("stolen").exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: ${oc.env:SECRET}",
        "a: [{b: 'x ${oc.env:SECRET}'}]",
        'a: "\\u0024{oc.env:SECRET}"',
        "? '${oc.env:SECRET}'\n: 1",
        "a: &a [1, 2]\nb: [*a, *a]",
        "[" * 40 + "]" * 40,
        "a: " + "1" * 5000,
        "a: " + "b" * 300_000,
        "a: !!python/object/apply:os.mkdir [stolen]",
    ],
    ids=lambda text: text[:25],
)
def test_a_stored_configuration_says_all_itself(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml") as caught:
        sairlib.load(run)
    assert "geheim" not in str(caught.value) and not Path("stolen").exists()


@pytest.mark.parametrize(
    "word",
    [
        "++dataset.homepage=${oc.env:SECRET}",
        "++dataset.homepage='${${dataset.url}:SECRET}'",
        "hydra.searchpath=[pkg://own_models]",
        "hydra/launcher=basic",
        "dataset@hydra.x=ml-1m",
    ],
)
def test_a_stored_word_neither_reads_the_environment_nor_changes_hydra(run: Path, word: str) -> None:
    (run / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml([word]))
    with pytest.raises(UserError, match="is not taken from a stored run"):
        stored.words_of(run)
    assert stored.words_of(run, {word.partition("=")[0].lstrip("+")}) == []  # given again on the command line
    (run / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml(["data.root=${oc.env:SAIRLIB_DATA}/x"]))
    assert stored.words_of(run)


def test_resuming_makes_no_stranger_s_object_either(run: Path) -> None:
    words = ["model=sasrec", "++model={_target_:own_models.make,path:stolen}"]
    (run / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml(words))
    with pytest.raises(UserError, match=r"own_models\.make is not part of sairlib"):
        resume.resume(*resume.words_to_resume(["run", "device=cpu"]))
    with pytest.raises(UserError, match="of a kind that belongs"):
        resume.resume(*resume.words_to_resume(["trust=[other,own_models]", "run", "device=cpu"]))
    assert not Path("stolen").exists()


def test_a_stored_address_is_not_downloaded_from_unless_it_is_ours(run: Path) -> None:
    assert stored.settings_of(run).dataset.url.startswith("https://files.grouplens.org/")
    change(run, "dataset.url", "http://localhost/x.zip")
    assert stored.settings_of(run).dataset.url is None
