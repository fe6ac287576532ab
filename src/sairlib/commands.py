"""What the commands share: how they report errors."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sairlib.build import one_line
from sairlib.errors import NonFiniteError, UserError

_SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def plain_errors() -> Iterator[None]:
    """Report an error meant for the user as one line on stderr, with exit code 1; a bug keeps its traceback.

    HYDRA_FULL_ERROR=1 in the environment shows the tracebacks of all errors.
    """
    try:
        yield
    except (UserError, NonFiniteError, HydraException, OmegaConfBaseException) as error:
        if _SHOW_TRACEBACKS:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


def run_command(main: Callable[[], object]) -> None:
    """Run a command. A Hydra main also uses ``plain_errors`` inside its task, before Hydra adds lines to an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name of a file may have characters that it cannot show
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra catches all errors, and bugs lose their traceback
    try:
        with plain_errors():
            main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
