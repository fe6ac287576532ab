"""A file of torch.save is looked at before torch reads it: a small file cannot take much memory or time."""

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sairlib.errors import UserError
from sairlib.run import checkpoint
from sairlib.run.contents import LARGEST_PICKLE, check_contents

DICT = b"\x80\x02}"
FLOATS = torch.arange(6.0)


def members(content: object = None) -> dict[str, bytes]:
    """The members of a file of torch.save."""
    file = io.BytesIO()
    torch.save({"format": 1, "w": FLOATS} if content is None else content, file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def tensor(
    n: int = 6, shape: tuple[Any, ...] = (6,), strides: tuple[Any, ...] = (1,), offset: int = 0, kind: str = "Float"
) -> bytes:
    """The pickle of a checkpoint with one tensor, described as these say, whose storage has 24 bytes."""

    def whole(number: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", number)

    def several(numbers: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(whole, numbers)) + b"t"

    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    storage = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text("0") + text("cpu") + whole(n) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    view = b"(" + storage + whole(offset) + several(shape) + several(strides) + b"\x89" + hooks + b"t"
    return DICT + b"(" + text("format") + b"K\x01" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + view + b"Ru."


def test_the_pickle_made_here_is_one_that_torch_reads(tmp_path: Path) -> None:
    write(tmp_path / "last.pt", {**members(), "archive/data.pkl": tensor()})
    assert torch.equal(checkpoint.load(tmp_path / "last.pt")["w"], FLOATS)
    write(tmp_path / "last.pt", {**members(), "archive/data.pkl": tensor(6, (2, 2), (1, 3), 1)})
    assert checkpoint.load(tmp_path / "last.pt")["w"].tolist() == [[1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("pickled", "says"),
    [
        (tensor(10**9, (10**9,)), "a tensor's values are not as many as it says"),
        (tensor(5, (5,)), "a tensor's values are not as many as it says"),
        (tensor(6, kind="Double"), "a tensor's values are not as many as it says"),
        (tensor(shape=(10**12,), strides=(0,)), "a tensor has a value in two places"),
        (tensor(shape=(4, 3), strides=(1, 1)), "a tensor has a value in two places"),
        (tensor(shape=(7,)), "a tensor is larger than its values"),
        (tensor(offset=1), "a tensor is larger than its values"),
        (tensor(offset=-1), "a tensor is not described as one"),
        (tensor(shape=(-6,)), "a tensor is not described as one"),
        (tensor(strides=(-1,)), "a tensor has a value in two places"),
        (tensor(kind="ComplexFloat"), "it asks for torch.ComplexFloatStorage"),
        (
            b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 10**11) + b"\x85R.",
            "it asks for builtins.byte",
        ),
        (b"\x80\x02ctorch\nFloatStorage\n\x8a\x08" + struct.pack("<q", 10**11) + b"\x85R.", "not callable"),
        (b"\x80\x04}.", "not of protocol 2"),
        (DICT + bytes(LARGEST_PICKLE), "data.pkl is too large"),
        # A key of pairs of pairs of pairs: 2^200 steps to hash.
        (DICT + b"K\x01\x85" + b"2\x86" * 200 + b"K\x01s.", "a key is no name"),
        (DICT + b"(K\x01K\x01K\x01\x85" + b"2\x86" * 200 + b"K\x01u.", "a key is no name"),
        (DICT + b"r\xff\xff\xff\x7f.", None),  # the number 2^31 in the memo
        (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", None),  # a list in a list in a list
    ],
)
def test_a_pickle_that_is_no_checkpoint_s_is_refused(tmp_path: Path, pickled: bytes, says: str | None) -> None:
    path = tmp_path / "last.pt"
    write(path, {**members(), "archive/data.pkl": pickled})
    with pytest.raises(UserError, match=f"is not a complete checkpoint .*{says}" if says else "is not a") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write(path, {**members(), "archive/data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match=r"archive/\S+ is compressed"):
        checkpoint.load(path)


def test_members_that_overlap_are_refused() -> None:
    """A directory may name the same bytes again and again."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", DICT + b".")
        archive.writestr("archive/data/0", bytes(10_000))
        again = archive.infolist()[1]
        for i in range(1, 5):
            archive.filelist.append(pickle.loads(pickle.dumps(again)))
            archive.filelist[-1].filename = archive.filelist[-1].orig_filename = f"archive/data/{i}"
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="its members overlap"):
        check_contents(file)


def test_a_zip_that_torch_would_read_elsewhere_is_refused() -> None:
    """Python looks for the directory before the end record, torch where that record says: they must not differ."""
    of_torch, of_python = io.BytesIO(), io.BytesIO()
    torch.save({"format": 1}, of_torch)
    with zipfile.ZipFile(of_python, "w") as archive:
        archive.writestr("archive/data.pkl", DICT + b".")
    for file, where in ((of_torch, "end record"), (of_python, "directory")):
        check_contents(file)
        with pytest.raises(ValueError, match=f"its {where} is not where it should be"):
            check_contents(io.BytesIO(b"\0" * 100 + file.getvalue()))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"archive/data/0": "archive/DATA.PKL"}, "there twice"),
        ({"archive/data/0": "elsewhere/0"}, "several folders"),
        ({"archive/data.pkl": "archive/none"}, "data.pkl"),
        ({"archive/data/0": "archive/data/1"}, "'0'"),
    ],
)
def test_names_are_those_of_torch(tmp_path: Path, names: dict[str, str], says: str) -> None:
    write(tmp_path / "last.pt", {names.get(name, name): data for name, data in members().items()})
    with pytest.raises(UserError, match=says):
        checkpoint.load(tmp_path / "last.pt")


def test_a_tensor_marked_as_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"format": 1, "w": FLOATS}, path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"PK\1\2") + 38] |= 0x10
    path.write_bytes(whole)
    with pytest.raises(UserError, match="marked as a folder"):
        checkpoint.load(path)
