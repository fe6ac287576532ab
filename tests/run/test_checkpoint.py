"""A checkpoint is whole, or refused in one line; nothing is ever half written or half loaded."""

import io
import math
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sairlib.errors import UserError
from sairlib.run import checkpoint
from sairlib.training.state import load_weights

IDENTITY = {"model": "a.B", "data and split": "f00"}


def state(value: float = 1.0) -> dict[str, Any]:
    weights = {"weight": torch.full((2, 3), value), "bias": torch.arange(2.0)}
    return {"identity": IDENTITY, "model": weights, "progress": {"epoch": 3, "best": {"m": 0.5}}}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> bool:
    text = str(error.value)
    return "\n" not in text and all(word in text for word in words)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, state(1.0))
    checkpoint.save(path, state(2.0))
    loaded = checkpoint.load(path)
    assert loaded.pop("format") == checkpoint.FORMAT
    assert equal(loaded, state(2.0))
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("fault", ["full", "os.fsync", "os.replace", "interrupt"])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failed_write_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, existed: bool
) -> None:
    path = tmp_path / "last.pt"
    if existed:
        checkpoint.save(path, state(1.0))
    whole = path.read_bytes() if existed else b""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def stop(_: object, file: io.BufferedWriter) -> None:
        file.write(b"PK half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if fault == "full":  # the device that is always full
            if not os.path.exists("/dev/full"):
                pytest.skip("needs /dev/full")
            os.symlink("/dev/full", tmp_path / f"last.pt.{os.getpid()}.tmp")
        elif fault == "interrupt":
            patch.setattr(torch, "save", stop)
        else:
            patch.setattr(os, fault.removeprefix("os."), fail)
        with pytest.raises(KeyboardInterrupt if fault == "interrupt" else UserError) as error:
            checkpoint.save(path, {**state(2.0), "large": torch.zeros(100_000)})
    if fault != "interrupt":
        assert one_line(error, f"could not write checkpoint {path} (No space left on device)")
        assert ("the previous one is intact" in str(error.value)) == existed
    assert os.listdir(tmp_path) == ["last.pt"] * existed
    assert not existed or path.read_bytes() == whole


def test_what_is_no_failed_write_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        checkpoint.save(tmp_path / "last.pt", state())
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file size there")
def test_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    # In a process of its own: a limit on file size is there for good.
    program = f"""
import resource, torch
from pathlib import Path
from sairlib.run import checkpoint
from sairlib.errors import UserError
path = Path({str(tmp_path)!r}) / "last.pt"
checkpoint.save(path, {{"model": torch.ones(10)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    checkpoint.save(path, {{"model": torch.zeros(100_000)}})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    line = f"could not write checkpoint {tmp_path / 'last.pt'} (File too large); the previous one is intact\n"
    assert done.stdout == line
    assert done.stderr == ""
    assert torch.equal(checkpoint.load(tmp_path / "last.pt")["model"], torch.ones(10))
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"could not write checkpoint .*gone/last\.pt \(there is no directory .*gone\)$"
    ):
        checkpoint.save(tmp_path / "gone" / "last.pt", state())
    with pytest.raises(UserError, match=r"no checkpoint at .*last\.pt: there is no such file"):
        checkpoint.load(tmp_path / "last.pt")


@pytest.mark.skipif(os.name != "posix", reason="no FIFOs there")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_file_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"no checkpoint at .*last\.pt: it is not a file"):
        checkpoint.load(tmp_path / "last.pt")


def test_every_truncation_flipped_bit_and_added_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, state())
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(0, len(whole), 97)]
    damaged += [whole + b"\0", whole + whole, b"\0" + whole]
    # Headers, padding and the checksum itself: no byte is left out.
    damaged += [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            checkpoint.load(path)
        assert one_line(error, str(path))


def test_a_checkpoint_is_a_file_of_torch(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", state())
    loaded = torch.load(tmp_path / "last.pt", weights_only=True)
    assert equal(loaded, {"format": checkpoint.FORMAT, **state()})


def test_format_1_has_no_checksum_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"format": 1, **state()}, path)
    assert equal(checkpoint.load(path), {"format": 1, **state()})
    whole = path.read_bytes()
    values = whole.index(state()["model"]["weight"].numpy().tobytes())
    path.write_bytes(whole[:values] + b"\1" + whole[values + 1 :])
    with pytest.raises(UserError, match="has a wrong checksum"):
        checkpoint.load(path)
    torch.save({"format": 2, **state()}, path)
    with pytest.raises(UserError, match="its checksum is missing"):
        checkpoint.load(path)


class Evil:
    """Unpickles to whatever it likes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("looked_at", [True, False])
def test_a_hostile_file_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: bool) -> None:
    """Two guards: that of sairlib, and that of torch."""
    path, trap = tmp_path / "last.pt", tmp_path / "trap"
    if not looked_at:
        monkeypatch.setattr(checkpoint, "check_contents", lambda *_, **__: None)
    checkpoint.save(path, {**state(), "progress": Evil(trap)})
    with pytest.raises(UserError, match="is not a") as error:
        checkpoint.load(path)
    assert one_line(error) and not trap.exists()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(trap), 2))
        archive.writestr("archive/version", "3\n")
    with pytest.raises(UserError, match="is not a") as error:
        checkpoint.load(path)
    assert one_line(error) and not trap.exists()
    path.write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(UserError, match="is not a"):
        checkpoint.load(path)
    assert not trap.exists()


@pytest.mark.parametrize("content", [[1, 2], {"weight": torch.ones(1)}, torch.ones(3)])
def test_a_foreign_file_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(UserError, match="is not a sairlib checkpoint"):
        checkpoint.load(tmp_path / "last.pt")


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
        checkpoint.save(tmp_path / "last.pt", state())
    with pytest.raises(UserError, match=r"has checkpoint format 3, this sairlib reads 1, 2: upgrade sairlib"):
        checkpoint.load(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": {**IDENTITY, "model": "a.C"}}, r"belongs to another model \(a\.C, here a\.B\)"),
        ({"identity": {**IDENTITY, "data and split": "bad"}}, r"belongs to another data and split"),
        ({"identity": {}}, r"belongs to another model"),
        ({"identity": None}, r"lacks"),
        ({"model": None}, r"lacks"),
        (
            {"model": {"weight": torch.ones(3, 3), "bias": torch.ones(2)}},
            r"weight is float32 \(3, 3\), here float32 \(2, 3\)",
        ),
        ({"model": {**state()["model"], "bias": torch.ones(2).int()}}, r"bias is int32 \(2,\), here float32 \(2,\)"),
        ({"model": {**state()["model"], "bias": torch.ones(2) * 1j}}, r"bias is complex64"),
        ({"model": {**state()["model"], "bias": torch.tensor([0, math.nan])}}, r"bias holds NaN or inf"),
        ({"model": {**state()["model"], "bias": "much"}}, r"bias is much, here float32"),
        ({"identity": {**IDENTITY, "model": torch.ones(2)}}, r"another model \(float32 \(2,\), here a\.B\)"),
        ({"progress": {}}, r"does not say which epoch"),
        ({"progress": None}, r"does not say which epoch"),
        ({"progress": None, "epoch": -1}, r"does not say which epoch its weights are of \(epoch is -1\)"),
        ({"progress": None, "epoch": True}, r"does not say which epoch"),
        ({"model": {"weight": torch.ones(2, 3)}}, r"other settings: bias is None, here float32 \(2,\)"),
        ({"model": {**state()["model"], "more": torch.ones(1)}}, r"more is float32 \(1,\), here None"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_loaded(change: dict[str, Any], message: str) -> None:
    model = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stored = {key: value for key, value in {**state(7.0), **change}.items() if value is not None}
    with pytest.raises(UserError, match=message) as error:
        load_weights(model, stored, IDENTITY, Path("last.pt"))
    assert one_line(error, "last.pt")
    assert equal(dict(model.state_dict()), before)
    assert load_weights(model, state(7.0), IDENTITY, Path("last.pt")) == 3
    assert (model.weight == 7).all()
    best = {"identity": IDENTITY, "epoch": 2, "model": state()["model"]}
    assert load_weights(model, best, IDENTITY, Path("best.pt")) == 2
