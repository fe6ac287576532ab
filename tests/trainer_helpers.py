"""A small data set that a model can learn completely, and a trainer on it."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from objective_helpers import next_item
from small_data import make_dataset
from torch import Tensor

from sairlib.batch import PAD
from sairlib.data.dataset import Dataset
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import leave_one_out
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.sair import SAIR
from sairlib.models.sasrec import SASRec
from sairlib.nn.layers import SelfAttention
from sairlib.run.log import RunLog
from sairlib.training.optimisers import RowAdam
from sairlib.training.requests import Requests
from sairlib.training.settings import TrainingSettings
from sairlib.training.trainer import Trainer

M = 30
IDENTITY = {"model": "SASRec", "data and split": "ring"}


def dataset() -> Dataset:
    """40 users walk round a ring of 30 items, each with their own start and stride."""
    sequences = [(5 * user + (1 + user % 3) * np.arange(6 + user % 9)) % M + 1 for user in range(40)]
    return make_dataset([sequence.tolist() for sequence in sequences], M)


def make_trainer(seed: int = 0, sair: bool = False, dropout: float = 0.2, **settings: Any) -> Trainer:
    split = leave_one_out(dataset())
    store = SequenceStore(split, 8, torch.device("cpu"))
    evaluator = Evaluator(split, store, EvaluationSettings(ks=(10,), n_candidates=10, full=False))
    torch.manual_seed(seed)
    model: SASRec | SAIR = SASRec(M, 40, 8, d=8, n_blocks=1, dropout=dropout)
    if sair:
        encoder = partial(SelfAttention, n_blocks=1)
        none = torch.full((M + 1, 0), PAD)
        model = SAIR(M, 8, none, 0, n_interests=4, top_k=2, d=8, encoder=encoder, dropout=dropout)
    own = {"epochs": 3, "batch_size": 16, "lr": 0.01, "monitor": "sampled/ndcg@10"}
    chosen = TrainingSettings(**{**own, **settings})
    objective = next_item(store, batch_size=chosen.batch_size)
    return Trainer(model, objective, store, evaluator, chosen, seed, IDENTITY)


class Stopping(RunLog):
    """Asks to stop inside the second epoch."""

    requests: Requests

    def progress(self, items: list[Any], title: str) -> Any:
        for i, item in enumerate(items):
            self.requests.stop = title == "epoch 2" and i == 1
            yield item


def row_optimizers(trainer: Trainer) -> list[RowAdam]:
    """The optimiser that updates tables by rows, if there is one."""
    return [optimizer for optimizer in trainer.learner.optimizers if isinstance(optimizer, RowAdam)]


def fit(trainer: Trainer, directory: Path) -> list[dict[str, Any]]:
    """Train; returns the records of metrics.jsonl without their durations."""
    directory.mkdir(exist_ok=True)
    log = RunLog(directory, trainer.progress.epoch, trainer.learner.n_steps)
    try:
        trainer.fit(log)
    finally:
        log.close()
    return records(directory)


def records(directory: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl without their durations."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def losses(records: list[dict[str, Any]]) -> list[float]:
    return [record["train"]["loss"] for record in records if "train" in record]


def tensors(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nested state."""
    if isinstance(state, dict):
        for key in state:
            yield from tensors(state[key], f"{name}.{key}")
    elif isinstance(state, list | tuple):
        for i, value in enumerate(state):
            yield from tensors(value, f"{name}.{i}")
    else:
        yield name, state


def assert_equal(one: Any, other: Any) -> None:
    first, second = dict(tensors(one)), dict(tensors(other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, second[name]), name
        elif not name.endswith(".seconds"):
            assert value == second[name], name
