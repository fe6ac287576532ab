"""How many of a user's best items an index of neighbours finds, and how fast: HNSW (faiss) beside exact products.

    python -m sairlib.export run=DIR format=vectors out=vectors
    python experiments/ann.py vectors [--users 2000] [--links 32]

Needs ``pip install 'sairlib[ann]'``. One thread. Every user is asked about alone, as a server would, and in one batch.
Recall@k: the share of the exact k best that is among the k found.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

KS = (10, 100)
WIDTHS = (16, 64, 256)
"""Candidates that HNSW keeps while it searches (efSearch): more find more and take longer."""

Floats = NDArray[np.float32]
Search = Callable[[Floats], NDArray[np.int64]]


def exact(items_MD: Floats, k: int) -> Search:
    """Products with all items, and the k best of them."""
    transposed_DM = np.ascontiguousarray(items_MD.T)

    def search(users_BD: Floats) -> NDArray[np.int64]:
        scores_BM = users_BD @ transposed_DM
        best_BK = np.argpartition(-scores_BM, k - 1, axis=1)[:, :k]
        order_BK = np.argsort(-np.take_along_axis(scores_BM, best_BK, 1), axis=1)
        return np.take_along_axis(best_BK, order_BK, 1)

    return search


def neighbours(index: faiss.IndexHNSWFlat, width: int, k: int) -> Search:
    def search(users_BD: Floats) -> NDArray[np.int64]:
        index.hnsw.efSearch = max(width, k)
        found: NDArray[np.int64] = index.search(users_BD, k)[1]
        return found

    return search


def recall(found_BK: NDArray[np.int64], best_BK: NDArray[np.int64]) -> float:
    shared = [len(np.intersect1d(found, best)) for found, best in zip(found_BK, best_BK, strict=True)]
    return float(np.mean(shared)) / best_BK.shape[1]


def timed(search: Search, users_BD: Floats) -> tuple[float, float]:
    """Microseconds for each user: one after the other, and all at once."""
    search(users_BD[:1])
    started = time.perf_counter()
    for row in range(len(users_BD)):
        search(users_BD[row : row + 1])
    alone = time.perf_counter() - started
    started = time.perf_counter()
    search(users_BD)
    together = time.perf_counter() - started
    return 1e6 * alone / len(users_BD), 1e6 * together / len(users_BD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what export wrote with format=vectors")
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--links", type=int, default=32, help="neighbours of each item in HNSW's graph (M)")
    words = parser.parse_args()
    faiss.omp_set_num_threads(1)
    items_MD = np.load(words.folder / "item_vectors.npy")
    users_UD = np.load(words.folder / "user_vectors.npy")
    rows = np.random.default_rng(0).permutation(len(users_UD))[: words.users]
    users_BD = np.ascontiguousarray(users_UD[rows])
    started = time.perf_counter()
    index = faiss.IndexHNSWFlat(items_MD.shape[1], words.links, faiss.METRIC_INNER_PRODUCT)
    index.add(items_MD)
    built = time.perf_counter() - started
    print(f"{len(items_MD):,} items, width {items_MD.shape[1]}, {len(users_BD):,} users; index built in {built:.2f} s")
    print(f"{'':<23} {'recall':>7} {'us a user':>10} {'in a batch':>11}")
    for k in KS:
        best = exact(items_MD, k)
        best_BK = best(users_BD)
        ways = {"exact": best} | {f"HNSW, efSearch {max(w, k)}": neighbours(index, w, k) for w in WIDTHS}
        for name, search in ways.items():
            alone, together = timed(search, users_BD)
            print(f"@{k:<4} {name:<17} {recall(search(users_BD), best_BK):>7.4f} {alone:>10.1f} {together:>11.1f}")


if __name__ == "__main__":
    main()
