"""Ids of any kind are kept as given, found again, and stored without pickle."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sairlib.data.dataset import Dataset, index
from sairlib.data.filters import Filters
from sairlib.data.ids import as_ids, find, pack, text_array, unpack
from sairlib.data.interactions import CATEGORY, ITEM, TITLE, USER, Interactions
from sairlib.data.prepare import prepare
from sairlib.data.source import Source


@given(st.lists(st.text()))
def test_texts_come_back(texts: list[str]) -> None:
    assert unpack(*pack(texts)).tolist() == texts


def test_ends_that_belong_to_other_texts_are_refused() -> None:
    content, ends = pack(["ab", "c"])
    for wrong in (ends[:-1], ends + 1, ends.astype(np.int32)):
        with pytest.raises(ValueError, match="do not belong"):
            unpack(content, wrong)


@given(st.lists(st.integers(-(2**62), 2**62), unique=True))
def test_numbers_are_found_as_numbers_and_as_text(numbers: list[int]) -> None:
    known = as_ids(numbers)
    assert known.dtype == np.int64
    wanted = [*numbers, 2**62 + 1, "x", "1e3", None, 2**70]
    expected = [*range(len(numbers)), -1, -1, -1, -1, -1] if 1000 not in numbers else None
    if expected is not None:
        assert find(known, wanted).tolist() == expected
        assert find(known, map(str, numbers)).tolist() == expected[: len(numbers)]


def test_text_is_found_as_it_stands() -> None:
    known = as_ids(["007", "a b", "7"])
    assert known.dtype == object
    assert find(known, ["7", "007", 7, "07", "a b"]).tolist() == [2, 0, 2, -1, 1]


def named() -> Interactions:
    """Actions of two people: codes into sorted ids, of which b and i1 do nothing."""
    frame = pd.DataFrame({USER: [2, 0, 0, 2], ITEM: [3, 2, 0, 0]})
    return Interactions(
        frame,
        "made up",
        pd.DataFrame({ITEM: [3, 1], CATEGORY: ["Drama", "War"]}),
        pd.DataFrame({ITEM: [0, 3, 1], TITLE: ["Zero é", "Three", "One"]}),
        text_array(["a", "b", "c"]),
        text_array(["i0", "i1", "i2", "i3"]),
        ("2 rows left out: no item",),
    )


@dataclasses.dataclass(frozen=True)
class Named:
    def files(self, source: Source) -> list[str]:
        return ["set.txt"]

    def read(self, source: Source) -> Interactions:
        return named()


def test_ids_and_titles_follow_the_dense_numbers() -> None:
    data = index(named())
    assert data.user_ids.tolist() == ["a", "c"] and data.item_ids.tolist() == ["i0", "i2", "i3"]
    of = {
        data.user_ids[u]: [data.item_ids[m - 1] for m in data.items[data.offsets[u] : data.offsets[u + 1]]]
        for u in range(2)
    }
    assert of == {"a": ["i2", "i0"], "c": ["i3", "i0"]}
    assert data.titles_M is not None and data.titles_M.tolist() == ["", "Zero é", "", "Three"]
    assert data.notes[0] == "2 rows left out: no item"
    assert data.users(["c", "b"]).tolist() == [1, -1] and data.item_numbers(["i3", "i1"]).tolist() == [3, 0]
    other = dataclasses.replace(data, user_ids=text_array(["a", "d"]))
    assert other.sha256() != data.sha256()
    assert dataclasses.replace(data, titles_M=None, notes=()).sha256() == data.sha256()


def test_the_cache_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("x")
    first = prepare(Source(tmp_path), Named(), Filters(), tmp_path / "cache")
    second = prepare(Source(tmp_path), Named(), Filters(), tmp_path / "cache")
    for field in dataclasses.fields(Dataset):
        one, two = getattr(first, field.name), getattr(second, field.name)
        assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two, field.name
    assert second.sha256() == index(named()).sha256()


def test_codes_past_the_ids_are_a_mistake_of_the_reader() -> None:
    with pytest.raises(ValueError, match="points past the last of 3 ids"):
        Interactions(pd.DataFrame({USER: [3], ITEM: [0]}), "made up", user_ids=text_array("abc"))
