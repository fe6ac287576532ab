"""Files are written whole or not at all: a failure leaves no partial file, and the earlier file stays as it was."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from small_data import make_split

from sairlib.data import download
from sairlib.data.filters import Filters
from sairlib.data.prepare import prepare
from sairlib.data.readers.user_item import UserItemText
from sairlib.data.source import Source
from sairlib.errors import UserError
from sairlib.evaluation.rankings import Ranks
from sairlib.files import whole_file, write_json, write_text
from sairlib.run import checkpoint, report

BEFORE = b"earlier content"


class NoRoomError(OSError):
    """As from a disk that is full."""

    def __init__(self) -> None:
        super().__init__(28, "No space left on device")


def full(*_: object) -> None:
    raise NoRoomError


def refuse(partial: Path) -> None:
    raise ValueError(f"{partial.stat().st_size} bytes are not good enough")


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BEFORE)
    with whole_file(path) as file:
        file.write(b"half and ")
        file.flush()
        assert path.read_bytes() == BEFORE
        file.write(b"half")
    assert path.read_bytes() == b"half and half"
    assert os.listdir(tmp_path) == ["file"]


def test_it_is_on_the_disk_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, sync, replace = [], os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "content")
        assert done[-1] == "folder" or os.fstat(descriptor).st_size == 5, "not all of it was given to the system"
        sync(descriptor)

    def replaced(old: Path, new: Path) -> None:
        done.append("name")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with whole_file(tmp_path / "file") as file:
        file.write(b"whole")
    assert done == ["content", "name", "folder"] if os.name == "posix" else done[:2] == ["content", "name"]


def broken_off(path: Path, error: BaseException) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize(
    "fault", [NoRoomError(), KeyboardInterrupt(), "os.fsync", "os.replace", "check", "two at once"]
)
def test_whatever_goes_wrong_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException | str, existed: bool
) -> None:
    path = tmp_path / "file"
    if existed:
        path.write_bytes(BEFORE)
    if fault == "check":
        with pytest.raises(ValueError, match=r"^3 bytes are not good enough$"), whole_file(path, refuse) as file:
            file.write(b"new")
    elif fault == "two at once":  # another process's half stays its own
        theirs = tmp_path / "file.0.tmp"
        theirs.write_bytes(b"half")
        with pytest.raises(NoRoomError):
            broken_off(path, NoRoomError())
        assert theirs.read_bytes() == b"half"
        theirs.unlink()
    elif isinstance(fault, str):
        monkeypatch.setattr(os, fault.removeprefix("os."), full)
        with pytest.raises(NoRoomError), whole_file(path) as file:
            file.write(b"new")
    else:
        with pytest.raises(type(fault)):
            broken_off(path, fault)
    assert os.listdir(tmp_path) == ["file"] * existed
    assert not existed or path.read_bytes() == BEFORE


def test_what_passes_the_check_is_put_in_place(tmp_path: Path) -> None:
    seen = []

    def look(partial: Path) -> None:
        seen.append((partial.read_bytes(), (tmp_path / "file").exists()))

    with whole_file(tmp_path / "file", look) as file:
        file.write(b"new")
    assert seen == [(b"new", False)] and (tmp_path / "file").read_bytes() == b"new"


def test_text_and_json(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "é\n")
    assert (tmp_path / "text").read_bytes() == "é\n".encode()
    write_json(tmp_path / "test.json", {"a": [1, None]})
    assert json.loads((tmp_path / "test.json").read_text()) == {"a": [1, None]}
    with pytest.raises(UserError, match=r"^could not write .*test\.json \(there is no directory .*gone\)$"):
        write_json(tmp_path / "gone" / "test.json", {})


# Every writer of sairlib uses it.

RANKS = {"full": Ranks(np.array([3]), np.array([0]))}


def save_ranks(path: Path) -> None:
    report.save_ranks(path, RANKS, make_split([[1, 2, 3, 4]], 5))


def save_checkpoint(path: Path) -> None:
    checkpoint.save(path, {"model": {"weight": torch.ones(3)}})


def cache(path: Path) -> None:
    """The file's name is a hash of what shapes the data."""
    folder = path.parent.parent / "data"
    folder.mkdir(exist_ok=True)
    (folder / "set.txt").write_text("1 5\n1 6\n2 5\n1 7\n")
    prepare(Source(folder), UserItemText("set.txt", "map.csv"), Filters(), path.parent)


def fetch(path: Path) -> None:
    download._download("https://example.org/set.zip", path, None)


@pytest.mark.parametrize("write", [save_ranks, save_checkpoint, cache, fetch])
@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_every_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], fault: str
) -> None:
    def served(url: str, file: IO[bytes], see: Callable[[bytes], None]) -> None:
        file.write(b"new")

    monkeypatch.setattr(download, "_fetch", served)
    monkeypatch.setattr(download, "_verify", lambda *_: None)
    folder = tmp_path / "written"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, fault, full)
        if write is cache:
            write(folder / "file")  # a run can do without its cache
        else:
            with pytest.raises((UserError, NoRoomError), match="No space left on device"):
                write(folder / "file")
    assert os.listdir(folder) == []
    write(folder / "file")
    assert len(os.listdir(folder)) == 1
