"""sairlib under test. Settings: ``overrides`` (of the train command), ``threads``; optional: ``only`` = split,
``batches`` of a short epoch, ``eval_users`` to evaluate on at most."""

import math
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from serve import Answer, serve
from torch import nn
from torch.profiler import profile

import sairlib
from sairlib import build, runtime
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part
from sairlib.evaluator import EvaluationSettings, Evaluator
from sairlib.nn.attention import CausalAttention
from sairlib.objectives import NextItem
from sairlib.runlog import RunLog
from sairlib.trainer import Trainer, TrainingSettings

OPERATORS = {
    "matrix products": ("mm", "addmm", "addmm_", "bmm", "baddbmm_"),
    "optimizer": ("_fused_adam_",),
    "elementwise": ("mul", "mul_", "add", "add_", "sub_", "clamp_", "clamp_min", "threshold_backward"),
    "softmax": ("_softmax", "_softmax_backward_data"),
    "normalisation": ("native_layer_norm", "native_layer_norm_backward"),
    "lookups": ("index_select", "index_add_", "index", "searchsorted", "scatter_add_", "embedding"),
    "random": ("random_", "randint"),
    "copies and zeros": ("copy_", "cat", "fill_", "zero_", "empty", "empty_strided"),
}

CONF = Path(sairlib.__file__).parents[2] / "conf"


def config_of(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=overrides)


def trainer_of(overrides: list[str]) -> Trainer:
    """As the train command builds it."""
    config = config_of(overrides)
    device = runtime.choose_device(config.device)
    runtime.seed_everything(config.seed)
    if hasattr(runtime, "keep_freed_memory"):  # older commits, in the table over our own, have it not
        runtime.keep_freed_memory()
    training = build.settings(config, "training", TrainingSettings)
    split = build.split(config)
    model = build.model(config, split, device)
    store = SequenceStore(split, config.max_len, device)
    evaluator = Evaluator(split, store, build.settings(config, "evaluation", EvaluationSettings))
    if hasattr(build, "objective"):
        objective = build.objective(config, store, training)
    else:  # older commits
        objective = NextItem(training.n_negatives, store.steps_per_batch(training.batch_size))
    return Trainer(model, objective, store, evaluator, training, config.seed, {})


def flops_of_an_epoch(trainer: Trainer) -> dict[str, float]:
    """Operations of an epoch's matrix products over real steps: for each weight and step 2 forwards and 4 backwards.

    ``needed`` counts the causal half of attention, ``quoted`` all of it, as utilisation is mostly given.
    """
    store, model = trainer.store, trainer.model
    steps_U = (store.train_lengths[store.train_rows] - 1).clamp(max=store.max_len).double()
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    scored = (1 + trainer.settings.n_negatives) * model.encoder.item_embedding.embedding_dim
    attended = sum(layer.query_key_value.in_features for layer in model.modules() if isinstance(layer, CausalAttention))
    others = 6 * (weights + scored) * steps_U.sum()
    needed = others + 6 * attended * (steps_U * (steps_U + 1)).sum()  # step t: t scores and t summands of that width
    return {"needed": float(needed), "quoted": float(others + 12 * attended * steps_U.square().sum())}


class Curves(RunLog):
    """Keeps the speed that the trainer reports."""

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        if group == "speed":
            self.speed = values


def make(asked: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(asked["threads"])
    if asked.get("only") == "split":
        config = config_of(asked["overrides"])
        return {"split": lambda: {"split_sha256": build.split(config).sha256()}}
    trainer = trainer_of(asked["overrides"])
    store = trainer.store
    if "eval_users" in asked:
        store.eval_users = store.eval_users[: asked["eval_users"]]

    def epoch(batches: int | None = None) -> Answer:
        """One epoch of the trainer's own loop, or only its first batches."""
        if batches is not None:
            store.epoch = lambda *given: SequenceStore.epoch(store, *given)[:batches]  # type: ignore[method-assign]
            trainer.steps_per_epoch = batches
        with TemporaryDirectory() as folder, closing(Curves(Path(folder))) as log:
            start = time.perf_counter()
            trainer._train_epoch(log)
            trainer.progress.epoch += 1
            seconds = time.perf_counter() - start
        return {"seconds": seconds, **log.speed}

    def tenth() -> Answer:
        """A tenth of an epoch, and what a whole one would take."""
        whole = math.ceil(len(store.train_rows) / trainer.settings.batch_size)
        batches = math.ceil(whole / 10)
        answer = epoch(batches)
        return {**answer, "epoch_seconds": answer["seconds"] * whole / batches}

    def evaluate() -> Answer:
        start = time.perf_counter()
        ranks = trainer.evaluator.rank(trainer.model, Part.VALIDATION)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "ndcg@10": ranks["sampled"].means((10,))["ndcg@10"]}

    def matmul() -> Answer:
        """The machine's speed at large fp32 matrix products, in products of an epoch's size."""
        a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        return {"flops_per_second": 4 * 2 * 2048**3 / (time.perf_counter() - start)}

    def shares() -> Answer:
        """The first batches of an epoch: a step's time and operators, and what share of their time goes to which."""
        batches = store.epoch(trainer.settings.batch_size, trainer.settings.length_window, trainer.generator)[:20]
        trainer.model.train()
        for rows in batches:
            trainer._step(rows)
        start = time.perf_counter()
        for rows in batches:
            trainer._step(rows)
        seconds = time.perf_counter() - start
        with profile() as found:
            for rows in batches:
                trainer._step(rows)
        own = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in found.key_averages()}
        grouped = {group: sum(own.get(name, 0.0) for name in names) for group, names in OPERATORS.items()}
        grouped["autograd and all others"] = sum(own.values()) - sum(grouped.values())
        calls = sum(event.count for event in found.key_averages() if event.key.startswith("aten::"))
        return {
            "milliseconds_a_step": round(1e3 * seconds / len(batches), 2),
            "operators_a_step": calls // len(batches),
            "shares": {group: round(value / sum(own.values()), 2) for group, value in grouped.items()},
        }

    return {
        "epoch": epoch,
        "shares": shares,
        "tenth": tenth,
        "few": partial(epoch, asked.get("batches", 30)),
        "evaluate": evaluate,
        "matmul": matmul,
        "flops": lambda: flops_of_an_epoch(trainer),
    }


if __name__ == "__main__":
    serve(make)
