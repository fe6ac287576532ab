"""Frames of pandas, Arrow and polars give the data that a csv of the same table gives; and their faults."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sairlib import Interactions
from sairlib.data.dataset import index
from sairlib.data.given import locate_files
from sairlib.data.readers.own_table import Table
from sairlib.errors import UserError

FRAME = pd.DataFrame(
    {
        "uid": ["b", "a", "b", "a"],
        "sku": [10, 9, 9, 11],
        "when": pd.to_datetime(["2024-01-03", "2024-01-01", "2024-01-02", "2024-01-01"], utc=True),
        "stars": [4.5, 3, 2, 1],
        "kind": ["War|Drama", "War", "War", None],
        "name": ["Ten", "Nine", "Nine", ""],
    }
)
NAMES = {"user": "uid", "item": "sku", "time": "when", "rating": "stars", "category": "kind", "title": "name"}


def test_a_frame_equals_its_csv(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "my.csv", index=False)
    table = Table(**NAMES)  # type: ignore[arg-type]
    from_csv = index(table.read(locate_files([str(tmp_path / "my.csv")], None, None, tmp_path)))
    data = index(Interactions.from_pandas(FRAME, **NAMES))
    assert data.sha256() == from_csv.sha256() and data.times is not None and from_csv.times is not None
    assert data.times.tolist() == from_csv.times.tolist()
    assert data.titles_M is not None and data.titles_M.tolist() == ["", "Nine", "Ten", ""]
    assert data.category_names == ("Drama", "War", "[UNK]")
    categorical = FRAME.astype({"uid": "category", "sku": "Int32", "stars": "Float64", "kind": object})
    assert index(Interactions.from_pandas(categorical, **NAMES)).sha256() == data.sha256()


def test_a_frame_of_items(tmp_path: Path) -> None:
    items = pd.DataFrame({"item": [9, 10, 99], "title": ["Nine", "Ten", "?"], "category": ["War", "", "x"]})
    data = index(Interactions.from_pandas(FRAME, user="uid", item="sku", items=items))
    assert data.titles_M is not None and data.titles_M.tolist() == ["", "Nine", "Ten", ""]
    assert "1 of 3 items are not in items" in data.notes
    assert "no times are read: a user's actions keep the order of the rows" in data.notes


@pytest.mark.parametrize(
    ("column", "kept"),
    [
        ([1.0, 2.0], [1, 2]),
        ([1.5, 2.0], ["1.5", "2.0"]),
        ([-1, 2], ["-1", "2"]),
        (["01", 2], ["01", "2"]),
        (np.array([2**63, 1], np.uint64), ["1", "9223372036854775808"]),
        ([2, 1], [1, 2]),
    ],
)
def test_ids_of_all_types(column: Any, kept: list[object]) -> None:
    read = Interactions.from_pandas(pd.DataFrame({"user": column, "item": [5, 6]}))
    assert index(read).user_ids.tolist() == kept
    assert any("decimals, all of them whole" in note for note in read.notes) == (kept == [1, 2] and column[0] == 1)


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        ({"user": [1], "thing": [2]}, {}, r"the frame: no column 'item' for the item \(found: user, thing\)"),
        ({"user": [1, None], "item": [2, 3]}, {}, r"the frame, row 2: no user \('user' is empty\)"),
        ({"user": ["a", ""], "item": [2, 3]}, {}, r"row 2: no user"),
        ({"user": [1], "item": [2], "t": ["noon"]}, {"time": "t"}, r"row 1: t is 'noon'; expected a number"),
        ({"user": [1], "item": [2], "t": [np.inf]}, {"time": "t"}, r"row 1: t is inf, not a finite number"),
        ({"user": [1], "item": [2], "t": [pd.NaT]}, {"time": "t"}, r"row 1: no timestamp"),
        ({"user": [1], "item": [2], "r": ["x"]}, {"rating": "r"}, r"row 1: r is 'x', not a number"),
        ({"user": [], "item": []}, {}, r"the frame: no rows in it"),
    ],
)
def test_a_bad_frame_gets_one_line(frame: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Interactions.from_pandas(pd.DataFrame(frame), **options)


def test_missing_rows_are_dropped_and_what_is_no_frame_is_refused() -> None:
    frame = pd.DataFrame({"user": [1, None, 2], "item": [4, 5, None]})
    table = Interactions.from_pandas(frame, missing="drop")
    assert len(table) == 1 and table.dropped == ("2 of 3 rows are left out: 1 without user, 1 without item",)
    with pytest.raises(UserError, match="a dict is no frame"):
        Interactions.from_pandas({"user": [1]})


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_other_libraries_give_the_same(library: str) -> None:
    module = pytest.importorskip(library)
    columns = {name: FRAME[name].tolist() for name in ("uid", "sku", "stars", "kind", "name")}
    columns["when"] = [moment.to_pydatetime() for moment in FRAME["when"]]
    columns["kind"][3] = None
    frame = module.DataFrame(columns) if library == "polars" else module.table(columns)
    assert (
        index(Interactions.from_pandas(frame, **NAMES)).sha256()
        == index(Interactions.from_pandas(FRAME, **NAMES)).sha256()
    )
    items = {"item": [9, 10, 11], "title": ["Nine", "Ten", "Eleven"]}
    described = module.DataFrame(items) if library == "polars" else module.table(items)
    data = index(Interactions.from_pandas(frame, user="uid", item="sku", items=described))
    assert data.titles_M is not None and data.titles_M.tolist() == ["", "Nine", "Ten", "Eleven"]


class Interchanged:
    """A frame that speaks the interchange protocol alone."""

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return FRAME.drop(columns="when").__dataframe__()


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sairlib.data.frames.find_spec", lambda name: None)
    data = index(Interactions.from_pandas(Interchanged(), user="uid", item="sku"))
    assert data.sha256() == index(Interactions.from_pandas(FRAME, user="uid", item="sku")).sha256()

    class Streamed:
        __arrow_c_stream__ = None

    with pytest.raises(UserError, match=r"a Streamed needs pyarrow: pip install 'sairlib\[parquet\]'"):
        Interactions.from_pandas(Streamed())
