"""The table refuses values that would sort or index wrongly, and names the row."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sairlib.data.interactions import ITEM, RATING, TIMESTAMP, USER, Interactions
from sairlib.errors import UserError


def table(**columns: Any) -> Interactions:
    return Interactions(pd.DataFrame({USER: [1, 2], ITEM: [3, 4], **columns}), "set.csv")


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.uint64])
def test_whole_numbers_of_any_width_are_ids(kind: type[np.generic]) -> None:
    assert len(table(user=np.array([0, 200], kind), timestamp=[0.5, -3.0], rating=[1, 5])) == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({USER: [1, -2]}, r"set\.csv: row 2: user is -2, not an integer >= 0"),
        ({ITEM: [1.0, np.nan]}, r"row 2: item is nan"),
        ({ITEM: [1.5, 2]}, r"row 1: item is 1\.5"),
        ({ITEM: [1.0, 2.0]}, r"column item has the type float64; convert it to int64"),
        ({USER: np.array([1, 2**63], np.uint64)}, r"row 2: user is 9223372036854775808"),
        ({USER: np.array([2.0, 1e30])}, r"row 2: user is 1e\+30"),
        ({USER: ["1", "2"]}, r"column user has the type (object|str|string)"),
        ({USER: ["1", "x"]}, r"row 2: user is 'x'"),
        ({USER: pd.array([1, None], "Int64")}, r"row 2: user is"),
        ({TIMESTAMP: [1.0, np.inf]}, r"row 2: timestamp is inf, not a finite number"),
        ({TIMESTAMP: ["1", "noon"]}, r"row 2: timestamp is 'noon'"),
        ({RATING: [np.nan, 1.0]}, r"row 1: rating is nan"),
    ],
)
def test_bad_values_are_named(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        table(**columns)


def test_missing_columns_and_rows_are_named() -> None:
    with pytest.raises(UserError, match=r"set\.csv: no column 'item' \(found: user, movie\)"):
        Interactions(pd.DataFrame({USER: [1], "movie": [2]}), "set.csv")
    with pytest.raises(UserError, match=r"set\.csv: no interactions in it"):
        Interactions(pd.DataFrame({USER: np.empty(0, np.int64), ITEM: np.empty(0, np.int64)}), "set.csv")
