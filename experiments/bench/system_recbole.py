"""RecBole under test. Settings: ``data`` (see harness.py), ``n``, ``threads``, RecBole's name of the ``model``, and
``config``: what else RecBole is told.

RecBole makes every prefix a separate sample, so ``batch_size`` is its default of 2,048 prefixes.
"""

import logging
import time
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from serve import Answer, serve

BATCHES = 10


def make(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    exchange = np.load(settings["data"])
    folder = Path(mkdtemp()) / "given"
    folder.mkdir()
    columns = {"user_id:token": exchange["sequence_users"], "item_id:token": exchange["sequence_items"]}
    frame = pd.DataFrame(columns)
    frame["timestamp:float"] = np.arange(len(frame))
    frame.to_csv(folder / "given.inter", sep="\t", index=False)
    config = Config(
        model=settings["model"],
        dataset="given",
        config_dict={
            "data_path": str(folder.parent),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": settings["n"],
            **settings["config"],
            "loss_type": "BPR",
            "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "uni100"},
            "metrics": ["NDCG", "Hit"],
            "valid_metric": "NDCG@10",
            "use_gpu": False,
            "show_progress": False,
            "checkpoint_dir": str(folder),
        },
    )
    init_seed(1, True)
    logging.disable(logging.CRITICAL)
    training, validation, _ = data_preparation(config, create_dataset(config))
    model = get_model(settings["model"])(config, training.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], settings["model"])(config, model)
    epochs_done = 0

    def epoch() -> Answer:
        nonlocal epochs_done
        trainer._train_epoch(training, epochs_done)
        epochs_done += 1
        return {}

    def few() -> Answer:
        """The first batches of an epoch, and how many batches an epoch has."""
        start = time.perf_counter()
        trainer._train_epoch(list(islice(training, BATCHES)), 0)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "batches": BATCHES, "epoch_batches": len(training)}

    def evaluate() -> Answer:
        return {"ndcg@10": float(trainer._valid_epoch(validation)[1]["ndcg@10"])}

    return {"epoch": epoch, "few": few, "evaluate": evaluate}


if __name__ == "__main__":
    serve(make)
