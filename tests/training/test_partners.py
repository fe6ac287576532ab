"""Several processes that train one model take the steps of one process, with the same batches and negatives."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from trainer_helpers import fit, make_trainer, records, row_optimizers

from sairlib import processes
from sairlib.run import checkpoint, distributed
from sairlib.training import losses, optimisers
from sairlib.training import trainer as module

KINDS: dict[str, dict[str, Any]] = {
    "dense": {"weight_decay": 0.1, "grad_clip": 0.5},
    "rows": {},
    "sair": {"sair": True, "schedule": "cosine"},
}


def train(kind: str, directory: Path, epochs: int = 2, resumed: bool = False) -> None:
    """Train a model of this kind; 40 users in batches of 13, so that the last batch has one."""
    optimisers.RARELY, losses.ALL = (0, 0) if kind == "rows" else (16, 32)
    module.PIECE = 40  # several pieces a batch
    trainer = make_trainer(dropout=0.0, batch_size=13, epochs=epochs, **KINDS[kind])
    assert bool(row_optimizers(trainer)) == (kind == "rows")
    if resumed:
        trainer.restore(checkpoint.load(directory / "last.pt"), "last.pt")
    processes.wait()
    own = directory.with_name(f"{directory.name}-{processes.rank()}")
    fit(trainer, own if processes.rank() else directory)


def process(rank: int, size: int, port: int, place: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.join()
    assert (processes.rank(), processes.size()) == (rank, size)
    for kind in KINDS:
        train(kind, place / kind)
    train("rows", place / "resumed", epochs=3, resumed=True)
    distributed.leave()


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_train_as_one_does(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((optimisers, "RARELY"), (losses, "ALL"), (module, "PIECE")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back after the test
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    for kind in KINDS:
        train(kind, one / kind)
    shutil.copytree(one / "rows", many / "resumed")
    train("rows", one / "resumed", epochs=3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(process, (size, port, many), size)
    for kind in (*KINDS, "resumed"):
        assert records(many / kind) == [approximately(record) for record in records(one / kind)], kind
        assert records(many / f"{kind}-1") == [
            record for record in records(many / kind) if kind != "resumed" or record["epoch"] > 2
        ]
        alone, together = (checkpoint.load(place / kind / "last.pt")["model"] for place in (one, many))
        for name in alone:
            torch.testing.assert_close(together[name], alone[name], rtol=1e-4, atol=1e-5)


def approximately(record: dict[str, Any]) -> dict[str, Any]:
    """The record, to be compared but for rounding."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(inner) for key, inner in value.items()}
        return value if isinstance(value, int) else pytest.approx(value, rel=1e-5, abs=1e-7)

    return {key: rounded(value) for key, value in record.items()}
