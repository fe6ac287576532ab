"""sairlib under test. Settings: ``overrides`` (of the train command), ``threads``; optional: ``only`` = split,
``batches`` (how many a short epoch has), ``eval_users`` (evaluate on this many at most)."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from serve import Answer, serve
from torch import nn
from torch.profiler import profile

from sairlib import build
from sairlib.data.split import Part
from sairlib.nn.attention import CausalAttention
from sairlib.run.log import RunLog
from sairlib.run.study import Study
from sairlib.training.trainer import Trainer

OPERATORS = {
    "matrix products": ("mm", "addmm", "addmm_", "bmm", "baddbmm_"),
    "optimizer": ("_fused_adam_",),
    "elementwise": (
        *("mul", "mul_", "add", "add_", "sub", "sub_", "clamp_", "clamp_min", "threshold_backward", "sigmoid_"),
        *("addcmul", "addcmul_", "masked_fill", "masked_fill_", "where", "gt", "ge"),
    ),
    "sums": ("sum", "logsumexp"),
    "softmax": ("_softmax", "_softmax_backward_data"),
    "normalisation": ("native_layer_norm", "native_layer_norm_backward"),
    "lookups": (
        "index_select",
        "index_add_",
        "index",
        "gather",
        "searchsorted",
        "scatter_",
        "scatter_add_",
        "embedding",
    ),
    "random": ("random_", "randint"),
    "copies and zeros": ("copy_", "cat", "fill_", "zero_", "empty", "empty_strided"),
}


def study_of(overrides: list[str]) -> Study:
    """The study that the train command would build."""
    return build.study(build.compose(overrides), "", {})


def flops_of_an_epoch(trainer: Trainer) -> dict[str, float]:
    """Operations of an epoch's matrix products over real steps: 2 forwards and 4 backwards for each weight and step.

    ``needed`` counts the causal half of attention, ``quoted`` all of it, as papers usually do.
    """
    store, model = trainer.store, trainer.model
    steps_U = (store.train_lengths[store.train_users] - 1).clamp(max=store.max_len).double()
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    sampler = trainer.learner.objective.sampler
    scored = (1 + (sampler.n if sampler else 0)) * model.encoder.item_embedding.embedding_dim
    attended = sum(layer.query_key_value.in_features for layer in model.modules() if isinstance(layer, CausalAttention))
    linear = 6 * (weights + scored) * steps_U.sum()
    needed = linear + 6 * attended * (steps_U * (steps_U + 1)).sum()  # step t: t scores and t summands of that width
    return {"needed": float(needed), "quoted": float(linear + 12 * attended * steps_U.square().sum())}


class Curves(RunLog):
    """Keeps the speed that the trainer reports."""

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        if group == "speed":
            self.speed = values


def make(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    if settings.get("only") == "split":
        config = build.compose(settings["overrides"])
        return {"split": lambda: {"split_sha256": build.split(config).sha256()}}
    trainer = study_of(settings["overrides"]).trainer
    learner, store = trainer.learner, trainer.store
    objective, all_batches = learner.objective, learner.objective.epoch
    if "eval_users" in settings:
        for part, (users_E, positions_E) in store._targets.items():
            store._targets[part] = users_E[: settings["eval_users"]], positions_E[: settings["eval_users"]]

    def epoch(batches: int | None = None) -> Answer:
        """One epoch of the trainer's own loop, or its first ``batches``."""
        if batches is not None:
            few = range(min(batches, trainer.steps_per_epoch))
            objective.epoch = lambda *arguments: list(map(all_batches(*arguments).__getitem__, few))  # type: ignore[method-assign]
        with TemporaryDirectory() as folder, closing(Curves(Path(folder))) as log:
            start = time.perf_counter()
            trainer.train_epoch(log)
            trainer.epoch = None
            seconds = time.perf_counter() - start
        return {"seconds": seconds, **log.speed}

    def tenth() -> Answer:
        """A tenth of an epoch, and the estimated time of a whole one."""
        whole = trainer.steps_per_epoch
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

    def shares(times: int, work: Callable[[], object]) -> Answer:
        """What ``work`` does ``times``: time and operators of one, and the share of each group of operators."""
        work()
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        with profile() as profiler:
            work()
        events = profiler.key_averages()
        own = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in events}
        grouped = {group: sum(own.get(name, 0.0) for name in names) for group, names in OPERATORS.items()}
        grouped["autograd and all others"] = sum(own.values()) - sum(grouped.values())
        calls = sum(event.count for event in events if event.key.startswith("aten::"))
        return {
            "milliseconds": round(1e3 * seconds / times, 2),
            "operators": calls // times,
            "shares": {group: round(value / sum(own.values()), 2) for group, value in grouped.items()},
        }

    def shares_of_steps() -> Answer:
        """Of the first batches of an epoch."""
        trainer.model.train()
        batches = list(islice(all_batches(trainer.settings.length_window, learner.generator), 5))
        return shares(len(batches), lambda: [learner.step(rows) for rows in batches])

    return {
        "epoch": epoch,
        "shares": shares_of_steps,
        "shares of ranking": lambda: shares(1, evaluate),
        "tenth": tenth,
        "few": partial(epoch, settings.get("batches", 30)),
        "evaluate": evaluate,
        "matmul": matmul,
        "flops": lambda: flops_of_an_epoch(trainer),
    }


if __name__ == "__main__":
    serve(make)
