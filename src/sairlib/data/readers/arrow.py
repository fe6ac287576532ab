"""Parquet files and Arrow tables in chunks, by pyarrow: an optional dependency."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sairlib.data.columns import Chunk, Coded, Flags, Moments, Numbers, Values, check_columns
from sairlib.errors import UserError, one_line

ROWS = 1 << 20
"""How many rows are read at once."""


def parquet_chunks(path: Path, where: str, wanted: Mapping[str, str]) -> Iterator[Chunk]:
    """The columns ``wanted`` (sairlib's names to the file's) of a parquet file; only these are read.

    UserError if pyarrow is missing, if the file is damaged, or if a column is missing or of a type that is no value.
    """
    parquet = _pyarrow("pyarrow.parquet", where)
    try:
        table = parquet.ParquetFile(path)
        names = table.schema_arrow.names
        batches = table.iter_batches(batch_size=ROWS, columns=sorted(set(wanted.values()) & set(names)))
    except Exception as error:  # a damaged file may raise almost anything
        raise UserError(f"{where}: not a complete parquet file, get a new copy ({one_line(error)[:160]})") from error
    check_columns(names, wanted, where)
    start = 0
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:
            raise UserError(f"{where}: cannot be read, get a new copy ({one_line(error)[:160]})") from error
        if batch is None:
            return
        yield _chunk(batch, wanted, where, start)
        start += batch.num_rows


def arrow_chunks(frame: Any, wanted: Mapping[str, str], source: str) -> Iterator[Chunk]:
    """The columns ``wanted`` of anything that gives Arrow's stream of record batches; UserError as above."""
    arrow = _pyarrow("pyarrow", source)
    table = arrow.table(frame)
    check_columns(table.column_names, wanted, source)
    start = 0
    for batch in table.select(list(dict.fromkeys(wanted.values()))).to_batches(max_chunksize=ROWS):
        yield _chunk(batch, wanted, source, start)
        start += batch.num_rows


def _pyarrow(module: str, where: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"{where}: reading it needs pyarrow: pip install 'sairlib[parquet]'") from error


def _chunk(batch: Any, wanted: Mapping[str, str], where: str, start: int) -> Chunk:
    columns = {ours: _values(batch.column(theirs), theirs, where) for ours, theirs in wanted.items()}
    return Chunk(columns, lambda row: f"{where}, row {start + row + 1}")


def _values(column: Any, name: str, where: str) -> Values:
    """An Arrow array as sairlib takes it."""
    arrow = import_module("pyarrow")
    compute = import_module("pyarrow.compute")
    flags: Flags | None = None
    if column.null_count:
        flags = column.is_null().to_numpy(zero_copy_only=False)
    kind = column.type
    if arrow.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if arrow.types.is_integer(kind) or (arrow.types.is_floating(kind) and kind.bit_width > 16):
        return Numbers((column if flags is None else column.fill_null(0)).to_numpy(zero_copy_only=False), flags)
    if arrow.types.is_timestamp(kind) or arrow.types.is_date(kind):
        wanted = arrow.timestamp("us", tz=getattr(kind, "tz", None))
        moments = column.cast(wanted, safe=False)
        cut = getattr(kind, "unit", "us") == "ns" and bool(
            compute.any(compute.not_equal(moments.cast(kind), column)).as_py()
        )
        numbers = moments.cast(arrow.int64())
        numbers = numbers if flags is None else numbers.fill_null(0)
        return Moments(numbers.to_numpy(zero_copy_only=False), getattr(kind, "tz", None) is None, flags, cut)
    try:
        encoded = column.cast(arrow.string()).dictionary_encode()
    except Exception as error:
        raise UserError(
            f"{where}: column '{name}' has the type {kind}, which is no id, number, text or date"
        ) from error
    texts = encoded.dictionary.to_pylist()
    codes = (encoded.indices if flags is None else encoded.indices.fill_null(len(texts))).to_numpy(zero_copy_only=False)
    return Coded(codes.astype(np.int32), texts if flags is None else [*texts, ""])
