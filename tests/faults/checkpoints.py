"""Checkpoints and run directories that are damaged, hold something else, or want to do harm.

Each try is loaded as valid and equal, or refused in one line; live objects that refused a state are as they were.
"""

import atexit
import copy
import hashlib
import io
import json
import math
import os
import pickle
import random
import shutil
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from command_helpers import actions_with_new_last_items, write_data
from fault import LostError, fault
from torch import Tensor
from trainer_helpers import make_trainer

import sairlib
from sairlib.errors import NonFiniteError, Stopped, UserError, one_line
from sairlib.run import checkpoint
from sairlib.run.log import RunLog
from sairlib.run.report import read_ranks
from sairlib.stored import words_of
from sairlib.training.requests import Requests
from sairlib.training.state import load_weights
from sairlib.training.trainer import Trainer

LONGEST = 20
"""Seconds that a try may take; most take hundredths."""
RUN = ("model=sasrec", "model.d=8", "max_len=8", "training.epochs=2", "device=cpu", "evaluation.n_candidates=5")


class Stopping(RunLog):
    """Asks to stop inside the second epoch, and prints nothing."""

    requests: Requests

    def progress(self, items: list[Any], title: str) -> Any:
        for i, item in enumerate(items):
            self.requests.stop = title == "epoch 2" and i == 1
            yield item

    def say(self, line: str) -> None:
        pass


@cache
def home() -> Path:
    """A folder for the runs that are then damaged; it goes when Python ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def stored() -> Path:
    """The directory of a training that was stopped inside its second epoch."""
    directory = home() / "stopped"
    directory.mkdir()
    trainer = make_trainer(epochs=2)
    with closing(Stopping(directory)) as log:
        log.requests = trainer.requests
        try:
            trainer.fit(log)
        except Stopped:
            return directory
    raise AssertionError("it was not stopped")


@cache
def finished() -> Path:
    """The directory of a finished run, with its data beside it."""
    place = home() / "finished"
    write_data(place, actions_with_new_last_items())
    words = (f"data.root={place / 'data'}", "data.cache=null", "dataset.url=null")
    with redirect_stdout(io.StringIO()):
        sairlib.study(*RUN, *words).run(place / "run")
    return place / "run"


@contextmanager
def survived(what: str, shown: Callable[[BaseException], str] = str) -> Iterator[None]:
    """LostError for anything but success and an error that is ``shown`` in one line, and for a hang."""
    start = time.monotonic()
    try:
        yield
    except (UserError, NonFiniteError) as error:
        if "\n" in shown(error) or not shown(error):
            raise LostError(f"{what}: not one line: {error!r}") from error
    if time.monotonic() - start > LONGEST:
        raise LostError(f"{what}: took {time.monotonic() - start:.0f} s")


def damaged(whole: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Bytes with flipped bits, cut off, grown, or with a piece overwritten."""
    at, n = rng.randrange(len(whole)), rng.randrange(1, 200)
    kind = rng.choice(("bit", "byte", "cut", "grown", "zeroed", "doubled", "dropped"))
    return f"{kind} at {at}", {
        "bit": whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :],
        "byte": whole[:at] + rng.randbytes(1) + whole[at + 1 :],
        "cut": whole[:at],
        "grown": whole + rng.choice((rng.randbytes(n), bytes(n), whole[-n:])),
        "zeroed": whole[:at] + bytes(min(n, len(whole) - at)) + whole[at + n :],
        "doubled": whole[:at] + whole[at : at + n] + whole[at:],
        "dropped": whole[:at] + whole[at + n :],
    }[kind]


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


LINES = (
    *(b"", b"{}", b"[1]", b"nothing", b"\xff\xfe\xfa", b'{"epoch": ', b'{"epoch": NaN}', b'{"epoch": "1"}', b"\0" * 50),
    *(b'{"epoch": 1e999}', b'{"epoch": -1}', b"[" * 20_000, b'{"epoch": ' + b"9" * 5000 + b"}", b'{"epoch": [1]}'),
)


@fault("the record of a run that goes on is damaged", tries=100)
def record_damaged(place: Path, rng: random.Random) -> None:
    path = place / "metrics.jsonl"
    whole = (stored() / "metrics.jsonl").read_bytes()
    lines = whole.splitlines()
    what = "lines"
    if rng.random() < 0.5:
        what, content = damaged(whole, rng)
    else:
        for _ in range(rng.randrange(1, 5)):
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))
        content = b"\n".join(lines) + rng.choice((b"\n", b""))
    path.write_bytes(content)
    with survived(what), redirect_stdout(io.StringIO()), closing(RunLog(place, 1, 3)) as log:
        log.record(2, 6, train={"loss": 0.5})
    for line in path.read_bytes().splitlines():
        if not isinstance(json.loads(line)["epoch"], int):
            raise LostError(f"{what}: {line!r} was kept")
    kept = set(path.read_bytes().splitlines())
    if what == "lines" and not set(whole.splitlines()) <= kept:
        raise LostError(f"{what}: a good line was dropped")


@fault("the ranks of a run are damaged", tries=100)
def ranks_damaged(place: Path, rng: random.Random) -> None:
    whole = (finished() / "ranks.npz").read_bytes()
    what, content = damaged(whole, rng)
    (place / "ranks.npz").write_bytes(content)
    users, ranks = read_ranks(finished() / "ranks.npz")
    with survived(what):
        others, by_ranking = read_ranks(place / "ranks.npz")
        equal = others.tolist() == users.tolist() and by_ranking.keys() == ranks.keys()
        for name in ranks if equal else ():
            equal &= by_ranking[name].better_E.tolist() == ranks[name].better_E.tolist()
            equal &= by_ranking[name].tied_E.tolist() == ranks[name].tied_E.tolist()
        if not equal:
            raise LostError(f"{what}: other ranks were taken")


@fault("a file of a finished run is damaged or gone", tries=100)
def run_damaged(place: Path, rng: random.Random) -> None:
    run = place / "run"
    shutil.copytree(finished(), run)
    name = rng.choice(("config.yaml", "config.yaml", "config.yaml", "best.pt", ".hydra/overrides.yaml"))
    kind = rng.choice(("damaged", "damaged", "damaged", "gone", "folder", "fifo", "link"))
    path, what = run / name, f"{name} {kind} "
    whole = path.read_bytes()
    if kind == "damaged":
        more, content = damaged(whole, rng)
        what += more
        path.write_bytes(content)
    else:
        path.unlink()
        make = {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(path)}
        make.get(kind, lambda: None)()
    with survived(what, one_line), redirect_stdout(io.StringIO()):
        if name.startswith(".hydra"):
            words_of(run)
        else:
            test = sairlib.load(run, device="cpu").test()
            if name == "best.pt" and test != json.loads((run / "test.json").read_text()):
                raise LostError(f"{what}: other figures came out")
