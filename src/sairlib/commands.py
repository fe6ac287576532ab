"""What the commands share: their help, and how they end. It imports neither Hydra nor torch: both load slowly."""

import io
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sairlib.errors import NonFiniteError, UserError, one_line

_CHECKOUT = Path(__file__).parents[2] / "conf"
CONF = _CHECKOUT if (_CHECKOUT / "train.yaml").is_file() else Path(__file__).parent / "conf"
"""The folder of all settings: the checkout's ``conf/`` if there is one, else the copy in the installed package."""
_SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"


_PRESSED: list[int] = []


def _note(number: int, frame: object) -> None:
    _PRESSED.append(number)


@contextmanager
def whole_start() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block: imports and Hydra may swallow it, or make any other error of it.

    The end of a block inside another one ends that one, too.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets it
        yield
        return
    before = signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _note:
            signal.signal(signal.SIGINT, signal.default_int_handler if before is _note else before)
        pressed = len(_PRESSED)
        _PRESSED.clear()
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def plain_errors() -> Iterator[None]:
    """Report an error meant for the user as one line on stderr, with exit code 1; a bug keeps its traceback.

    A closed pipe, as in ``| head -1``, ends the command without a word.

    HYDRA_FULL_ERROR=1 in the environment shows the tracebacks of all errors.
    """
    try:
        yield
    except (UserError, NonFiniteError) as error:
        if _SHOW_TRACEBACKS:
            raise
        if _speaks():
            print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # of | head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        sys.exit(141)  # as a program that SIGPIPE ends


def _speaks() -> bool:
    """Whether to print an error: several processes mostly meet the same one."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from sairlib import processes  # here: it loads torch

    return processes.speaks_for_all()


def run_command(main: Callable[[list[str]], object], explain: Callable[[], str]) -> None:
    """Run a command with the words of the command line; with ``--help``, print what ``explain`` returns instead.

    A Hydra job also uses ``plain_errors`` inside its task, before Hydra adds lines to an error. Ctrl-C ends the command
    with one line.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name of a file may have characters that it cannot show
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra catches all errors, and bugs lose their traceback
    words = sys.argv[1:]
    try:
        with plain_errors():
            if {"-h", "--help"} & set(words):
                print(explain())
            else:
                main(words)
            sys.stdout.flush()  # here, where a closed pipe can still be noticed
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def options(*groups: str) -> str:
    """The groups of ``conf/``, or these of them, and their options, for people."""
    lines = ["Groups and their options:"]
    for folder in sorted(path for path in CONF.rglob("*") if path.is_dir() and any(path.glob("*.yaml"))):
        names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        name = folder.relative_to(CONF).as_posix()
        if groups and name not in groups:
            continue
        start = f"    experiment={name.partition('/')[2]}/" if name.startswith("experiment/") else f"    {name}="
        lines.append(
            textwrap.fill(
                names, 116, initial_indent=f"{start:<36} ", subsequent_indent=" " * 37, break_on_hyphens=False
            )
        )
    return "\n".join(lines)
