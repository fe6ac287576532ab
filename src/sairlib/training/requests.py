"""What a training under way may be asked to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sairlib import processes


@dataclass
class Requests:
    """What a training is asked to do from outside, by a signal. It answers at the end of a step."""

    save: bool = False
    """Write a checkpoint and go on."""
    stop: bool = False
    """Write a checkpoint and raise ``Stopped``."""
    at_once: bool = False
    """Nothing is being changed, so that whoever asks to stop may raise ``Stopped`` on the spot."""
    saved: Callable[[], None] | None = None
    """Called once, after the checkpoint that was asked for."""

    @contextmanager
    def answered_at_once(self) -> Iterator[None]:
        """While the block runs, ``Stopped`` may be raised anywhere in it. Several processes have to stop together."""
        self.at_once = processes.size() == 1
        try:
            yield
        finally:
            self.at_once = False
