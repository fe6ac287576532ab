"""Signals during a run: what is under way is finished and saved before the process ends."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sairlib.errors import Stopped
from sairlib.training.requests import Requests

STOP = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAVE = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)


class Signals:
    """The signal that asked to stop, if one did."""

    def __init__(self) -> None:
        self.stopped_by: int | None = None

    def end(self) -> None:
        """End as a process does that the signal ended: KeyboardInterrupt, or SystemExit(128 + its number)."""
        if self.stopped_by == signal.SIGINT:
            raise KeyboardInterrupt
        if self.stopped_by is not None:
            raise SystemExit(128 + self.stopped_by)


@contextmanager
def answered(requests: Requests) -> Iterator[Signals]:
    """While the block runs, signals become ``requests``.

    SIGINT, SIGTERM and SIGHUP ask to stop, unless somebody else handles them; a second one ends the process at once.
    SIGUSR1 and SIGUSR2, one of which a cluster sends some time before it ends a job, ask to save; a handler that was
    installed for them before (submitit's puts the job back into the queue) is called after that. Outside the main
    thread signals stay as they are.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if signals.stopped_by is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signals.stopped_by = number
        requests.stop = True
        if requests.at_once:
            raise Stopped

    def save(number: int, frame: FrameType | None) -> None:
        handler: Any = before[number]
        requests.saved = (lambda: handler(number, frame)) if callable(handler) else None
        requests.save = True

    before = {number: signal.signal(number, stop) for number in STOP if signal.getsignal(number) in UNTOUCHED}
    before |= {number: signal.signal(number, save) for number in SAVE}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
