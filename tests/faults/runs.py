"""Faults of run directories: several owners, owners that are killed, disks that fail, names, damaged configurations."""

import errno
import os
import shutil
import signal
import string
import subprocess
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from unittest.mock import patch

from fault import LostError, fault

from sairlib.errors import UserError
from sairlib.files import write_json, write_text
from sairlib.resume import _unquoted
from sairlib.run import changes
from sairlib.run.directory import DOCUMENTS, EARLY, LOCK, RunDirectory, holds_run, how_to_resume

CALLS = ("open", "write", "mkdir", "replace", "unlink", "ftruncate", "fsync", "rmdir", "listdir", "close")
"""What a run asks of the system while its directory has no checkpoint yet."""
FOREIGN = dict.fromkeys(("notes.txt", "data/x.csv", ".hydra/mine.yaml", "events.out.tfevents.7.host.8.0"), "mine")
DAMAGE = (b"\0", b"\xff", b"&", b"*a", b": ", b"\n- ", b"{", b"9", b"")


def check(right: bool, what: str) -> None:
    if not right:
        raise LostError(what)


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def put_foreign_files(folder: Path) -> None:
    for name, text in FOREIGN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def write_early(place: RunDirectory, seed: int) -> None:
    """What a run writes before its first checkpoint."""
    place.write(dict.fromkeys(DOCUMENTS, f"seed: {seed}\n"))
    write_json(place.path / "run.json", {"seed": seed})
    for name in EARLY[1:]:
        write_text(place.path / name, str(seed))


def check_whole_run(folder: Path, seed: int) -> None:
    """A new run works here, and all the files of the directory are its own or foreign."""
    with RunDirectory(folder) as place:
        write_early(place, seed)
        write_text(folder / "last.pt", str(seed))
    own = {**dict.fromkeys(DOCUMENTS, f"seed: {seed}\n"), **dict.fromkeys((*EARLY, "last.pt"), str(seed))}
    there = content(folder)
    there["run.json"] = str(seed) if str(seed) in there["run.json"] else "of another"
    check(there == {**own, **{name: FOREIGN[name] for name in FOREIGN if name in there}}, f"of others: {there}")


def at_call(number: int, act: Callable[[], None], *names: str) -> ExitStack:
    """Within it, the call of this number of one of these functions of ``os`` acts before it does its work."""
    stack, left = ExitStack(), [number]

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                act()
            return function(*given, **named)

        return call

    for name in names:
        stack.enter_context(patch.object(os, name, counted(getattr(os, name))))
    return stack


def child(work: Callable[[], None]) -> int:
    """Fork a process that does this work, and then waits for its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does nothing with threads
        process = os.fork()
    if process == 0:
        try:
            work()
            signal.pause()
        finally:
            os._exit(1)
    return process


@fault("runs started together in one directory", tries=100)
def together(home: Path, random: Random) -> None:
    n, start, run = random.randint(2, 6), threading.Barrier(6), home / "a" / "run"
    ended, owners, trouble = threading.Barrier(6), [], []

    def one(seed: int) -> None:
        try:
            start.wait()
            if seed > n:
                ended.wait()
                return
            try:
                with RunDirectory(run) as place:
                    owners.append(seed)
                    write_early(place, seed)
                    write_text(run / "last.pt", str(seed))
                    ended.wait()  # it lives until all have tried
            except UserError as error:
                if "in use by" not in str(error):
                    trouble.append(error)
                ended.wait()
        except BaseException as error:
            trouble.append(error)
            ended.abort()

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(not trouble, f"{trouble}")
    check(len(owners) == 1, f"{len(owners)} owners at once")
    check((run / "config.yaml").read_text() == f"seed: {owners[0]}\n", "another's files")
    check(not (run / LOCK).exists(), "a lock is left")


@fault("kill -9 before the first checkpoint", tries=300, few=4)
def killed_early(home: Path, random: Random) -> None:
    run = home / "run"
    if random.random() < 0.5:
        put_foreign_files(run)
    for seed in range(random.randint(1, 3)):  # one after the other, into what is left

        def work(seed: int = seed) -> None:
            with at_call(random.randint(1, 45), lambda: os.kill(os.getpid(), signal.SIGKILL), *CALLS):
                place = RunDirectory(run, resume=holds_run(run) and seed == 1)
                if place.resumed:
                    place.clear_record()
                write_early(place, seed)
                os.kill(os.getpid(), signal.SIGKILL)

        random.random()
        _, status = os.waitpid(child(work), 0)
        check(os.WIFSIGNALED(status), "refused what a killed run has left")
    for name, text in FOREIGN.items():
        check(not (run / name).exists() or (run / name).read_text() == text, f"{name} was touched")
    if holds_run(run):
        with RunDirectory(run, resume=True) as place:
            check((run / DOCUMENTS[0]).read_text().startswith("seed: "), "no words to resume by")
            place.clear_record()
            check(not any((run / name).exists() for name in EARLY), "a record of another start")
    check_whole_run(run, 7)


@fault("kill -9 of the owner of a directory", tries=50)
def killed_owner(home: Path, random: Random) -> None:
    held = home / "held"

    def work() -> None:
        os.setpgid(0, 0)
        RunDirectory(home / "run")
        if random.random() < 0.5:
            child(lambda: held.touch())  # which lives on
        else:
            held.touch()
        signal.pause()

    owner = child(work)
    try:
        while not held.exists():
            pass
        try:
            RunDirectory(home / "run")
            raise LostError("two owners")
        except UserError as error:
            check(f"in use by process {owner} on" in str(error), str(error))
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        check_whole_run(home / "run", 1)
    finally:
        with suppress(ProcessLookupError):  # those that it has started
            os.killpg(owner, signal.SIGKILL)


@fault("a disk that fails once before the first checkpoint", tries=300, few=4)
def failing_disk(home: Path, random: Random) -> None:
    run, number = home / "run", random.choice([errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO, errno.ENOENT])
    foreign = random.random() < 0.5
    if foreign:
        put_foreign_files(run)

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    calls = [name for name in CALLS if name != "close"]
    try:
        with at_call(random.randint(1, 40), fail, *calls), RunDirectory(run) as place:
            write_early(place, 1)
            raise UserError("no data")
    except UserError as error:
        check("\n" not in str(error), f"more than a line: {error}")
    if foreign:
        check(all(content(run)[name] == text for name, text in FOREIGN.items()), "a foreign file was touched")
    check_whole_run(run, 2)


@fault("a directory that vanishes", tries=100)
def vanishing(home: Path, random: Random) -> None:
    run = home / "run"

    def vanish() -> None:
        left[:] = []
        shutil.rmtree(run, ignore_errors=True)
        if random.random() < 0.3:
            run.write_text("mine")

    left = [True]
    try:
        with RunDirectory(run) as place, at_call(random.randint(1, 25), vanish, "replace", "fsync"):
            write_early(place, 1)
    except UserError as error:
        check("\n" not in str(error), f"more than a line: {error}")
    check(not run.is_file() or run.read_text() == "mine", "touched what came in its place")
    check(not run.is_dir() or not (run / LOCK).exists(), "a lock is left")


@fault("the command to resume, pasted into a shell", tries=300, few=4)
def pasted(home: Path, random: Random) -> None:
    letters = string.printable.replace("/", "") + "éß☃🎬\u00a0\u2028" + os.fsdecode(b"\xff\xc3") + "'\"\\ $!*\n" * 3
    name = "".join(random.choice(letters) for _ in range(random.randint(1, 12)))
    if name in (".", ".."):
        return
    command = how_to_resume(home / name)
    check(command == " ".join(command.split()), "it is not one line")
    word = command.removeprefix("python -m sairlib.resume ")
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    typed = _unquoted(os.fsdecode(done.stdout).removeprefix("run="))
    check(Path(typed).absolute() == home / name, f"{name!r} became {typed!r}")


@fault("a damaged config.yaml of a run to resume", tries=200)
def damaged_configuration(home: Path, random: Random) -> None:
    text = "training:\n  lr: 0.001\n  betas: [0.9, 0.98]\nseed: 1\nnegatives: null\nrun_dir: a\n"
    damaged = bytearray(text.encode())
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(damaged))
        damaged[at : at + random.choice([0, 1, 1, 5])] = random.choice(DAMAGE)
    (home / "config.yaml").write_bytes(damaged)
    try:
        stored = changes.read(home / "config.yaml")
        changes.refuse(changes.differences(stored, changes.flat(text, "given")), home)
    except UserError as error:
        check(len(" ".join(str(error).split())) < 1500, "not a line")
