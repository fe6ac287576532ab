"""Every model that has a yaml in conf/model, made small, with data, an objective and a training batch."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from objective_helpers import batch_of
from omegaconf import DictConfig
from torch import Tensor, nn

from sairlib import build
from sairlib.batch import PAD, Batch
from sairlib.data.dataset import UNKNOWN, index
from sairlib.data.interactions import CATEGORY, ITEM, TIMESTAMP, USER, Interactions
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Split, leave_one_out
from sairlib.models.recommender import Recommender
from sairlib.training.objectives import Objective

CONF = Path(__file__).resolve().parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
MAX_LEN = 8
M = 24
CPU = torch.device("cpu")

every_model = pytest.mark.parametrize("name", MODELS)

UNTRAINED = {"poprec"}
"""Models that only count: nothing to train."""
NO_MEMORY = UNTRAINED | {"attrec", "attrec-inner", "bpr-mf", "fmc", "shan", "sine", "transrec"}
"""Models that see too little of the history, or hold too little, to distinguish all prefixes of all users."""


@cache
def split() -> Split:
    """8 users with 5 to 12 distinct items of 24, and times; items have 1 to 3 of 4 genres, two have none ([UNK])."""
    rng = np.random.default_rng(0)
    actions = [(user, item) for user in range(8) for item in rng.permutation(M)[: 5 + user].tolist()]
    actions += [(8, item) for item in [*range(M), *range(M)]]  # all items: there is no negative for this user
    genres = [(item, f"genre {(item + i) % 4}") for item in range(2, M) for i in range(1 + item % 3)]
    frame = pd.DataFrame(np.array(actions), columns=[USER, ITEM])
    frame[TIMESTAMP] = rng.integers(1, 1000, len(frame)).cumsum()
    dataset = index(Interactions(frame, "made up", pd.DataFrame(genres, columns=[ITEM, CATEGORY])))
    assert dataset.n_items == M and UNKNOWN in dataset.category_names and dataset.item_categories.shape[1] == 3
    return leave_one_out(dataset)


@cache
def config(name: str, *words: str) -> DictConfig:
    """The yaml's settings with two negatives; ``words`` as on the command line."""
    composed = build.compose([f"model={name}", f"max_len={MAX_LEN}", *words])
    if composed.negatives:
        composed.negatives.n = 2
    return composed


def make_model(name: str, seed: int = 0) -> Recommender:
    torch.manual_seed(seed)
    return build.model(config(name), split(), CPU)


def perturbed_model(name: str) -> Recommender:
    """In eval mode, every weight but PAD's moved off its initial value: zero biases and equal gains hide mistakes."""
    model = make_model(name).eval()
    model.prepare(
        1 + torch.randperm(M + 1, generator=torch.Generator().manual_seed(0)),
        store().train_window(store().first_rows(8))[0],
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for table in pad_tables(model):
            table.weight[PAD] = 0
    return model


def pad_tables(model: nn.Module) -> list[nn.Embedding]:
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module.padding_idx == PAD]


def histories(*lengths: int, width: int = MAX_LEN) -> Tensor:
    """Right-padded histories (B, width) of distinct items."""
    rows = [torch.randperm(M, generator=torch.Generator().manual_seed(length))[:length] + 1 for length in lengths]
    return torch.stack([nn.functional.pad(row, (0, width - len(row))) for row in rows])


@cache
def store() -> SequenceStore:
    return SequenceStore(split(), MAX_LEN, CPU)


@cache
def objective(name: str, *words: str) -> Objective:
    """The yaml's objective with two negatives; all users are one batch."""
    return build.objective(config(name, *words), store(), batch_size=16)


def training_batch(name: str, seed: int = 0) -> Batch:
    return batch_of(objective(name), store().train_users, seed)


def loss(name: str, model: Recommender, batch: Batch) -> Tensor:
    return torch.stack(list(objective(name).loss(model, batch).values())).sum()
