"""Look into a file of torch.save before torch reads it.

``torch.load`` runs no code if told so, but it unpacks whatever a file says, and believes the sizes it declares. Here
the zip is looked at first, and its pickle is read into an outline: values without their tensors.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import IO, Any, ClassVar

import torch

LARGEST_PICKLE = 4 * 2**20
"""Bytes. A tensor's name and shape take some hundred; its values lie outside of the pickle."""
_KINDS = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
_END = 22
"""Bytes of a zip's end record without its comment."""


def check_contents(file: IO[bytes], every_member: bool = False) -> None:
    """Raise unless ``file`` holds plain values and tensors alone, none of them larger than the file.

    ValueError, or whatever a damaged zip or pickle may raise. ``every_member``: also compare the members' checksums,
    which reads the whole file.
    """
    n_bytes = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check_directory(file, archive, n_bytes)
        sizes: dict[str, int] = {}
        for member in members:
            name = member.filename.lower()  # torch looks names up in either case
            # torch would read uninitialised memory as the values of a tensor that is marked as a folder.
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                raise ValueError(f"{member.filename} is compressed")
            if member.flag_bits & 1 or member.external_attr & 0x10 or name in sizes:
                raise ValueError(f"{member.filename} is encrypted, marked as a folder, or there twice")
            sizes[name] = member.file_size
        if sum(sizes.values()) > n_bytes:
            raise ValueError("its members overlap")
        folder = members[0].filename.partition("/")[0] if members else ""
        if any(not member.filename.startswith(f"{folder}/") for member in members):
            raise ValueError("its members lie in several folders")
        if sizes.get(f"{folder}/data.pkl".lower(), 0) > LARGEST_PICKLE:
            raise ValueError("its data.pkl is too large")
        damaged = archive.testzip() if every_member else None
        if damaged is not None:
            raise ValueError(f"{damaged} has a wrong checksum")
        pickled = archive.read(f"{folder}/data.pkl")
    if pickled[:2] != b"\x80\x02":
        raise ValueError("its pickle is not of protocol 2")
    start = f"{folder}/data/".lower()
    _Outline(pickled, {name[len(start) :]: size for name, size in sizes.items() if name.startswith(start)}).load()


def _check_directory(file: IO[bytes], archive: zipfile.ZipFile, n_bytes: int) -> None:
    """ValueError if torch would look for the zip's directory elsewhere than Python, and so see another zip."""
    at = n_bytes - len(archive.comment) - _END
    file.seek(max(0, at - 76))
    before = file.read(min(at, 76))
    end = file.read(_END)
    (place,) = struct.unpack("<L", end[16:20])
    if before[-20:-16] == b"PK\6\7":  # over 4 GB: the end record of 64 bits, and where it is
        (record,) = struct.unpack("<Q", before[-12:-4])
        (place,) = struct.unpack("<Q", before[48:56])
        if record != at - 76:
            raise ValueError("its end record is not where it should be")
    if end[:4] != b"PK\5\6" or place != archive.start_dir:
        raise ValueError("its directory is not where it should be")


class _Outline(pickle._Unpickler):
    """Reads the pickle of a checkpoint without its tensors. Raises for anything but plain values and whole tensors.

    It is the unpickler in Python: that in C allocates what an index in the file tells it to.
    """

    stack: list[Any]

    def __init__(self, pickled: bytes, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(pickled))
        self.sizes = sizes

    def load_setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_setitems()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }

    def _check_keys(self, keys: list[Any]) -> None:
        """A key of tuples in tuples, a few hundred bytes of file, may take for ever to hash."""
        if any(type(key) not in (str, int) for key in keys):
            raise ValueError("a key is no name and no number")

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _KINDS:
            return _KINDS[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return self._ordered_dict
        raise ValueError(f"it asks for {module}.{name}"[:80])

    def persistent_load(self, pid: Any) -> int:
        """How many values a storage has."""
        word, kind, key, _, n = pid
        if word != "storage" or type(n) is not int or n < 0 or n * kind.itemsize != self.sizes[key.lower()]:
            raise ValueError("a tensor's values are not as many as it says")
        return n

    def _ordered_dict(self) -> Any:
        return OrderedDict()

    def _tensor(self, n: int, offset: int, shape: Any, strides: Any, requires_grad: bool, hooks: Any) -> None:
        """No value may be outside of the storage, and none in two places."""
        if not (type(n) is int and type(offset) is int and offset >= 0 and len(shape) == len(strides)):
            raise ValueError("a tensor is not described as one")
        if requires_grad or hooks:
            raise ValueError("a tensor asks for gradients")
        extent = 1
        for stride, size in sorted(zip(strides, shape, strict=True)):
            if type(stride) is not int or type(size) is not int or size < 0:
                raise ValueError("a tensor is not described as one")
            if size > 1:
                if stride < extent:
                    raise ValueError("a tensor has a value in two places")
                extent += stride * (size - 1)
        if offset + extent * (0 not in shape) > n:
            raise ValueError("a tensor is larger than its values")
