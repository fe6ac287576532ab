"""Tables as people have them, for measuring how fast they are read; what a model learns from them is meaningless.

    python experiments/bench/generate_own.py text FOLDER --rows 20000000      # user_0123456,item_01234,2019-05-03T12:34
    python experiments/bench/generate_own.py parquet FOLDER --rows 100000000  # integers and seconds; needs pyarrow

Rows come in a random order, so that every user and item occurs in every part of the file.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROWS_AT_ONCE = 1_000_000
FIRST, LAST = 1_420_070_400, 1_735_689_600  # 2015 to 2025

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def chunks(rows: int, users: int, items: int, seed: int) -> list[Callable[[], Columns]]:
    """Users, items (Zipf-like) and seconds, made when called."""
    curve = np.cumsum((np.arange(items) + 10.0) ** -0.9)

    def make(number: int, size: int) -> Columns:
        rng = np.random.default_rng([seed, number])
        chosen = np.searchsorted(curve, rng.random(size) * curve[-1])
        return rng.integers(0, users, size), chosen, rng.integers(FIRST, LAST, size)

    sizes = [min(ROWS_AT_ONCE, rows - start) for start in range(0, rows, ROWS_AT_ONCE)]
    return [lambda number=number, size=size: make(number, size) for number, size in enumerate(sizes)]


def write_text(folder: Path, rows: int, users: int, items: int, seed: int) -> Path:
    """``own.csv`` with the columns user, item and when."""
    path = folder / "own.csv"
    with path.open("wb") as file:
        file.write(b"user,item,when\n")
        for make in chunks(rows, users, items, seed):
            user, item, seconds = make()
            lines = np.tile(np.frombuffer(b"user_0000000,item_00000,0000-00-00T00:00:00\n", np.uint8), (len(user), 1))
            for value, end, width in ((user, 12, 7), (item, 23, 5)):
                for place in range(width):
                    lines[:, end - 1 - place] = 48 + value // 10**place % 10
            lines[:, 24:43] = seconds.astype("datetime64[s]").astype("S19").view(np.uint8).reshape(-1, 19)
            file.write(lines.tobytes())
    return path


def write_parquet(folder: Path, rows: int, users: int, items: int, seed: int) -> Path:
    """``own.parquet`` with the columns user, item and when, a million rows in a group."""
    import pyarrow
    import pyarrow.parquet

    path = folder / "own.parquet"
    schema = pyarrow.schema([(name, pyarrow.int64()) for name in ("user", "item", "when")])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for make in chunks(rows, users, items, seed):
            writer.write_table(pyarrow.table(dict(zip(schema.names, make(), strict=True))))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("text", "parquet"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write = write_text if arguments.kind == "text" else write_parquet
    print(write(arguments.folder, arguments.rows, arguments.users, arguments.items, arguments.seed))
