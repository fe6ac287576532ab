"""Stored runs for the faults of checkpoints and of run directories, and ways to damage their bytes."""

import atexit
import io
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from functools import cache
from pathlib import Path

from command_helpers import actions_with_new_last_items, write_data
from fault import LostError
from trainer_helpers import Stopping, make_trainer

import sairlib
from sairlib.errors import NonFiniteError, Stopped, UserError

LONGEST = 20
"""Seconds that a try may take; most take hundredths."""
RUN = ("model=sasrec", "model.d=8", "max_len=8", "training.epochs=2", "device=cpu", "evaluation.n_candidates=5")


class Silent(Stopping):
    """Asks to stop inside the second epoch, and prints nothing."""

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
    with closing(Silent(directory)) as log:
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
