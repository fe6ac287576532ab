"""Weights from a checkpoint, put into a model that they are of."""

from typing import Any

from torch import nn

from sairlib.errors import UserError


def load_weights(model: nn.Module, state: dict[str, Any], identity: dict[str, Any], place: object) -> None:
    """Put ``state``'s weights into ``model``. ``place``: where the state is from, for messages.

    UserError if they are of another model or data set; nothing is loaded then.
    """
    for part in ("identity", "model"):
        if not isinstance(state.get(part), dict):
            raise UserError(f"{place} lacks its {part}: it is not a sairlib checkpoint of a model")
    for key, value in identity.items():
        if state["identity"].get(key) != value:
            raise UserError(f"{place} belongs to another {key} ({state['identity'].get(key)}, here {value})")
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {name: tuple(tensor.shape) for name, tensor in state["model"].items()}
    differing = sorted(name for name in own.keys() | stored.keys() if own.get(name) != stored.get(name))
    if differing:
        name = differing[0]
        raise UserError(
            f"{place} is of a model with other settings: {name} is {stored.get(name)}, here {own.get(name)}"
        )
    model.load_state_dict(state["model"])
