"""The cache: the same files and settings hit it, nothing else does, and no fault in it stops a run."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sairlib.data import prepare as prepare_module
from sairlib.data.dataset import Dataset
from sairlib.data.filters import Filters
from sairlib.data.interactions import TIMESTAMP, Interactions
from sairlib.data.prepare import prepare
from sairlib.data.readers.user_item import UserItemText
from sairlib.data.source import Source

READS = []


@dataclass(frozen=True)
class Counted:
    """A reader that records each read in READS."""

    file: str = "set.txt"
    timed: bool = False

    def files(self, source: Source) -> list[str]:
        return UserItemText(self.file, "map.csv").files(source)

    def read(self, source: Source) -> Interactions:
        READS.append(self.file)
        read = UserItemText(self.file, "map.csv").read(source)
        if self.timed:
            read.frame[TIMESTAMP] = np.arange(len(read.frame), 0, -1)
        return read


@pytest.fixture
def data(tmp_path: Path) -> Path:
    READS.clear()
    (tmp_path / "data").mkdir()
    for name in ("set.txt", "other.txt"):
        (tmp_path / "data" / name).write_text("1 5\n1 6\n2 5\n1 7\n1 6\n")
    (tmp_path / "data" / "map.csv").write_text("sasrec_item_id,genres\n5,War|é\n6,Drama\n")
    return tmp_path / "data"


def same(first: Dataset, second: Dataset) -> bool:
    assert all(getattr(second, name).dtype == np.int64 for name in ("items", "offsets", "item_categories"))
    times = [None if dataset.times is None else dataset.times.tolist() for dataset in (first, second)]
    rest = [(dataset.sha256(), dataset.category_names, dataset.notes) for dataset in (first, second)]
    return rest[0] == rest[1] and times[0] == times[1]


@pytest.mark.parametrize("timed", [False, True])
def test_a_hit_gives_the_same_data_without_reading(data: Path, timed: bool) -> None:
    cache, reader = data.parent / "deep" / "cache", Counted(timed=timed)
    plain = prepare(Source(data), reader, Filters(), None)
    first = prepare(Source(data), reader, Filters(), cache)
    again = prepare(Source(data), reader, Filters(), cache)
    assert (again.times is not None) == timed
    assert len(READS) == 2  # one without a cache, one to fill it
    assert same(plain, first) and same(first, again)
    assert len(again.notes) == (0 if timed else 1)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]


def test_a_change_of_files_filters_or_format_is_a_miss(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = data.parent / "cache"

    def reads(reader: Counted = Counted(), filters: Filters = Filters()) -> int:  # noqa: B008
        before = len(READS)
        prepare(Source(data), reader, filters, cache)
        return len(READS) - before

    assert reads() == 1
    assert reads(Counted("other.txt")) == 1
    assert reads(filters=Filters(user_core=2)) == 1
    (data / "map.csv").write_text("sasrec_item_id,genres\n5,War\n")
    assert reads() == 1
    (data / "set.txt").write_text("1 5\n1 6\n2 5\n1 8\n1 6\n")  # same size
    assert reads() == 1
    assert reads() == 0
    monkeypatch.setattr(prepare_module, "VERSION", prepare_module.VERSION + 1)
    assert reads() == 1


@pytest.mark.parametrize("damage", ["empty", "half", "text", "flip", "other"])
def test_a_damaged_cache_is_rebuilt(data: Path, damage: str) -> None:
    cache = data.parent / "cache"
    first = prepare(Source(data), Counted(), Filters(), cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    at = whole.index(first.items.tobytes())
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    half = whole[: len(whole) // 2]
    if damage == "other":
        np.savez(file, items=np.array([{}], object))
    else:
        file.write_bytes({"empty": b"", "half": half, "text": b"hello", "flip": flipped}[damage])
    assert same(first, prepare(Source(data), Counted(), Filters(), cache))
    assert file.read_bytes() == whole
    assert len(READS) == 2


def test_every_byte_of_the_cache_may_be_damaged(data: Path) -> None:
    cache, reader = data.parent / "cache", Counted(timed=True)
    first = prepare(Source(data), reader, Filters(), cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    names = [at + i for at in range(len(whole)) if whole[at : at + 9] == b"times.npy" for i in range(9)]
    for at in [*range(0, len(whole), 37), *names]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        assert same(first, prepare(Source(data), reader, Filters(), cache)), f"byte {at}"


@pytest.mark.parametrize("name", ["items", "offsets", "item_ids", "item_categories", "times", "key"])
def test_a_cache_of_other_data_is_rebuilt(data: Path, name: str) -> None:
    """It may lie under this name by a mistake, or one of its arrays may not fit the others."""
    cache, reader = data.parent / "cache", Counted(timed=True)
    first = prepare(Source(data), reader, Filters(), cache)
    (file,) = cache.iterdir()
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays[name] = np.array("0" * 32) if name == "key" else arrays[name][:-1]
    np.savez(file, **arrays)
    assert same(first, prepare(Source(data), reader, Filters(), cache))
    assert len(READS) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_in_the_place_of_a_cache_is_not_waited_for(data: Path) -> None:
    cache = data.parent / "cache"
    first = prepare(Source(data), Counted(), Filters(), cache)
    (file,) = cache.iterdir()
    file.unlink()
    os.mkfifo(file)
    assert same(first, prepare(Source(data), Counted(), Filters(), cache))


def test_a_cache_that_cannot_be_written_is_no_obstacle(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data.parent / "file").write_text("")
    assert prepare(Source(data), Counted(), Filters(), data.parent / "file" / "cache").n_items == 3

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = data.parent / "cache"
    monkeypatch.setattr(os, "replace", no_room)
    assert prepare(Source(data), Counted(), Filters(), cache).n_items == 3
    assert list(cache.iterdir()) == []
