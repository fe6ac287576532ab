"""Frames of pandas, and whatever else can be turned into one or into an Arrow table, as chunks."""

import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from sairlib.data.assembly import Assembly, Rules, describe
from sairlib.data.columns import Chunk, Coded, Flags, Moments, Numbers, Values, check_columns
from sairlib.data.interactions import CATEGORY, ITEM, TITLE, Interactions
from sairlib.data.readers.arrow import arrow_chunks
from sairlib.errors import UserError

ROWS = 1 << 21
"""How many rows are looked at at once."""


def read_frame(
    frame: Any, names: Mapping[str, str | None], items: Any, rules: Mapping[str, str], source: str
) -> Interactions:
    """As ``Interactions.from_pandas``; ``names`` maps sairlib's names of columns to the frame's, or to None."""
    wanted = {ours: theirs for ours, theirs in names.items() if theirs is not None}
    checked = Rules(**rules)  # type: ignore[arg-type]
    assembly = Assembly(wanted, checked)
    described = None
    if items is not None:
        found = _columns(items)
        columns = {name: name for name in (ITEM, TITLE, CATEGORY) if name == ITEM or name in found}
        described = describe(frame_chunks(items, columns, "items"), "items", checked.category_separator)
    for chunk in frame_chunks(frame, wanted, source):
        assembly.add(chunk)
    return assembly.finish(source, described)


def frame_chunks(frame: Any, wanted: Mapping[str, str], source: str) -> Iterator[Chunk]:
    """The columns ``wanted`` (sairlib's names to the frame's) of anything that is a frame.

    UserError for what is none, or lacks a column.
    """
    if not isinstance(frame, pd.DataFrame):
        if hasattr(frame, "__arrow_c_stream__") and find_spec("pyarrow") is not None:
            yield from arrow_chunks(frame, wanted, source)
            return
        frame = _interchanged(frame, source)
    check_columns([str(name) for name in frame.columns], wanted, source)
    for start in range(0, max(1, len(frame)), ROWS):
        rows = frame.iloc[start : start + ROWS]
        columns = {ours: series_values(rows[theirs]) for ours, theirs in wanted.items()}
        yield Chunk(columns, lambda row, start=start: f"{source}, row {start + row + 1}")  # type: ignore[misc]


def series_values(series: "pd.Series[Any]") -> Values:
    """A column of a frame."""
    kind = series.dtype
    flags: Flags | None = series.isna().to_numpy() if bool(series.isna().any()) else None
    if isinstance(kind, pd.CategoricalDtype):
        texts = [str(value) for value in series.cat.categories.tolist()]
        return _coded(series.cat.codes.to_numpy(), texts, flags)
    if pd.api.types.is_datetime64_any_dtype(kind):
        naive = getattr(kind, "tz", None) is None
        utc = series if naive else series.dt.tz_convert("UTC").dt.tz_localize(None)
        exact = utc.to_numpy()
        moments = exact.astype("datetime64[us]")
        cut = bool((moments.astype(exact.dtype) != exact)[~np.isnat(exact)].any())
        return Moments(moments.astype(np.int64), naive, flags, cut)
    if pd.api.types.is_bool_dtype(kind) or not pd.api.types.is_numeric_dtype(kind):
        codes, found = pd.factorize(series)
        values = list(found)
        if all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values) and values:
            numbers = pd.to_numeric(pd.Series(values, dtype=object)).to_numpy()
            if numbers.dtype.kind == "i":
                return Numbers(numbers[codes], flags)
        return _coded(codes, [str(value) for value in values], flags)
    if isinstance(kind, np.dtype):
        return Numbers(series.to_numpy(), flags if kind.kind != "f" else None)
    if flags is None:
        return Numbers(series.to_numpy(kind.numpy_dtype) if hasattr(kind, "numpy_dtype") else series.to_numpy())
    return Numbers(series.fillna(0).to_numpy(getattr(kind, "numpy_dtype", None)), flags)


def _coded(codes: Any, texts: list[str], flags: Flags | None) -> Coded:
    """Codes of texts; where ``flags`` says so, of an empty one."""
    codes = np.asarray(codes).astype(np.int32)
    if flags is None:
        return Coded(codes, texts)
    return Coded(np.where(flags, np.int32(len(texts)), codes), [*texts, ""])


def _interchanged(frame: Any, source: str) -> pd.DataFrame:
    """A frame of another library, by the interchange protocol."""
    if not hasattr(frame, "__dataframe__"):
        if hasattr(frame, "__arrow_c_stream__"):
            raise UserError(f"{source}: a {type(frame).__name__} needs pyarrow: pip install 'sairlib[parquet]'")
        raise UserError(
            f"{source}: a {type(frame).__name__} is no frame; give one of pandas, or of a library that speaks Arrow"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas is about to replace it by Arrow's, which needs pyarrow
        found: pd.DataFrame = pd.api.interchange.from_dataframe(frame)
    return found


def _columns(frame: Any) -> list[str]:
    names = frame.column_names if hasattr(frame, "column_names") else getattr(frame, "columns", ())
    return [str(name) for name in names]
