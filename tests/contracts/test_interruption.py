"""Every model that is stopped inside an epoch, and resumed, ends with the weights and figures of one that is not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from all_models import MODELS, UNTRAINED
from command_helpers import actions_with_new_last_items, figures, write_data
from trainer_helpers import assert_equal, records

import sairlib
from sairlib.errors import Stopped
from sairlib.resume import resume
from sairlib.run import checkpoint

pytestmark = pytest.mark.skipif(not MODELS, reason="needs a checkout: the names come from its conf/")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("data")
    write_data(home, actions_with_new_last_items())
    return home


CHOICES = "sair model.choice_noise=1 model.balance_weight=0.1 model.pool_start=kmeans training.ema=0.9"
"""What an option remembers between steps, or draws, is of the state, too."""
PARTS = "sair model/encoder=hstu model.encoder.time_bias=false model/head=cosines"
"""A stored run may name parts of a model: a class, and a function that makes one."""
SESSIONS = "gru4rec objective=session_parallel negatives=popular negatives.n=8 model.n_layers=2"
"""An objective may carry a state from batch to batch."""
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: none has run this yet")


@pytest.fixture
def kernels_put_back() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("name", [name for name in [*MODELS, CHOICES, PARTS, SESSIONS] if name not in UNTRAINED])
def test_a_model_is_resumed_inside_an_epoch_to_the_last_bit(
    name: str, device: str, data: Path, tmp_path: Path, kernels_put_back: None
) -> None:
    words = (
        *f"model={name}".split(),
        *(f"data.root={data / 'data'}", f"data.cache={data / 'cache'}", "max_len=8"),
        *(f"device={device}", "deterministic=true"),  # on a CPU too: nothing that a model does there refuses it
        *("training.epochs=2", "training.batch_size=16", "evaluation.n_candidates=5"),
    )
    sairlib.study(*words).run(tmp_path / "whole")
    study = sairlib.study(*words)
    learner = study.trainer.learner
    step, n = learner.step, study.trainer.steps_per_epoch

    def stopping(rows: Any) -> Any:
        study.trainer.requests.stop = learner.n_steps == n + 1
        return step(rows)

    learner.step = stopping  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        study.run(tmp_path / "twice")
    state = checkpoint.load(tmp_path / "twice" / "last.pt")
    assert (state["step"], state["epoch"]["done"]) == (n + 2, 2) and n > 2
    resume(tmp_path / "twice", [])
    for file in ("best.pt", "last.pt"):
        assert_equal(*(checkpoint.load(tmp_path / run / file) for run in ("twice", "whole")))
    assert figures(tmp_path / "twice" / "test.json") == figures(tmp_path / "whole" / "test.json")
    assert records(tmp_path / "twice") == records(tmp_path / "whole")
