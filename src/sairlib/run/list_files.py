"""Recommendations written down, frame by frame: to a file, or to standard output."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import pandas as pd

from sairlib.data.interactions import ITEM, TITLE
from sairlib.errors import UserError
from sairlib.files import not_written, whole_file
from sairlib.run.recommendations import BY, INTERESTS, RANK, SCORE

FORMATS = ("csv", "jsonl", "parquet")
WIDEST = 50
"""Of a column for people, in characters."""


def format_of(path: Path) -> str:
    """The format that the ending of a file's name says; UserError for another ending."""
    ending = path.suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise UserError(f"out={path}: the name must end in .csv, .jsonl or .parquet, or give format=...")
    return ending


def write_file(path: Path, frames: Iterable[pd.DataFrame], format: str) -> None:
    """Write all frames, atomically: the file is there as a whole, or not at all. UserError if it cannot be written."""
    check_format(format)
    try:
        with whole_file(path) as file:
            write(file, frames, format)
    except OSError as error:
        raise UserError(not_written(path, error)) from error


def check_format(format: str) -> None:
    """UserError for a format that is unknown, or that needs a package which is not installed."""
    if format not in FORMATS:
        raise UserError(f"format={format}: choose one of {', '.join(FORMATS)}")
    if format == "parquet":
        _pyarrow()


def write(file: IO[bytes], frames: Iterable[pd.DataFrame], format: str) -> None:
    """Write the frames as they come, each a row group of a parquet file."""
    {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}[format](file, frames)


def _write_csv(file: IO[bytes], frames: Iterable[pd.DataFrame]) -> None:
    for number, frame in enumerate(frames):
        file.write(frame.to_csv(index=False, header=number == 0, lineterminator="\n").encode("utf-8", "replace"))


def _write_jsonl(file: IO[bytes], frames: Iterable[pd.DataFrame]) -> None:
    for frame in frames:
        if len(frame):
            text = frame.to_json(orient="records", lines=True, force_ascii=False)
            file.write(text.encode("utf-8", "replace"))


def _write_parquet(file: IO[bytes], frames: Iterable[pd.DataFrame]) -> None:
    arrow, parquet = _pyarrow()
    writer = None
    try:
        for frame in frames:
            if writer is None:
                schema = arrow.schema([(name, _type(arrow, frame, name)) for name in map(str, frame)])
                writer = parquet.ParquetWriter(file, schema)
            writer.write_table(arrow.Table.from_pandas(frame, schema=schema, preserve_index=False))
    finally:
        if writer is not None:
            writer.close()


def _type(arrow: Any, frame: pd.DataFrame, name: str) -> Any:
    if name in (TITLE, BY, INTERESTS):
        return arrow.string()
    if name == SCORE:
        return arrow.float32()
    if name == RANK:
        return arrow.int32()
    return arrow.int64() if frame[name].dtype.kind == "i" else arrow.string()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet needs pyarrow: pip install 'sairlib[parquet]', or choose csv or jsonl") from error
    return pyarrow, pyarrow.parquet


def table(frame: pd.DataFrame) -> str:
    """One person's recommendations as lines for people: rank, score, item, title, and what the interests add."""
    by_model = frame[BY] == "model"  # of popularity the score is a count
    scores = [f"{score:.3f}" if by else f"{score:.0f}" for score, by in zip(frame[SCORE], by_model, strict=True)]
    columns: dict[str, tuple[Callable[[str, int], str], list[str]]] = {
        RANK: (str.rjust, [str(rank) for rank in frame[RANK]]),
        SCORE: (str.rjust, scores),
        ITEM: (str.rjust if frame[ITEM].dtype.kind == "i" else str.ljust, [shown(item) for item in frame[ITEM]]),
    }
    if TITLE in frame:
        columns[TITLE] = (str.ljust, [shown(title) for title in frame[TITLE]])
    if INTERESTS in frame and frame[INTERESTS].notna().any():
        columns[INTERESTS] = (str.ljust, list(frame[INTERESTS]))
    cells = []
    for name, (justify, texts) in columns.items():
        width = max(map(len, [name, *texts]))
        cells.append([justify(text, width) for text in [name, *texts]])
    return "\n".join("  ".join(row).rstrip() for row in zip(*cells, strict=True))


def favours(leanings: pd.DataFrame) -> str:
    """What ``Run.leanings`` says of one person, a line for each interest."""
    lines = ["of the items to which an interest adds most (in brackets: of all items):"]
    for interest, own in leanings.groupby("interest", sort=False):
        of_categories = zip(own["category"], own["share"], own["share_of_all"], strict=True)
        named = (f"{shown(name)} {share:.0%} ({of_all:.0%})" for name, share, of_all in of_categories)
        lines.append(f"interest {interest}: {', '.join(named)}")
    return "\n".join(lines)


def shown(value: object) -> str:
    """A value in one line of printable characters, cut if it is long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
