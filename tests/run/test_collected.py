"""Which runs are the same system, and how systems are named."""

from pathlib import Path
from typing import Any

import pytest

from sairlib.errors import UserError
from sairlib.run.collected import Finished, systems


def run(seed: int = 1, **settings: Any) -> Finished:
    """A run of SASRec; in settings, _ stands for the dot after ``model`` or ``training``."""
    own = {name.replace("_", ".", 1): value for name, value in settings.items()}
    target = {"model._target_": "sairlib.models.sasrec.SASRec", "training.lr": 0.001, "model.n_blocks": 2}
    return Finished(Path("/"), {"seed": seed, **target, **own}, {}, {"dataset": "ml-1m"}, ())


def named(*runs: Finished) -> dict[str, int]:
    return {system.name: len(system.runs) for system in systems(runs)}


def test_a_run_older_than_an_option_is_of_the_same_system_as_one_with_its_default() -> None:
    runs = run(1), run(2, model_gated=False, model_ffn_width=None, training_ema=0.0), run(3, model_ffn_width=99)
    assert named(*runs) == {"SASRec ffn_width=None": 2, "SASRec ffn_width=99": 1}


def test_what_most_systems_have_in_common_is_not_in_their_names() -> None:
    changed = ({"model_n_blocks": 3}, {"training_ema": 0.9}, {"model_dropout": 0.5, "model_d": 7})
    assert named(run(), run(2), *(run(**words) for words in changed)) == {
        "SASRec": 2,
        "SASRec n_blocks=3": 1,
        "SASRec training.ema=0.9": 1,
        "SASRec d=7 dropout=0.5": 1,
    }


def test_a_target_that_is_gone_has_no_defaults_and_the_same_seed_twice_is_refused() -> None:
    gone = {"model__target_": "sairlib.models.nowhere.Model"}
    assert named(run(**gone), run(2, **gone, model_d=50)) == {"Model": 1, "Model d=50": 1}
    with pytest.raises(UserError, match="are the same system with the same seed"):
        systems([run(1), run(1)])
