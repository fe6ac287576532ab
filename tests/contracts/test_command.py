"""Every model runs through the whole command: train, select, test, save, and evaluate again from its files alone."""

import math
from collections.abc import Iterator

import pytest
from all_models import MODELS, UNTRAINED, every_model
from command_helpers import RUN_FILES, Commands, actions_with_new_last_items, contents, epochs, figures, write_data

pytestmark = pytest.mark.skipif(not MODELS, reason="needs a checkout: the names come from its conf/")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    home = tmp_path_factory.mktemp("commands")
    write_data(home, actions_with_new_last_items())
    with pytest.MonkeyPatch.context() as patch:
        yield Commands(home, patch)


@every_model
def test_the_whole_command(name: str, commands: Commands, capfd: pytest.CaptureFixture[str]) -> None:
    run = commands.train(name, f"model={name}", "training.epochs=2")
    out, err = capfd.readouterr()
    assert err == "" and "ndcg@10" in out
    before = contents(run)
    assert {file for file in before if "tfevents" not in file} == RUN_FILES and len(before) == len(RUN_FILES) + 1

    losses = [epoch["loss"] for epoch in epochs(run)]
    assert all(map(math.isfinite, losses))
    assert len(losses) == (1 if name in UNTRAINED else 2) == len(set(losses)), "an epoch that changed nothing"
    result = figures(run / "test.json")
    assert result["n_users"] == 40
    for ranking in ("sampled", "full"):
        assert 0 < result[ranking]["mrr"] < 1 and result[ranking]["ndcg@10"] <= result[ranking]["hr@10"]

    assert commands.evaluate(name).read_text() == (run / "test.json").read_text()
    assert contents(run) == before


def test_the_best_weights_are_tested_not_the_last(commands: Commands) -> None:
    """Items in no training part are ranked worse with every epoch, so an early epoch is the best."""
    words = ("model=sasrec", "training.lr=0.01")
    run = commands.train("best", *words, "training.epochs=4")
    result = figures(run / "test.json")
    assert result["best_epoch"] < 4, "the last epoch is the best: nothing was compared"
    assert figures(commands.evaluate("best")) == result
    stopped = commands.train("stopped", *words, f"training.epochs={result['best_epoch']}")
    assert figures(stopped / "test.json") == result
