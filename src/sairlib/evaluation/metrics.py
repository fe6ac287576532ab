"""Metrics of ranks. Each is the expectation over a random order of tied items.

``better`` (E) is how many candidates score above each target, ``tied`` (E) how many score equal to it. If all orders
of tied items are equally likely, the rank is uniform over better + 1 .. better + tied + 1. Without ties these are the
usual formulas. A model that gives all items the same score gets exactly what chance gives.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _expected(gain_of_rank: Callable[[Floats], Floats], better: Ints, tied: Ints) -> Floats:
    worst = int((better + tied).max(initial=0)) + 1
    total = np.concatenate([[0.0], np.cumsum(gain_of_rank(np.arange(1, worst + 1, dtype=np.float64)))])
    # Without ties use the gain itself: a difference of sums would have a rounding error.
    gain = gain_of_rank((better + 1).astype(np.float64))
    return np.where(tied == 0, gain, (total[better + tied + 1] - total[better]) / (tied + 1))


def hr(better: Ints, tied: Ints, k: int) -> Floats:
    """HR@k of each target (E): 1 if its rank is at most k. With one target a user this is Recall@k."""
    return _expected(lambda rank: (rank <= k).astype(np.float64), better, tied)


def ndcg(better: Ints, tied: Ints, k: int) -> Floats:
    """NDCG@k of each target (E): 1 / log2(rank + 1) if rank <= k, else 0. The ideal DCG of one target is 1."""
    return _expected(lambda rank: np.where(rank <= k, 1 / np.log2(rank + 1), 0.0), better, tied)


def mrr(better: Ints, tied: Ints) -> Floats:
    """Reciprocal rank of each target (E), without a cut-off."""
    return _expected(lambda rank: 1 / rank, better, tied)


def all_metrics(better: Ints, tied: Ints, ks: tuple[int, ...]) -> dict[str, Floats]:
    """Every metric of every target (E), by its name in the results: ``hr@10``, ``ndcg@10``, ..., ``mrr``."""
    values = {f"hr@{k}": hr(better, tied, k) for k in ks}
    values |= {f"ndcg@{k}": ndcg(better, tied, k) for k in ks}
    return values | {"mrr": mrr(better, tied)}
