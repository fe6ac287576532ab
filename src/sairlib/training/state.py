"""Whether a stored state fits the objects that are to load it: everything is checked before anything is loaded.

What a file holds is compared with what the live objects hold: the same names, kinds, dtypes and shapes, and values in
the range that such a value can have. Whoever loads it afterwards cannot fail half-way.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Adam, AdamW, Optimizer

from sairlib.errors import UserError
from sairlib.training.epoch import Epoch

MOMENTS: dict[type[Optimizer], tuple[str, ...]] = {
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
    Adagrad: ("sum",),
}
"""What torch's optimisers keep of a weight in its shape, from their first step on, beside ``step``, their count."""
NOT_NEGATIVE = ("exp_avg_sq", "sum", "v", "seen_at", "faded", "owed")
"""Sums of squares, and counts."""
LARGEST_COUNT = 2**53
LARGEST_GENERATOR = 2**16
"""Bytes of the state of a random generator. torch's take 16 and 5,056."""


def load_weights(model: nn.Module, state: dict[str, Any], identity: dict[str, Any], place: object) -> int:
    """Load the weights of ``state`` into ``model``. ``place``: the file that ``state`` was read from, for messages.

    Returns the epoch that they are of. UserError, before anything is loaded, if they belong to another model or data
    set, or are no weights.
    """
    check_weights(model.state_dict(), state, identity, place)
    progress = state.get("progress")
    epoch = progress.get("epoch") if isinstance(progress, dict) else state.get("epoch")
    if type(epoch) is not int or not 0 <= epoch < LARGEST_COUNT:
        raise UserError(f"{place} does not say which epoch its weights are of (epoch is {_shown(epoch)})")
    model.load_state_dict(state["model"])
    return epoch


def check_weights(live: dict[str, Any], state: dict[str, Any], identity: dict[str, Any], place: object) -> None:
    """UserError unless ``state`` has this identity, and weights like the ``live`` ones."""
    for part in ("identity", "model"):
        if not isinstance(state.get(part), dict):
            raise UserError(f"{place} lacks its {part}: it is not a sairlib checkpoint of a model")
    for key, value in identity.items():
        stored = state["identity"].get(key)
        if not _equal(stored, value):
            raise UserError(f"{place} belongs to another {key} ({_shown(stored)}, here {_shown(value)})")
    for name in sorted(live.keys() | state["model"].keys(), key=str):
        _check(state["model"].get(name), live.get(name), _shown(name), f"{place} is of a model with other settings")


def fitting(
    stored: dict[str, Any], live: dict[str, Any], optimizers: Sequence[Optimizer], place: object
) -> dict[str, Any]:
    """The state to load, of what was ``stored`` in the file ``place``; ``live`` is the state of a trainer before its
    first step, and ``optimizers`` are its own.

    The settings in an optimiser's state (betas, epsilon) are those of the live one; its rate and moments are as stored.
    UserError, with nothing changed, if a part is missing or does not fit.
    """
    says = f"{place} cannot be resumed from"
    check_weights(live["model"], stored, live["identity"], place)
    for key in live:
        if key not in stored:
            raise UserError(f"{place} lacks its {key}: it is not a state to resume from")
    for key in ("progress", "step", "generator", *({"averages", "carried"} & live.keys())):
        _check(stored[key], live[key], key, says)
    if stored["epoch"] is not None:
        _check(stored["epoch"], asdict(Epoch(live["generator"])), "epoch", says)
    if type(stored["random"]) is not list or not stored["random"]:
        raise UserError(f"{says}: random is {_shown(stored['random'])}, here {_shown(live['random'])}")
    for process, random in enumerate(stored["random"]):  # another number of processes may go on
        _check(random, live["random"][0], f"random.{process}", says)
    _check_counts(stored, says)
    of_optimizers = stored["optimizers"]
    if type(of_optimizers) is not list or len(of_optimizers) != len(optimizers):
        raise UserError(
            f"{place} was saved on another kind of device or with other training settings:"
            " the state of its optimizer does not fit"
        )
    ready = [
        _fitting_optimizer(one, optimizer, stored["step"], f"optimizers.{i}", place)
        for i, (one, optimizer) in enumerate(zip(of_optimizers, optimizers, strict=True))
    ]
    return {**stored, "optimizers": ready}


def _check_counts(stored: dict[str, Any], says: str) -> None:
    """UserError if numbers that have been checked one by one do not agree with each other."""
    progress, epoch = stored["progress"], stored["epoch"]
    if progress["best_epoch"] > progress["epoch"] or bool(progress["best"]) != bool(progress["best_epoch"]):
        raise UserError(f"{says}: after epoch {progress['epoch']} its best epoch is {progress['best_epoch']}")
    if epoch is not None:
        n = sum("loss" in figures for figures in epoch["figures"])
        if not epoch["plotted"] <= n == len(epoch["figures"]) == epoch["done"] <= stored["step"]:
            raise UserError(f"{says}: it has the loss of {n} steps of {epoch['done']} in the epoch under way")


def _fitting_optimizer(stored: Any, optimizer: Optimizer, steps: int, name: str, place: object) -> dict[str, Any]:
    says = f"{place} cannot be resumed from"
    live = optimizer.state_dict()
    _check_keys(stored, live, name, says)
    groups, states = stored["param_groups"], stored["state"]
    if type(groups) is not list or len(groups) != len(live["param_groups"]) or type(states) is not dict:
        raise UserError(f"{says}: {name} is of an optimizer of other weights")
    ready: list[dict[str, Any]] = []
    weights: dict[int, Tensor] = {}
    for group, own, of in zip(groups, live["param_groups"], optimizer.param_groups, strict=True):
        if type(group) is not dict or not _equal(group.get("params"), own["params"]):
            raise UserError(f"{says}: {name} is of an optimizer of other weights")
        weights |= dict(zip(own["params"], of["params"], strict=True))
        ready.append(dict(own))
        for key in own.keys() & {"lr", "steps"}:  # these change during training; steps are RowAdam's
            _check(group.get(key), own[key], f"{name}.{key}", says)
            ready[-1][key] = group[key]
        steps = min(steps, ready[-1].get("steps", steps))
    like = live["state"] or {
        i: {"step": torch.zeros(()), **dict.fromkeys(MOMENTS[type(optimizer)], weight)}
        for i, weight in weights.items()
        if i in states
    }
    if steps and not states:
        raise UserError(f"{says}: {name} lacks its state after {steps} steps")
    _check(states, like, name, says)
    for i, state in states.items():
        for part, value in state.items():
            if part in NOT_NEGATIVE and not bool((value >= 0).all()):
                raise UserError(f"{says}: {name}.{i}.{part} has a negative value")
            if part in ("step", "seen_at") and not bool(
                ((value == value.floor()) & (value >= 0) & (value <= steps)).all()
            ):
                raise UserError(f"{says}: {name}.{i}.{part} is no count of up to {steps} steps")
    return {"state": states, "param_groups": ready}


def _check(stored: Any, live: Any, name: str, says: str) -> None:
    """UserError unless ``stored`` is what ``live`` may become: of the same kind, dtype and shape, finite and not out of
    range. An empty dict may become figures by name, an empty list a list of such dicts, and None the state of a
    generator."""
    if isinstance(live, Tensor):
        _check_tensor(stored, live, name, says)
    elif isinstance(live, dict) and live:
        _check_keys(stored, live, name, says)
        for key, value in live.items():
            _check(stored[key], value, f"{name}.{key}", says)
    elif isinstance(live, dict):
        figures = type(stored) is dict and all(
            type(key) is str and type(value) is float for key, value in stored.items()
        )
        if not figures or not all(map(math.isfinite, stored.values())):
            raise UserError(f"{says}: {name} is {_shown(stored)}, here figures by their names")
    elif isinstance(live, list) and not live and type(stored) is list:
        for i, value in enumerate(stored):
            _check(value, {}, f"{name}.{i}", says)
    elif isinstance(live, list | tuple):
        if type(stored) is not type(live) or len(stored) != len(live):
            raise UserError(f"{says}: {name} is {_shown(stored)}, here {_shown(live)}")
        for i, value in enumerate(live):
            _check(stored[i], value, f"{name}.{i}", says)
    elif live is None:
        if stored is not None and not (
            _is_plain(stored)
            and stored.dtype == torch.uint8
            and stored.ndim == 1 <= stored.numel() <= LARGEST_GENERATOR
        ):
            raise UserError(f"{says}: {name} is {_shown(stored)}, here None")
    elif type(stored) is not type(live):
        raise UserError(f"{says}: {name} is {_shown(stored)}, here {_shown(live)}")
    elif isinstance(live, int | float) and not 0 <= stored < (LARGEST_COUNT if isinstance(live, int) else math.inf):
        raise UserError(f"{says}: {name} is {_shown(stored)}, which is out of range")


def _check_keys(stored: Any, live: dict[Any, Any], name: str, says: str) -> None:
    if not isinstance(stored, dict):
        raise UserError(f"{says}: {name} is {_shown(stored)}, here a dict")
    for key in sorted(live.keys() ^ stored.keys(), key=str):
        there, here = ("missing", "there") if key in live else ("there", "not")
        raise UserError(f"{says}: {name}.{_shown(key)} is {there}, here {here}")


def _check_tensor(stored: Any, live: Tensor, name: str, says: str) -> None:
    if not _is_plain(stored) or stored.shape != live.shape or stored.dtype != live.dtype:
        raise UserError(f"{says}: {name} is {_shown(stored)}, here {_shown(live)}")
    if live.is_floating_point() and not bool(stored.isfinite().all()) and bool(live.isfinite().all()):
        raise UserError(f"{says}: {name} holds NaN or inf")
    if live.dtype == torch.uint8:  # only the states of random generators are bytes
        device = "cpu" if stored.shape == torch.Generator().get_state().shape else "cuda"
        try:
            torch.Generator(device).set_state(stored.cpu())
        except RuntimeError as error:
            raise UserError(f"{says}: {name} is not the state of a random generator ({error})") from error


def _is_plain(value: Any) -> bool:
    """Whether it is an ordinary tensor with values."""
    return type(value) is Tensor and value.layout == torch.strided and not value.is_quantized and not value.is_meta


def _equal(stored: Any, live: Any) -> bool:
    """Whether two plain values are equal, also in kind."""
    if type(stored) is not type(live):
        return False
    if isinstance(live, dict):
        return stored.keys() == live.keys() and all(_equal(stored[key], live[key]) for key in live)
    if isinstance(live, list | tuple):
        return len(stored) == len(live) and all(map(_equal, stored, live))
    return bool(stored == live)


def _shown(value: Any) -> str:
    """A value in few words, whatever it is."""
    if value is None or isinstance(value, bool | int | float | str):
        return " ".join(str(value).split())[:80]
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, dict | list | tuple) else "")
