"""Check sairlib on a GPU against the CPU, and time it there. The table names the date and the GPU.

    python experiments/bench/gpu.py                      all rows on cuda, into GPU.md and gpu.json
    python experiments/bench/gpu.py --device cpu --few 2  a test of every row without a GPU

Needs the real data sets under SAIRLIB_DATA; writes the generated one under ``--work``.
"""

import argparse
import json
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import generate
import torch
from system_sairlib import Curves, study_of
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_map

from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part
from sairlib.run import runtime
from sairlib.training.trainer import Trainer

HERE = Path(__file__).parent
SAIR_TABLE2 = [
    "training.batch_size=256",
    "training.betas=[0.9,0.999]",
]  # the settings of that protocol that affect speed
SASREC = ["dataset=ml-1m-sasrec", "model=sasrec", "max_len=200", "model.d=64"]
SAIR = ["dataset=ml-1m", *SAIR_TABLE2, "max_len=150", "model.d=64", "model=sair"]
ML_20M = ["dataset=ml-20m", *SAIR_TABLE2, "max_len=150", "model.d=64", "model=sasrec"]
VARIANTS = {
    "fp32": [],
    "bf16": ["training.precision=bf16"],
    "bf16, compiled": ["training.precision=bf16", "training.compile=true"],
}


def epoch(trainer: Trainer, batches: int | None = None) -> dict[str, float]:
    """One epoch, or its first ``batches``: seconds of wall time, and the speed that the trainer reports."""
    if batches is not None:
        trainer.store.epoch = lambda *arguments: SequenceStore.epoch(trainer.store, *arguments)[:batches]  # type: ignore[method-assign]
    with TemporaryDirectory() as folder, closing(Curves(Path(folder))) as log:
        start = time.perf_counter()
        trainer.train_epoch(log)
        trainer.epoch = None
        seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 3), "tokens_per_second": round(log.speed["tokens_per_second"])}


def kernels(trainer: Trainer, batches: int) -> dict[str, Any]:
    """The share of wall time spent in kernels, over a few batches, and the kernels that take the most time."""
    cuda = trainer.store.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        wall = epoch(trainer, batches)["seconds"]
    times = {
        e.key: (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1e6 for e in profiler.key_averages()
    }
    top = sorted(times, key=lambda key: -times[key])[:5]
    share = round(sum(times.values()) / wall, 2)
    return {"kernel_share": share, "top": {key[:60]: round(times[key], 4) for key in top}}


def agreement(device: str) -> dict[str, float]:
    """Losses of the same three batches without dropout, on this device and on the CPU: the largest relative difference.

    Generators of different devices draw different negatives, so both use negatives drawn on the CPU.
    """
    overrides = ["dataset=ml-100k", "model=sasrec", "model.dropout=0"]
    ours, theirs = (study_of([*overrides, f"device={name}"]).trainer for name in ("cpu", device))
    theirs.model.load_state_dict(ours.model.state_dict())
    gap = 0.0
    for rows in ours.store.epoch(128, 1, torch.Generator().manual_seed(1))[:3]:
        [(batch, _)] = ours.learner.objective.batches(rows, torch.Generator().manual_seed(2))
        losses = []
        for trainer, where in ((ours, "cpu"), (theirs, device)):
            moved = tree_map(lambda part: part.to(where) if isinstance(part, torch.Tensor) else part, batch)  # noqa: B023
            parts = trainer.learner.objective.loss(trainer.model.train(), moved)
            losses.append(float(torch.stack(list(parts.values())).sum().detach()))
        gap = max(gap, abs(losses[1] / losses[0] - 1))
    return {"largest_relative_gap": gap}


def evaluation(trainer: Trainer) -> dict[str, float]:
    """Seconds of full ranking of all users; the first of two runs warms up."""
    for _ in range(2):
        start = time.perf_counter()
        trainer.evaluator.rank(trainer.model, Part.VALIDATION)
        seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 3),
        "users": trainer.store.n_targets(Part.VALIDATION),
        "items": trainer.store.n_items,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--few", type=int, help="time this many batches instead of an epoch")
    parser.add_argument("--users", type=int, default=138_493, help="of the generated data set")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    arguments = parser.parse_args()
    on = [f"device={arguments.device}"]
    rows: dict[str, Any] = {"agreement with the CPU": agreement(arguments.device)}
    for name, overrides in (("SASRec, ml-1m-sasrec", SASREC), ("SAIR, ml-1m", SAIR)):
        for variant, settings in VARIANTS.items():
            trainer = study_of([*overrides, *settings, *on]).trainer
            epoch(trainer, arguments.few)  # warm-up and compilation
            rows[f"{name}, {variant}"] = epoch(trainer, arguments.few) | kernels(trainer, 10)
            print(name, variant, rows[f"{name}, {variant}"], flush=True)
    folder = (arguments.work / f"generated-{arguments.users}" / "ml-20m").resolve()
    if not (folder / "ratings.csv").exists():
        generate.write(folder, arguments.users, 26_744, 144 * arguments.users, 20, seed=1)
    data = [f"data.root={folder.parent}", f"data.cache={arguments.work.resolve() / 'cache'}"]
    ranked = ["evaluation.n_candidates=0", "evaluation.batch_size=2048", "training.monitor=full/ndcg@10"]
    settings = ["training.batch_size=1024", "training.precision=bf16"]
    trainer = study_of([*ML_20M, *data, *ranked, *settings, *on]).trainer
    epoch(trainer, arguments.few or 40)
    rows["ML-20M's shape, n 150, batch 1024, bf16"] = epoch(trainer, arguments.few or 40) | kernels(trainer, 10)
    rows["full ranking, ML-20M's shape"] = evaluation(trainer)
    record = {**runtime.describe(torch.device(arguments.device)), "date": time.strftime("%Y-%m-%d"), "rows": rows}
    if arguments.device != "cpu":
        (HERE / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
        lines = [f"# {record['machine']['accelerator']}, {record['date']}", "", "| row | figures |", "|---|---|"]
        lines += [f"| {name} | {json.dumps(figures)} |" for name, figures in rows.items()]
        (HERE / "GPU.md").write_text("\n".join(lines) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
