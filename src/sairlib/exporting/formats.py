"""Writing a program in each format. What is written is read again, as a function of items and users, to be checked."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from sairlib.batch import History, State
from sairlib.errors import UserError, one_line
from sairlib.exporting.check import Callee
from sairlib.exporting.programs import Function
from sairlib.files import whole_file
from sairlib.models.recommender import Recommender

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}
"""What a format needs beside torch: the extras of its name."""
LARGEST_PROTOBUF = 2**31 - 2**24
"""Bytes of weights in an ONNX file; more go into a second file beside it."""


def write_torch(program: ExportedProgram, path: Path) -> Callee:
    """Write a ``.pt2`` file."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with whole_file(path) as file:
        file.write(buffer.getbuffer())
    module, n_inputs = torch.export.load(path).module(), len(program.graph_signature.user_inputs)

    def call(items_BN: Tensor, users_B: Tensor) -> State:
        found: State = module(*(items_BN, users_B)[:n_inputs])
        return found

    return call


def write_onnx(program: ExportedProgram, path: Path) -> Callee:
    """Write an ``.onnx`` file, with inputs ``items`` and perhaps ``users``, and outputs named after the file.

    UserError if ONNX lacks an operator of the model.
    """
    signature = program.graph_signature
    n_inputs, n_outputs = len(signature.user_inputs), len(signature.user_outputs)
    outputs = [path.stem] if n_outputs == 1 else [f"{path.stem}_{i}" for i in range(n_outputs)]
    try:
        with _silence():
            made = torch.onnx.export(
                program,
                input_names=["items", "users"][:n_inputs],
                output_names=outputs,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds, for reasons that lie in the model
        raise UserError(f"the model cannot be exported to ONNX: {one_line(error)}") from error
    assert made is not None
    n_bytes = sum(value.nbytes for value in program.state_dict.values() if isinstance(value, Tensor))
    made.save(str(path), external_data=n_bytes > LARGEST_PROTOBUF)
    session = import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {argument.name for argument in session.get_inputs()}

    def call(items_BN: Tensor, users_B: Tensor) -> State:
        given = {"items": items_BN.numpy(), "users": users_B.numpy()}
        arrays = session.run(outputs, {name: given[name] for name in given if name in taken})
        found = tuple(torch.from_numpy(array) for array in arrays)
        return found[0] if len(found) == 1 else found

    return call


def write_safetensors(model: Recommender, function: Function, path: Path) -> Callee:
    """Write the weights to a ``.safetensors`` file."""
    library = import_module("safetensors.torch")
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    with whole_file(path) as file:
        file.write(library.save(weights, metadata={"format": "pt"}))
    copied = deepcopy(model)
    with torch.no_grad():
        for value in copied.state_dict().values():
            value.zero_()
    copied.load_state_dict(library.load_file(path))

    def call(items_BN: Tensor, users_B: Tensor) -> State:
        return function(copied, copied.newest(History(users_B, items_BN)))

    return call


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter warns of packages that are not there and of what it does not simplify."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_packages(format: str) -> None:
    """UserError if a package that a format needs is missing."""
    for package in PACKAGES.get(format, ()):
        try:
            import_module(package)
        except ImportError as error:
            raise UserError(f"format={format} needs the package {package}: pip install 'sairlib[{format}]'") from error
