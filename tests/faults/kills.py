"""Faults of the process: kill -9, signals, and steps that a cluster takes, at random moments of real trainings.

A try starts a tiny training in a forked process (importing torch takes longer than all of it), ends it at a random
moment, resumes it, perhaps ends it again, and at last lets it finish. Whatever it left must be equal, to the last bit,
to what a run of the same settings leaves that nobody touched.
"""

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from random import Random

import torch
import torch._dynamo  # an optimiser loads it: once here, not in every process
from command_helpers import actions_with_new_last_items, write_data
from fault import LostError, fault
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_helpers import records, tensors

import sairlib
from sairlib import build
from sairlib.commands import run_command
from sairlib.resume import resume
from sairlib.run import checkpoint, distributed
from sairlib.run.directory import holds_run

KINDS = {
    "sasrec": ("model=sasrec", "training.schedule=cosine"),
    "by rows": ("model=sasrec", "training.batch_size=1", "training.epochs=2"),
    "sair": ("model=sair", "training.weight_decay=0.01", "training.eval_every=2"),
    "bert4rec": ("model=bert4rec", "training.optimizer=adagrad"),
    "sine": ("model=sine", "training.grad_clip=0.5"),
    "fpmc": ("model=fpmc",),
}
TINY = (
    *("device=cpu", "max_len=8", "training.epochs=4", "training.batch_size=8", "training.save_every=2"),
    *("model.d=8", "evaluation.n_candidates=5"),
)
FILES = {"config.yaml", "run.json", "metrics.jsonl", "best.pt", "last.pt", "ranks.npz", "test.json", ".hydra"}


@cache
def data() -> Path:
    """A folder with the data set, kept until this process ends."""
    folder = Path(_KEPT.name)
    write_data(folder, actions_with_new_last_items())
    return folder / "data"


_KEPT = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


def words(kind: str) -> tuple[str, ...]:
    return *TINY, f"data.root={data()}", "data.cache=null", *KINDS[kind]


@cache
def untouched(kind: str) -> tuple[Path, float]:
    """The directory of a run of this kind that nobody touched, and the seconds that it took."""
    directory, start = data().parent / kind.replace(" ", "-"), time.perf_counter()
    code = ended(started(lambda: run(kind, directory), directory.with_suffix(".txt")))
    if code:
        raise LostError(directory.with_suffix(".txt").read_text())
    return directory, time.perf_counter() - start


def run(kind: str, directory: Path) -> object:
    """What the commands do: a new run, or the one in the directory resumed."""
    if holds_run(directory):
        return resume(directory, [])
    return sairlib.study(*words(kind)).run(directory)


def started(work: Callable[[], object], output: Path) -> int:
    """Do this as a command does, in another process, which writes to ``output``; returns its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(descriptor, number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        torch.manual_seed(os.getpid())  # as different as two processes are
        run_command(lambda _: work(), str)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(process: int) -> int:
    """Wait for its end; its exit code, or minus the number of the signal that ended it."""
    for _ in range(6000):
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise LostError("it hung for a minute")


def finish(kind: str, directory: Path, output: Path) -> None:
    """Resume the run, and let it end."""
    if ended(started(lambda: run(kind, directory), output)):
        raise LostError(f"{kind}: it cannot be resumed\n{output.read_text()}")


def check_equal(directory: Path, kind: str, output: Path) -> None:
    """The finished run is equal to the one that nobody touched."""
    whole = untouched(kind)[0]
    names = {path.name for path in directory.iterdir() if "tfevents" not in path.name}
    if names != FILES:
        raise LostError(f"{kind}: the directory holds {sorted(names)}\n{output.read_text()}")
    if (directory / "test.json").read_text() != (whole / "test.json").read_text():
        raise LostError(f"{kind}: other test figures")
    if records(directory) != records(whole) or curves(directory) != curves(whole):
        raise LostError(f"{kind}: another record\n{output.read_text()}")
    for name in ("best.pt", "last.pt"):
        one, other = (dict(tensors(checkpoint.load(folder / name))) for folder in (directory, whole))
        differing = [
            key
            for key in one.keys() | other.keys()
            if not key.endswith("seconds") and not same(one.get(key), other.get(key))
        ]
        if differing:
            raise LostError(f"{kind}: {name} differs in {differing}")


def same(one: object, other: object) -> bool:
    return (
        torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
    )


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve on TensorBoard but those of times."""
    board = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    names = [name for name in board.Tags()["scalars"] if not name.endswith(("_second", "_seconds"))]
    return {name: [(point.step, point.value) for point in board.Scalars(name)] for name in names}


@fault("kill -9 at a random moment of a training, up to three times, and resume", tries=120, few=3)
def kill(home: Path, random: Random) -> None:
    kind = random.choice(sorted(KINDS))
    seconds, directory, output = untouched(kind)[1], home / "run", home / "output.txt"
    for _ in range(random.randint(1, 3)):
        process = started(lambda: run(kind, directory), output)
        time.sleep(random.uniform(0, 1.1 * seconds))
        os.kill(process, signal.SIGKILL)
        if ended(process) not in (0, -signal.SIGKILL):
            raise LostError(f"{kind}: it failed before it was killed\n{output.read_text()}")
    finish(kind, directory, output)
    check_equal(directory, kind, output)


@fault("SIGTERM, SIGINT or SIGHUP at a random moment of a training, and resume", tries=60, few=3)
def stop(home: Path, random: Random) -> None:
    kind, number = random.choice(sorted(KINDS)), random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    seconds, directory, output = untouched(kind)[1], home / "run", home / "output.txt"
    process = started(lambda: run(kind, directory), output)
    time.sleep(random.uniform(0, seconds))
    os.kill(process, number)
    code, began = ended(process), "SASRec" in output.read_text()
    if code not in (0, 128 + number, *(() if began else (-number,))):
        raise LostError(f"{kind}: {signal.Signals(number).name} gave exit code {code}\n{output.read_text()}")
    if "Traceback" in output.read_text():
        raise LostError(output.read_text())
    if code == 128 + number and "resume it by" in output.read_text() and not (directory / "last.pt").exists():
        raise LostError("it says how to resume, but has saved nothing")
    finish(kind, directory, output)
    check_equal(directory, kind, output)


@fault("SIGTERM twice: the second ends the process at once, the files stay whole", tries=20, few=1)
def stop_twice(home: Path, random: Random) -> None:
    kind = random.choice(sorted(KINDS))
    seconds, directory, output = untouched(kind)[1], home / "run", home / "output.txt"
    process = started(lambda: run(kind, directory), output)
    time.sleep(random.uniform(0.2, 1) * seconds)
    for _ in range(2):
        os.kill(process, signal.SIGTERM)
    if ended(process) not in (0, 143, -signal.SIGTERM):
        raise LostError(output.read_text())
    finish(kind, directory, output)
    check_equal(directory, kind, output)


@fault("a cluster takes the job back: SIGUSR1, some steps later SIGTERM, and the same command again", tries=30, few=1)
def preempt(home: Path, random: Random) -> None:
    kind = random.choice(sorted(KINDS))
    seconds, directory, output = untouched(kind)[1], home / "run", home / "output.txt"
    process = started(lambda: run(kind, directory), output)
    while not (directory / "metrics.jsonl").exists():  # it trains: before that, the signal ends it, as any process
        time.sleep(0.002)
        if os.waitpid(process, os.WNOHANG)[0]:
            raise LostError(output.read_text())
    time.sleep(random.uniform(0.05, 0.5) * seconds)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        os.kill(process, number)
        time.sleep(0.05)
    if ended(process) not in (0, 143, -signal.SIGTERM, -signal.SIGUSR1):
        raise LostError(output.read_text())
    finish(kind, directory, output)
    check_equal(directory, kind, output)


def together(rank: int, port: int, work: Callable[[], object]) -> object:
    """Do this as one of two processes that train together."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", **address}
    distributed.join()
    return work()


@fault(
    "kill -9 of one of two processes that train together: the other ends with one line, the run goes on",
    tries=20,
    few=1,
)
def kill_one_of_two(home: Path, random: Random) -> None:
    kind = random.choice(sorted(KINDS))
    seconds, directory, output = untouched(kind)[1], home / "run", home / "output.txt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [started(partial(together, rank, port, lambda: run(kind, directory)), output) for rank in (0, 1)]
    while not (directory / "last.pt").exists():
        time.sleep(0.01)
        if os.waitpid(both[0], os.WNOHANG)[0]:
            raise LostError(output.read_text())
    time.sleep(random.uniform(0, 0.7) * seconds)
    killed = random.choice([0, 1])
    os.kill(both[killed], signal.SIGKILL)
    codes = [ended(process) for process in both]
    text = output.read_text()
    if codes[1 - killed] not in (0, 1) or "Traceback" in text:
        raise LostError(f"{kind}: {codes}\n{text}")
    if codes[1 - killed] == 1 and text.count("error: another process of this run has ended") != 1:
        raise LostError(f"{kind}: it does not say why\n{text}")
    finish(kind, directory, output)
    trained = [record["epoch"] for record in records(directory) if "train" in record]
    if trained != list(range(1, len(trained) + 1)) or not (directory / "test.json").exists():
        raise LostError(f"{kind}: epochs {trained}")


assert build.CONFIG_PATH  # loaded before any process is forked
