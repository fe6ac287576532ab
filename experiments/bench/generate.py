"""Synthetic data sets of a given shape, for measurements that need more data than the real data sets have.

    python experiments/bench/generate.py FOLDER --users 138493 --items 26744 --actions 20000263

(the defaults, the shape of MovieLens-20M) writes ratings.csv as GroupLens does: rows by user, not ordered by time.
Every user has at least ``--shortest`` actions and the lengths follow a log-normal curve; items are drawn from a
Zipf-like curve, repeats allowed. The data serves to measure speed and memory; what a model learns from it is
meaningless.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

ROWS_AT_ONCE = 2_000_000


def lengths(n_users: int, n_actions: int, shortest: int, rng: np.random.Generator) -> np.ndarray:
    """How many actions each user has (U); the sum is ``n_actions``."""
    curve = rng.lognormal(0.0, 1.1, n_users)
    spare = n_actions - shortest * n_users
    if spare < 0:
        raise SystemExit(f"error: {n_users} users with {shortest} actions each need more than {n_actions} actions")
    ends = np.round(np.cumsum(curve) / curve.sum() * spare).astype(np.int64)
    return shortest + np.diff(ends, prepend=0)


def write(folder: Path, n_users: int, n_items: int, n_actions: int, shortest: int, seed: int) -> Path:
    """Write ``ratings.csv`` into ``folder``; the same arguments give the same bytes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ratings.csv"
    users = np.repeat(np.arange(1, n_users + 1), lengths(n_users, n_actions, shortest, rng))
    popularity = np.cumsum((np.arange(n_items) + 10.0) ** -0.9)
    names = rng.permutation(n_items) + 1  # popular items have no low numbers, as in real catalogues
    with path.open("w") as file:
        file.write("userId,movieId,rating,timestamp\n")
        for start in range(0, n_actions, ROWS_AT_ONCE):
            size = min(ROWS_AT_ONCE, n_actions - start)
            items = names[np.searchsorted(popularity, rng.random(size) * popularity[-1])]
            pd.DataFrame(
                {
                    "user": users[start : start + size],
                    "item": items,
                    "rating": rng.integers(1, 11, size) / 2,
                    "time": rng.integers(789_652_009, 1_427_784_002, size),
                }
            ).to_csv(file, header=False, index=False)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=138_493)
    parser.add_argument("--items", type=int, default=26_744)
    parser.add_argument("--actions", type=int, default=20_000_263)
    parser.add_argument("--shortest", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(
        write(arguments.folder, arguments.users, arguments.items, arguments.actions, arguments.shortest, arguments.seed)
    )
