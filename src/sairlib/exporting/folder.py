"""The folder of an exported run: its programs or weights, the ids behind the numbers, and what was checked."""

import hashlib
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from sairlib.batch import PAD, STRANGER, History, State, as_rows
from sairlib.data.ids import Ids
from sairlib.errors import UserError
from sairlib.exporting.check import Callee, Difference, difference, real_histories
from sairlib.exporting.formats import PACKAGES, check_packages, write_onnx, write_safetensors, write_torch
from sairlib.exporting.products import item_vectors
from sairlib.exporting.programs import FUNCTIONS, knows_users, scores, trace
from sairlib.files import whole_file, whole_folder, write_json
from sairlib.run.finished import Run
from sairlib.run.histories import of_users

FORMATS = ("torch", "onnx", "safetensors", "vectors")
AT_ONCE = 1024
"""Users whose vectors are computed at once."""

Writer = Callable[[ExportedProgram, Path], Callee]


class Exported(NamedTuple):
    """A file that was written and checked, and its function."""

    name: str
    difference: Difference
    call: Callee


def export(run: Run, directory: Path, format: str, out: Path) -> dict[str, Any]:
    """Write the run's model to the new folder ``out``, and compare what was written with it on real histories.

    ``run`` is on the CPU; ``directory`` is where it was loaded from. Returns the content of ``export.json``.
    UserError if the model has no such format or looks at times, if a package is missing, if what was written differs
    from the model, or if the folder exists or cannot be written; then nothing is left.
    """
    if format not in FORMATS:
        raise UserError(f"format={format}: choose one of {', '.join(FORMATS)}")
    if run.model.needs_times:
        raise UserError(
            f"{type(run.model).__name__} cannot be exported: it looks at times, and an export takes items alone"
        )
    check_packages(format)
    with whole_folder(out) as folder:
        if format == "torch":
            written = [_program(run, name, write_torch, folder / f"{name}.pt2") for name in ("states", "scores")]
        elif format == "onnx":
            written = [_program(run, name, write_onnx, folder / f"{name}.onnx") for name in ("states", "scores")]
        elif format == "safetensors":
            written = [_weights(run, folder / "model.safetensors")]
        else:
            written = _vectors(run, folder)
        _write_items(run, folder)
        about = _about(run, directory, format, written, folder)
        write_json(folder / "export.json", about)
    return about


def _program(run: Run, name: str, write: Writer, path: Path) -> Exported:
    call = write(trace(run.model, name, run.store.max_len), path)
    return Exported(path.name, difference(run, _live(run, name), call), call)


def _weights(run: Run, path: Path) -> Exported:
    call = write_safetensors(run.model, scores, path)
    return Exported(path.name, difference(run, _live(run, "scores"), call), call)


def _live(run: Run, name: str) -> Callable[[History], State]:
    function = FUNCTIONS[name]
    return lambda history: function(run.model, run.model.newest(history))


def _vectors(run: Run, folder: Path) -> list[Exported]:
    """Both tables of vectors, and the program that makes vectors of other histories."""
    items_MD = item_vectors(run.model.head)[1:].detach().float()
    program = _program(run, "user_vectors", write_torch, folder / "user_vectors.pt2")

    def live(history: History) -> Tensor:
        scores_BM = run.model.head.score_all(run.model.newest(history))[:, 1:].float()
        return _centred(scores_BM)

    def product(items_BN: Tensor, users_B: Tensor) -> Tensor:
        return _centred(as_rows(program.call(items_BN, users_B))[0] @ items_MD.T)

    products = Exported("item_vectors.npy", difference(run, live, product), product)
    _write_array(folder / "item_vectors.npy", items_MD.numpy())
    _write_array(folder / "user_vectors.npy", _of_all_users(run, program.call))
    ids = run.split.dataset.user_ids
    _write_table(folder / "users.csv", {"number": np.arange(len(ids)), "id": ids})
    return [program, products]


def _centred(scores_BM: Tensor) -> Tensor:
    """Without what is the same for all items: a product may leave that out."""
    return scores_BM - scores_BM.mean(1, keepdim=True)


@torch.no_grad()
def _of_all_users(run: Run, call: Callee) -> NDArray[np.float32]:
    """The vectors (U, D') of everybody in the data, from all that they did, held-out actions included."""
    people = of_users(run.split.dataset)
    order = np.argsort(np.minimum(people.lengths, run.store.max_len), kind="stable")
    pieces = []
    for rows in np.array_split(order, max(1, -(-len(order) // AT_ONCE))):
        history = people.take(rows, run.store.max_len, torch.device("cpu"))
        pieces.append(as_rows(call(history.items_BN, history.users_B))[0])
    vectors_UD = torch.empty(len(order), pieces[0].shape[1])
    vectors_UD[torch.from_numpy(order)] = torch.cat(pieces)
    found: NDArray[np.float32] = vectors_UD.numpy()
    return found


def _write_items(run: Run, folder: Path) -> None:
    data = run.split.dataset
    columns: dict[str, Any] = {"number": np.arange(1, data.n_items + 1), "id": data.item_ids}
    if data.titles_M is not None:
        columns["title"] = data.titles_M[1:]
    _write_table(folder / "items.csv", columns)


def _write_table(path: Path, columns: dict[str, NDArray[Any] | Ids]) -> None:
    with whole_file(path) as file:
        file.write(pd.DataFrame(columns).to_csv(index=False, lineterminator="\n").encode("utf-8", "surrogatepass"))


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    with whole_file(path) as file:
        np.save(file, array)


def _about(run: Run, directory: Path, format: str, written: list[Exported], folder: Path) -> dict[str, Any]:
    inputs = [{"name": "items", "dtype": "int64", "shape": ["batch", "length"]}]
    if knows_users(run.model):
        inputs.append({"name": "users", "dtype": "int64", "shape": ["batch"]})
    data = run.split.dataset
    return {
        "format": format,
        "model": type(run.model).__name__,
        "inputs": inputs,
        "max_length": run.store.max_len,
        "n_items": data.n_items,
        "n_users": data.n_users,
        "padding": PAD,
        "stranger": STRANGER,
        "outputs": {one.name: _outputs(run, one) for one in written if one.name.endswith((".pt2", ".onnx"))},
        "checks": {one.name: one.difference.figures() for one in written},
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "run": {
            "dataset": run.settings["dataset"]["name"],
            "best_epoch": run.best_epoch,
            "split_sha256": run.split.sha256(),
            "weights_sha256": hashlib.sha256((directory / "best.pt").read_bytes()).hexdigest(),
        },
        "versions": {"python": platform.python_version(), **_versions(format)},
    }


@torch.no_grad()
def _outputs(run: Run, exported: Exported) -> list[dict[str, Any]]:
    history = next(real_histories(run))
    parts = as_rows(exported.call(history.items_BN, history.users_B))
    return [{"dtype": str(part.dtype).removeprefix("torch."), "shape": ["batch", *part.shape[1:]]} for part in parts]


def _versions(format: str) -> dict[str, str]:
    found = {}
    for package in ("sairlib", "torch", *PACKAGES.get(format, ())):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "unknown"
    return found
