"""Requests to a training under way, and loading the weights of a checkpoint into a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from sairlib import processes
from sairlib.errors import UserError


@dataclass
class Requests:
    """What a training is asked to do from outside, by a signal. It answers at the end of a step."""

    save: bool = False
    """Write a checkpoint and go on."""
    stop: bool = False
    """Write a checkpoint and raise ``Stopped``."""
    at_once: bool = False
    """Nothing is being changed, so that whoever asks to stop may raise ``Stopped`` on the spot."""
    saved: Callable[[], None] | None = None
    """Called once, after the checkpoint that was asked for."""

    @contextmanager
    def answered_at_once(self) -> Iterator[None]:
        """While the block runs, ``Stopped`` may be raised anywhere in it. Several processes have to stop together."""
        self.at_once = processes.size() == 1
        try:
            yield
        finally:
            self.at_once = False


def load_weights(model: nn.Module, state: dict[str, Any], identity: dict[str, Any], place: object) -> None:
    """Load the weights of ``state`` into ``model``. ``place``: the file that ``state`` was read from, for messages.

    UserError, before anything is loaded, if they belong to another model or data set.
    """
    for part in ("identity", "model"):
        if not isinstance(state.get(part), dict):
            raise UserError(f"{place} lacks its {part}: it is not a sairlib checkpoint of a model")
    for key, value in identity.items():
        if state["identity"].get(key) != value:
            raise UserError(f"{place} belongs to another {key} ({state['identity'].get(key)}, here {value})")
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {name: tuple(tensor.shape) for name, tensor in state["model"].items()}
    differing = sorted(name for name in expected.keys() | stored.keys() if expected.get(name) != stored.get(name))
    if differing:
        name = differing[0]
        raise UserError(
            f"{place} is of a model with other settings: {name} is {stored.get(name)}, here {expected.get(name)}"
        )
    model.load_state_dict(state["model"])
