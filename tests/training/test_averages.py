"""Averaged weights: the average itself, and that they, not the last weights, are measured and kept."""

from pathlib import Path

import pytest
import torch
from trainer_helpers import fit, make_trainer

from sairlib.data.split import Part
from sairlib.errors import UserError
from sairlib.run import checkpoint


def test_the_best_weights_are_the_averages_and_are_what_validation_saw(tmp_path: Path) -> None:
    trainer = make_trainer(ema=0.9, epochs=2)
    learner, expected = trainer.learner, {n: w.detach().clone() for n, w in trainer.model.named_parameters()}
    whole = learner.step

    def stepping(rows: object) -> object:
        result = whole(rows)  # type: ignore[arg-type]
        decay = min(0.9, (1 + learner.n_steps) / (10 + learner.n_steps))
        for name, weight in trainer.model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach()
        return result

    learner.step = stepping  # type: ignore[assignment, method-assign]
    records = fit(trainer, tmp_path)
    last, best = (checkpoint.load(tmp_path / f"{name}.pt")["model"] for name in ("last", "best"))
    assert trainer.progress.best_epoch == 2, "else best.pt is older than the averages here"
    for name, average in expected.items():
        torch.testing.assert_close(best[name], average)
        assert torch.equal(last[name], trainer.model.get_parameter(name)), "training goes on with the weights"
    assert not torch.equal(best["encoder.item_embedding.weight"], last["encoder.item_embedding.weight"])
    trainer.model.load_state_dict(best)
    means = trainer.evaluator.rank(trainer.model, Part.VALIDATION)["sampled"].means((10,))
    assert means["ndcg@10"] == records[-2]["validation"]["sampled/ndcg@10"]


def test_a_model_has_its_own_weights_again_after_an_error() -> None:
    trainer = make_trainer(ema=0.9)
    averages, weight = trainer.learner.averages, next(trainer.model.parameters())
    assert averages is not None
    own = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)

    def failing() -> None:
        with averages.in_place():
            assert torch.equal(weight, own)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert torch.equal(weight, own + 1)


def test_a_decay_out_of_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"training\.ema=1\.0: must be in \[0, 1\)"):
        make_trainer(ema=1.0)
