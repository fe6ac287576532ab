"""What the benchmark measures: a function for each row."""

from collections.abc import Callable
from functools import partial

import rows_own
import rows_peers
from harness import Answer, Bench
from workloads import GAMES, ML_1M

ROWS: dict[str, Callable[[Bench], Answer]] = {
    "epoch-ml-1m": partial(rows_peers.epochs, overrides=ML_1M, n=200, reach=6),
    "epoch-games": partial(rows_peers.epochs, overrides=GAMES, n=50, reach=12),
    "sair": rows_own.sair,
    "models": rows_own.models,
    "evaluation": rows_peers.evaluation,
    "losses": rows_peers.losses,
    "bpr-max": rows_peers.bpr_max,
    "bert4rec": rows_peers.bert4rec,
    "recbole": rows_peers.recbole,
    "target": rows_peers.target,
    "small": rows_peers.small,
    "prepare-20m": rows_own.prepare,
    "train-20m": rows_own.train_20m,
    "million": rows_own.million,
    "start": rows_own.start,
    "commits": rows_own.commits,
    "shares": rows_own.shares,
}
