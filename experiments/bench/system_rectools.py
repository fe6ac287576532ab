"""RecTools' SASRec or BERT4Rec under test. Settings: ``data`` (see harness.py), ``n``, ``d``, ``batch_size``,
``dropout``, ``threads``; optional: ``model`` (SASRec), ``options`` of the model, ``part`` of an epoch (all of it).

Its own fit_partial() trains it; a callback times the epoch from inside.
"""

import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel
from serve import Answer, ndcg, serve

warnings.filterwarnings("ignore")


class Clock(Callback):
    """Times an epoch from inside, so that the overhead around fit() does not count."""

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def make(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(1)
    exchange = np.load(settings["data"])
    users, items = exchange["users"], exchange["items"]
    frame = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0})
    frame[Columns.Datetime] = pd.to_datetime(np.arange(len(frame)), unit="s")
    dataset = Dataset.construct(frame)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            enable_checkpointing=False,
            accelerator="cpu",
            limit_train_batches=settings.get("part", 1.0),
            callbacks=[Clock()],
        )

    options = {"n_heads": 1, "loss": "BCE", "n_negatives": 1, **settings.get("options", {})}
    model = {"SASRec": SASRecModel, "BERT4Rec": BERT4RecModel}[settings.get("model", "SASRec")](
        n_blocks=2,
        n_factors=settings["d"],
        dropout_rate=settings["dropout"],
        session_max_len=settings["n"],
        batch_size=settings["batch_size"],
        lr=0.001,
        get_trainer_func=trainer,
        recommend_torch_device="cpu",
        **options,
    )

    def epoch() -> Answer:
        model.fit_partial(dataset, min_epochs=1, max_epochs=1)
        clock = next(callback for callback in model.fit_trainer.callbacks if isinstance(callback, Clock))  # a copy
        return {"seconds": clock.seconds}

    def tenth() -> Answer:
        """The ``part`` of an epoch, and the estimated time of a whole one."""
        answer = epoch()
        return {**answer, "epoch_seconds": answer["seconds"] / settings["part"]}

    def evaluate() -> Answer:
        """Recommend 20 items to every user, as RecTools' users do; the time excludes the scoring for NDCG below."""
        start = time.perf_counter()
        model.recommend(exchange["eval_users"], dataset, k=20, filter_viewed=True)
        seconds = time.perf_counter() - start
        recommended = model.data_preparator.transform_dataset_u2i(dataset, exchange["eval_users"])
        loader = model.data_preparator.get_dataloader_recommend(recommended, 256)
        user_vectors, item_vectors = model.lightning_model._get_user_item_embeddings(loader, "cpu")
        candidates = exchange["candidates"]
        inside_of = pd.Series(model.data_preparator.item_id_map.to_internal)
        # Items without a training action have no vector in RecTools: they get the padding's.
        inside = torch.from_numpy(inside_of.reindex(candidates.ravel()).fillna(0).to_numpy(np.int64))
        rows = torch.from_numpy(np.asarray(recommended.user_id_map.convert_to_internal(exchange["eval_users"])))
        scores = (user_vectors[rows][:, None] * item_vectors[inside.view(candidates.shape)]).sum(-1).numpy()
        return {"seconds": seconds, "ndcg@10": ndcg(scores)}

    return {"epoch": epoch, "tenth": tenth, "evaluate": evaluate}


if __name__ == "__main__":
    serve(make)
