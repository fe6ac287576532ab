"""What several processes pay to exchange gradients of a large table: only the rows looked up, or the whole table.

    python experiments/bench/exchange.py [--items 1000000] [--width 64] [--steps 20] [--rounds 3]

Two processes with one thread each train SASRec on random histories; the same two again with torch's Adam, whose
gradient is exchanged whole by DistributedDataParallel; and one process with one thread, by rows and whole. Prints
seconds a step: the median over rounds, in which the four take turns.
"""

import argparse
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as multiprocessing

from sairlib.batch import PAD
from sairlib.data.dataset import Dataset
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import leave_one_out
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.sasrec import SASRec
from sairlib.run import distributed
from sairlib.training import optimisers
from sairlib.training.losses import BCE
from sairlib.training.negatives import Uniform
from sairlib.training.objectives import NextItem
from sairlib.training.settings import TrainingSettings
from sairlib.training.trainer import Trainer

N_USERS, LENGTH, BATCH = 5000, 50, 128


def make_trainer(n_items: int, width: int, by_rows: bool) -> Trainer:
    items = np.random.default_rng(1).integers(1, n_items + 1, N_USERS * LENGTH)
    offsets = np.arange(0, len(items) + 1, LENGTH)
    no_categories = np.full((n_items + 1, 0), PAD, np.int64)
    data = Dataset(items, offsets, np.arange(N_USERS), np.arange(1, n_items + 1), no_categories, (), None)
    split = leave_one_out(data)
    store = SequenceStore(split, LENGTH, torch.device("cpu"))
    evaluator = Evaluator(split, store, EvaluationSettings())
    optimisers.RARELY = 0 if by_rows else 2**62
    torch.manual_seed(1)
    model = SASRec(n_items, N_USERS, LENGTH, d=width)
    objective = NextItem(BCE(), Uniform(store, 1), store, BATCH)
    return Trainer(model, objective, store, evaluator, TrainingSettings(batch_size=BATCH), 1, {})


def seconds_a_step(trainer: Trainer, steps: int) -> float:
    trainer.model.train()
    batches = trainer.store.epoch(BATCH, 1, trainer.learner.generator)[: steps + 2]
    for rows in batches[:2]:
        trainer.learner.step(rows)
    start = time.perf_counter()
    for rows in batches[2:]:
        trainer.learner.step(rows)
    return (time.perf_counter() - start) / steps


def process(rank: int, size: int, port: int, by_rows: bool, options: argparse.Namespace, output: str) -> None:
    torch.set_num_threads(1)
    if size > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), **address}
        distributed.join()
    seconds = seconds_a_step(make_trainer(options.items, options.width, by_rows), options.steps)
    if rank == 0:
        Path(output).write_text(str(seconds))
    distributed.leave()


def measure(size: int, by_rows: bool, options: argparse.Namespace) -> float:
    with socket.socket() as free, tempfile.NamedTemporaryFile() as output:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        multiprocessing.spawn(process, (size, port, by_rows, options, output.name), size)
        return float(Path(output.name).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("items", 1_000_000), ("width", 64), ("steps", 20), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    cases: dict[tuple[int, bool], list[Any]] = {(size, rows): [] for size in (1, 2) for rows in (True, False)}
    for _ in range(options.rounds):
        for (size, by_rows), seconds in cases.items():
            seconds.append(measure(size, by_rows, options))
    for (size, by_rows), seconds in cases.items():
        low, high = min(seconds), max(seconds)
        what = "rows alone" if by_rows else "the whole table"
        print(f"{size} of them, {what}: {statistics.median(seconds):.3f} s [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
