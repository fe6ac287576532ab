"""Checkpoints that are damaged, hold something else, or want to do harm.

Each try is loaded as valid and equal, or refused in one line; live objects that refused a state are as they were.
"""

import copy
import hashlib
import io
import math
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from damage import damaged, stored, survived
from fault import LostError, fault
from torch import Tensor
from trainer_helpers import make_trainer

from sairlib.run import checkpoint
from sairlib.training.state import load_weights
from sairlib.training.trainer import Trainer


@fault("a checkpoint is damaged: bits flipped, cut off, grown", tries=250)
def checkpoint_damaged(place: Path, rng: random.Random) -> None:
    name = rng.choice(("last.pt", "best.pt"))
    whole = (stored() / name).read_bytes()
    what, content = damaged(whole, rng)
    (place / name).write_bytes(content)
    loaded = None
    with survived(what):
        loaded = checkpoint.load(place / name)
    if loaded is not None and content != whole:
        raise LostError(f"{name}: {what} was not noticed")


# What a leaf becomes: something of another kind, or out of range.
OTHERS: tuple[Any, ...] = (
    *(None, True, -1, 10**30, 2**62, -0.5, math.nan, math.inf, "", "a word\nand another", [], {}, (), [None], {"a": 1}),
    *(torch.ones(1), torch.ones(2, 3, dtype=torch.int64), torch.zeros(0), torch.ones(2) * 1j, {1: torch.ones(3)}),
)
TENSORS: tuple[Callable[[Tensor], Any], ...] = (
    lambda tensor: tensor.long() if tensor.is_floating_point() else tensor.double(),
    lambda tensor: tensor.to(torch.bfloat16),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor.reshape(-1)[:-1],
    lambda tensor: tensor[None],
    lambda tensor: tensor.new_zeros(0),
    lambda tensor: tensor.new_zeros(3, 4, 5),
    lambda tensor: torch.full(tensor.shape, math.nan),
    lambda tensor: torch.full(tensor.shape, -math.inf),
    lambda tensor: tensor.tolist() if tensor.numel() < 100 else 0,
    lambda tensor: torch.nn.Parameter(torch.zeros(tensor.shape)),
)
OPEN = {"best", "figures"}
"""Figures by their names: one may be missing."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every part of a nested state."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from places(part, (*path, i))


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the last bit, and in kind."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def changed(state: dict[str, Any], rng: random.Random) -> str:
    """Change one part of the state in place: another leaf, a key too many or too few."""
    path = rng.choice(list(places(state)))
    inside: Any = state
    for key in path[:-1]:
        inside = inside[key]
    old = inside[path[-1]]
    kind = rng.choice(("other", "other", "more", "fewer"))
    if kind == "more" and isinstance(old, dict | list):
        extra = rng.choice(OTHERS)
        old.update({"more": extra}) if isinstance(old, dict) else old.append(extra)
    elif kind == "fewer" and not OPEN & set(path[:-1]) and path[-2:-1] != ("state",):
        inside.pop(path[-1])
    elif isinstance(old, Tensor) and rng.random() < 0.7:
        inside[path[-1]] = rng.choice(TENSORS)(old)
    else:
        inside[path[-1]] = rng.choice([other for other in OTHERS if not same(other, old)])
    return f"{kind} at {'.'.join(map(str, path))}: {str(inside if kind == 'fewer' else inside[path[-1]])[:60]!r}"


def contents(trainer: Trainer) -> dict[str, Any]:
    """What a state is loaded into."""
    return {
        "model": trainer.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.learner.optimizers],
        "progress": asdict(trainer.progress),
        "epoch": trainer.epoch and asdict(trainer.epoch),
        "step": trainer.learner.n_steps,
        "generators": (trainer.learner.generator.get_state(), torch.get_rng_state()),
    }


@cache
def original() -> dict[str, Any]:
    trainer = make_trainer(epochs=2)
    trainer.restore(checkpoint.load(stored() / "last.pt"), "last.pt")
    return copy.deepcopy(contents(trainer))


def resumed(path: Path, what: str) -> tuple[Trainer, bool]:
    """A trainer into which the checkpoint was loaded, or which refused it and is as it was."""
    trainer, done = make_trainer(epochs=2), False
    before = copy.deepcopy(contents(trainer))
    with survived(what):
        trainer.restore(checkpoint.load(path), path)
        done = True
    if not done and not same(contents(trainer), before):
        raise LostError(f"{what}: half of it was loaded")
    return trainer, done


@fault("a checkpoint holds something else, well-formed", tries=300)
def content_changed(place: Path, rng: random.Random) -> None:
    state = checkpoint.load(stored() / "last.pt")
    what = changed(state, rng)
    try:
        checkpoint.save(place / "last.pt", state)
    except OverflowError:  # torch writes no such number
        return
    trainer, done = resumed(place / "last.pt", what)
    if done and not same(contents(trainer), original()):
        raise LostError(f"{what}: was taken")


@fault("the weights that validation chose are something else", tries=100)
def best_changed(place: Path, rng: random.Random) -> None:
    state = checkpoint.load(stored() / "best.pt")
    what = changed(state, rng)
    try:
        checkpoint.save(place / "best.pt", state)
    except OverflowError:
        return
    trainer, done = make_trainer(epochs=2), False
    before = copy.deepcopy(trainer.model.state_dict())
    with survived(what):
        loaded = checkpoint.load(place / "best.pt")
        done = load_weights(trainer.model, loaded, trainer.identity, place / "best.pt") == 1
    expected = checkpoint.load(stored() / "best.pt")["model"] if done else before
    if not same(dict(trainer.model.state_dict()), dict(expected)):
        raise LostError(f"{what}: {'other weights were taken' if done else 'half of it was loaded'}")


def repacked(path: Path, members: dict[str, bytes]) -> None:
    """Write a zip as torch does, with the checksum of sairlib."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    whole = file.getvalue()
    comment = b"sairlib sha256 " + hashlib.sha256(whole).hexdigest().encode()
    path.write_bytes(whole[:-2] + struct.pack("<H", len(comment)) + comment)


@cache
def parts() -> dict[str, bytes]:
    with zipfile.ZipFile(stored() / "last.pt") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@fault("a checkpoint's pickle is damaged, its checksums right", tries=200)
def pickle_damaged(place: Path, rng: random.Random) -> None:
    members = dict(parts())
    name = rng.choice([name for name in members if "/data/" not in name] + 5 * ["archive/data.pkl"])
    what = f"{name}: "
    for _ in range(rng.randrange(1, 4)):
        kind, members[name] = damaged(members[name] or b"\0", rng)
        what += kind
    repacked(place / "last.pt", members)
    resumed(place / "last.pt", what)


class Evil:
    """Unpickles to whatever it likes."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@fault("a checkpoint's pickle wants to run something", tries=100)
def pickle_hostile(place: Path, rng: random.Random) -> None:
    trap = place / "trap"
    code = f"open({str(trap)!r}, 'w')"
    evil: Any = rng.choice(
        (
            Evil(open, str(trap), "w"),
            Evil(os.system, f"touch {trap}"),
            Evil(eval, code),
            Evil(exec, code),
            Evil(os.mkdir, str(trap)),
            Evil(Path.touch, trap),
            Evil(torch.save, {}, str(trap)),
            Evil(getattr, Path, "cwd"),
            Evil(bytearray, 10**12),
            Evil(torch.zeros, 10**12),
        )
    )
    path = place / "last.pt"
    state = checkpoint.load(stored() / "last.pt")
    where = rng.choice(list(places(state)))
    inside: Any = state
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] = evil
    how = rng.choice(("checkpoint", "zip", "pickle", "old torch"))
    if how == "checkpoint":
        checkpoint.save(path, state)
    elif how == "zip":
        protocol = rng.randrange(6)
        repacked(path, {**parts(), "archive/data.pkl": pickle.dumps(evil, protocol)})
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"format": 2, "model": evil}, rng.randrange(6)))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=False)
    _, done = resumed(path, f"{how}, {evil.call}")
    if trap.exists():
        raise LostError(f"{how}: {evil.call} was run")
    if done:
        raise LostError(f"{how}: {evil.call} was taken")
