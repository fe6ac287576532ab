"""The examples of docs/extending.md train for an epoch, and compute what they say."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_helpers import call

import sairlib
from sairlib import resume, train

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
OWN = "hydra.searchpath=[file://conf]"
WORDS = (OWN, "dataset=plays", "model=decay", "model.d=4", "training.epochs=1", "training.batch_size=8", "device=cpu")
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs a checkout: the wheel has no docs/")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the examples to work in; their package can be imported."""
    shutil.copytree(EXAMPLES, tmp_path / "own")
    monkeypatch.setenv("SAIRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # put back after the test: the command sets it
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path / "own")
    yield tmp_path / "own"
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_parts"]:
        del sys.modules[name]  # the next test has another copy


def test_the_model_loss_and_reader_train_together_and_load_if_trusted(here: Path) -> None:
    result = sairlib.study(*WORDS, "loss=focal").run("run")
    assert result.best_epoch == 1 and result.test["n_users"] == 20
    with pytest.raises(sairlib.UserError, match=r"trust=\[my_parts\]"):
        sairlib.load("run")
    run = sairlib.load("run", trust=["my_parts"])
    assert run.test() == result.test
    assert len(run.recommend(users=[3], k=5)) == 5


def test_a_run_with_settings_of_one_s_own_is_resumed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sairlib.study(*WORDS).run("run")
    more = ("run", "trust=[my_parts]", "training.epochs=2")
    assert call(resume.main, monkeypatch, *more) == 1
    assert "give hydra.searchpath=... again" in capfd.readouterr().err
    assert call(resume.main, monkeypatch, *more, OWN) == 0
    assert "epoch   2" in capfd.readouterr().out
    again = [word.replace("epochs=1", "epochs=3") for word in WORDS]
    assert call(train.main, monkeypatch, *again, "run_dir=run", "resume=auto") == 0
    assert "epoch   3" in capfd.readouterr().out
    assert "searchpath" not in Path("run/.hydra/overrides.yaml").read_text()


def test_the_model_is_its_formula(here: Path) -> None:
    from my_parts.model import Decay

    model = Decay(n_items=9, d=4)
    items_BN = torch.tensor([[3, 1, 4, 1], [5, 9, 0, 0]])
    states_BND = model.encode(sairlib.History(torch.zeros(2), items_BN))
    a, vectors = torch.sigmoid(model.logit), model.items.weight
    for row, items in enumerate([[3, 1, 4, 1], [5, 9]]):
        for t in range(len(items)):
            expected_D = sum(a ** (t - s) * vectors[items[s]] for s in range(t + 1))
            torch.testing.assert_close(states_BND[row, t], expected_D)


def test_the_loss_without_focus_is_bce(here: Path) -> None:
    from my_parts.loss import Focal

    from sairlib.training.losses import BCE

    scores = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 4.0, 0.0]])
    counts, none = torch.tensor([[True, True, False], [True, True, True]]), torch.zeros(2)
    torch.testing.assert_close(Focal(gamma=0.0).cost(scores, counts, none), BCE().cost(scores, counts, none))
    focused, plain = Focal(gamma=2.0).cost(scores, counts, none), BCE().cost(scores, counts, none)
    assert (focused < plain).all() and focused[0] < 0.1 * plain[0] and focused[1] > 0.8 * plain[1]


def test_a_bad_line_for_the_reader_is_one_clear_line(here: Path) -> None:
    with Path("data/plays/plays.jsonl").open("a") as file:
        file.write('{"who": 1, "song": 2}\n')
    with pytest.raises(sairlib.UserError, match=r"plays\.jsonl, line 161: not a play"):
        sairlib.study(*WORDS)


def test_the_metric_is_its_mean_over_the_ranks_that_ties_leave_open(here: Path) -> None:
    from my_parts.metric import rank_biased

    from sairlib.evaluation.rankings import Ranks

    better_E, tied_E = np.array([0, 3, 1]), np.array([0, 0, 4])
    open_to_chance = [range(b + 1, b + t + 2) for b, t in zip(better_E, tied_E, strict=True)]
    expected = [np.mean([0.2 * 0.8 ** (rank - 1) for rank in ranks]) for ranks in open_to_chance]
    assert rank_biased(Ranks(better_E, tied_E)) == pytest.approx(expected)
