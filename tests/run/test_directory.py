"""A run directory belongs to one living process; leftovers of killed ones are replaced, and nothing else is touched."""

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sairlib.errors import UserError
from sairlib.resume import _unquoted
from sairlib.run.directory import LOCK, RunDirectory, holds_run, how_to_resume
from sairlib.run.lock import release

WORDS = {".hydra/overrides.yaml": "[]\n", "config.yaml": "seed: 1\n"}
EVENTS = f"events.out.tfevents.1700000000.{socket.gethostname()}."


def names(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def killed(path: Path, *files: str, owner: str = "123456 elsewhere") -> None:
    """Leave in ``path`` what a process leaves that is killed after it has written the documents and ``files``."""
    place = RunDirectory(path)
    place.write(WORDS)
    for name in files:
        (path / name).write_text("old")
    assert place._lock is not None
    release(place._lock)
    lock = path / LOCK
    lock.write_text("\n".join([owner, *lock.read_text().splitlines()[1:]]) + "\n")


def fail_in(path: Path, *files: str) -> None:
    """A run that is interrupted after it has written the documents and ``files``."""
    with suppress(KeyboardInterrupt), RunDirectory(path) as place:
        place.write(WORDS)
        for name in files:
            (path / name).touch()
        raise KeyboardInterrupt


def test_a_directory_has_one_owner_who_is_named(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as place:
        place.write(WORDS)
        for resume in (False, True):
            with pytest.raises(UserError, match=f"in use by process {os.getpid()} on {socket.gethostname()}"):
                RunDirectory(tmp_path / "run", resume)
        assert names(tmp_path / "run") == {LOCK, *WORDS}
        (tmp_path / "run" / "last.pt").touch()
    assert names(tmp_path / "run") == {"last.pt", *WORDS}
    with pytest.raises(UserError, match=r"already holds a run .*python -m sairlib\.resume run="):
        RunDirectory(tmp_path / "run")
    with RunDirectory(tmp_path / "run", resume=True) as place:
        assert place.has_state
    assert names(tmp_path / "run") == {"last.pt", *WORDS}


def test_a_run_without_a_checkpoint_leaves_only_what_was_there(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    fail_in(run)
    assert list(tmp_path.iterdir()) == []
    others = ("notes.txt", ".hydra/mine.yaml", f"{EVENTS}{os.getpid()}.0", "events.out.tfevents.1.other.7.0")
    (run / ".hydra").mkdir(parents=True)
    for name in others:
        (run / name).write_text("mine")
    fail_in(run, "run.json", "metrics.jsonl", "best.pt", f"{EVENTS}{os.getpid()}.1")
    assert names(run) == set(others)


def test_leftovers_of_a_killed_run_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    foreign = "events.out.tfevents.1700000000.elsewhere.7.0"
    early = ("run.json", "metrics.jsonl", "best.pt", "last.pt.123456.tmp", f"{foreign[:-3]}123456.0")
    killed(tmp_path, *early, foreign, "metrics.jsonl.bak")
    kept = {"notes.txt", foreign, "metrics.jsonl.bak"}
    assert names(tmp_path) == {LOCK, *WORDS, *early, *kept} and holds_run(tmp_path)
    with RunDirectory(tmp_path) as place:
        assert names(tmp_path) == {LOCK, *kept}
        place.write(WORDS)
        (tmp_path / "last.pt").touch()
    assert names(tmp_path) == {"last.pt", *WORDS, *kept}


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_killed_run_was_just_writing_is_removed(tmp_path: Path, resume: bool) -> None:
    mine = f"last.pt.{os.getpid()}.tmp"
    killed(tmp_path, "last.pt.123456.tmp", "best.pt.123456.tmp", "notes.123456.tmp", mine)
    with RunDirectory(tmp_path, resume=resume):
        assert {name for name in names(tmp_path) if name.endswith(".tmp")} == {"notes.123456.tmp", mine}


def test_a_leftover_can_be_resumed_and_still_be_replaced_when_that_is_killed_too(tmp_path: Path) -> None:
    killed(tmp_path, "metrics.jsonl", "best.pt", "last.pt.123456.tmp")
    for end in (None, UserError("the data is not there today")):
        with suppress(UserError), RunDirectory(tmp_path, resume=True) as place:
            assert not place.has_state and names(tmp_path) == {LOCK, "metrics.jsonl", "best.pt", *WORDS}
            if end:
                raise end
    with RunDirectory(tmp_path, resume=True) as place:
        place.clear_record()
        assert names(tmp_path) == {LOCK, *WORDS}
    RunDirectory(tmp_path).close()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["config.yaml", "best.pt", "test.json", "last.pt"])
def test_files_that_no_lock_names_are_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"already holds a run .*{name}"):
        RunDirectory(tmp_path)
    assert names(tmp_path) == {name}
    (tmp_path / LOCK).write_text("7 elsewhere\n../notes.txt\n/etc/x\nlast.pt\ntest.json\n")  # names that it cannot give
    with pytest.raises(UserError, match="already holds a run"):
        RunDirectory(tmp_path)
    assert names(tmp_path) == {name, LOCK}


def test_a_lock_ends_with_its_process_even_where_a_child_of_that_lives_on(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from sairlib.run.directory import RunDirectory\n"
        f"place = RunDirectory(Path({str(tmp_path)!r})); place.write({WORDS!r})\n"
        "if os.fork() == 0: print(os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    try:
        with pytest.raises(UserError, match=f"in use by process {owner.pid} on"):
            RunDirectory(tmp_path)
        owner.kill()
        owner.wait()
        RunDirectory(tmp_path).close()
        assert names(tmp_path) == set()
    finally:
        os.kill(child, 9)
        owner.stdout.close()


def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as place:
        assert place._lock is not None and not os.get_inheritable(place._lock)


def test_where_locks_do_not_work_the_file_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with RunDirectory(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on .* remove .lock in the dir"):
        RunDirectory(tmp_path)
    RunDirectory(tmp_path).close()
    killed(tmp_path)
    with pytest.raises(UserError, match=r"process 123456 on elsewhere: .*if it has ended, remove \.lock"):
        RunDirectory(tmp_path)


def test_a_lock_that_its_owner_has_just_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, tried = fcntl.flock, []

    def removed_before(descriptor: int, how: int) -> None:
        if not tried:
            (tmp_path / LOCK).unlink()
        tried.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with RunDirectory(tmp_path):
        assert len(tried) == 2 and (tmp_path / LOCK).is_file()
        with pytest.raises(UserError, match="in use"):
            RunDirectory(tmp_path)


def test_what_became_of_a_removed_directory_is_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    place = RunDirectory(run)
    place.write(WORDS)
    shutil.rmtree(run)
    other = RunDirectory(run)
    other.write(WORDS)
    place.close()
    assert names(run) == {LOCK, *WORDS}
    other.close()
    gone = RunDirectory(run)
    shutil.rmtree(run)
    gone.close()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("file", "is not a directory"),
        ("file/run", "Not a directory"),
        ("dangling", "is not a directory"),
        ("n" * 300, "File name too long"),
        ("/proc/nowhere/run", "No such file"),
        ("null\0byte", "null"),
        ("fifo", "is not a file"),
        ("folder", "Is a directory"),
        ("link", "cannot write"),
        ("hydra", r"could not write .*\.hydra"),
    ],
)
def test_a_directory_that_cannot_be_used_gets_one_line(tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("fifo", "folder", "link", "hydra"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "fifo" / LOCK)
    (tmp_path / "folder" / LOCK).mkdir()
    (tmp_path / "link" / LOCK).symlink_to(tmp_path / "file")
    (tmp_path / "hydra" / ".hydra").write_text("mine")
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(UserError, match=says) as caught, RunDirectory(tmp_path / path) as place:
        place.write(WORDS)
    assert "\n" not in str(caught.value)
    assert sorted(map(str, tmp_path.rglob("*"))) == before and (tmp_path / "file").read_text() == "mine"
    with pytest.raises(UserError, match="no checkpoint at"):
        RunDirectory(tmp_path / path, resume=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("call", ["open", "write", "mkdir"])
def test_a_directory_that_cannot_be_written_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)  # the tests may run as root, whom no mode keeps out
    with pytest.raises(UserError, match=rf"cannot write in the run directory .*run \({os.strerror(number)}\)"):
        RunDirectory(tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []


NAMES = ["run", "a b", "a  b", "it's", '"x"', "'x'", "'", "x\\'y", "new\nline", "tab\there", "é☃", "$HOME", "a;b", "-x"]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"not \xff utf-8"), "\u00a0", "back\\", "${x}", "a,b=[1]{2}"])
def test_the_command_to_resume_survives_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    shell = shutil.which("bash") or pytest.skip("needs bash")
    command = how_to_resume(Path(name))
    assert " ".join(command.split()) == command  # so does the report of an error write it
    start = "python -m sairlib.resume "
    assert command.startswith(start)
    done = subprocess.run([shell, "-c", "printf %s " + command.removeprefix(start)], capture_output=True, check=True)
    word = os.fsdecode(done.stdout)
    assert _unquoted(word.removeprefix("run=")) == name
