"""What the commands share: how errors reach the person who typed."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sairlib.build import one_line
from sairlib.errors import NonFiniteError, UserError

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
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


def run_command(main: Callable[[], object]) -> None:
    """Run a command. A Hydra main's task guards itself with ``plain_errors``, before Hydra adds lines of its own."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra catches everything, and bugs lose their traceback
    try:
        with plain_errors():
            main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
