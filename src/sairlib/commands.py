"""What the commands share: where the configuration lies, and how errors reach the person who typed."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sairlib.errors import UserError
from sairlib.evaluator import NonFiniteError

_CHECKOUT = Path(__file__).parents[2] / "conf"
CONFIG_PATH = str(_CHECKOUT) if (_CHECKOUT / "train.yaml").is_file() else "pkg://sairlib.conf"
"""The checkout's ``conf/`` where there is one, else the copy inside the wheel."""

_WANTS_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error meant for the user into one line on stderr and exit code 1; a bug keeps its traceback.

    HYDRA_FULL_ERROR=1 in the environment shows the tracebacks of all.
    """
    try:
        yield
    except (UserError, NonFiniteError, HydraException, OmegaConfBaseException) as error:
        if _WANTS_TRACEBACKS:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)


def run_command(main: Callable[[], None]) -> None:
    """Run a Hydra main. Its task is to guard itself with ``plain_errors``, before Hydra adds lines of its own."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra catches everything, and bugs lose their traceback
    try:
        with plain_errors():
            main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _one_line(error: BaseException) -> str:
    """The message, or, where a wrapper has none, that of what it wraps."""
    told: BaseException | None = error
    while told is not None and not str(told).strip():
        told = told.__cause__
    return " ".join(str(told or type(error).__name__).split())
