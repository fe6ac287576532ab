"""An epoch under way: how many of its batches are done, and the figures of their steps."""

import math
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from sairlib import processes
from sairlib.errors import NonFiniteError
from sairlib.training.step import Step


@dataclass
class Epoch:
    """Everything about an unfinished epoch that resuming inside it needs.

    ``start``: the generator's state from which the order of the batches was drawn. ``done``: how many batches are done.
    ``seconds``: how long they took, as of the last save.
    """

    start: Tensor
    done: int = 0
    figures: list[dict[str, float]] = field(default_factory=list)
    """The loss and its parts at each step that was read."""
    plotted: int = 0
    """How many of ``figures`` are plotted."""
    padded_steps: int = 0
    real_steps: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._unread: list[Step] = []

    def add(self, step: Step) -> None:
        """Keep the results of a step, on the device."""
        self._unread.append(step)
        self.done += 1

    def last_norm(self) -> Tensor | None:
        """The gradient's norm at the newest step, if it was clipped there."""
        return self._unread[-1].norm if self._unread else None

    def read(self, steps_before: int) -> None:
        """Copy the results of all steps to the host, summed over the processes.

        ``steps_before``: how many steps were taken before this epoch.
        NonFiniteError if a figure is NaN or inf.
        """
        if not self._unread:
            return
        steps, self._unread = self._unread, []
        names = list(steps[0].figures)
        values = torch.stack([torch.stack(list(step.figures.values())) for step in steps])
        real_steps = torch.stack([torch.as_tensor(step.real_steps) for step in steps]).sum()
        for row in processes.total(values).tolist():
            figures = dict(zip(names, row, strict=True))
            self.figures.append(figures)
            bad = [name for name, value in figures.items() if not math.isfinite(value)]
            if bad:
                raise NonFiniteError(f"{', '.join(bad)} became NaN or inf at step {steps_before + len(self.figures)}")
        self.real_steps += int(processes.total(real_steps))
        self.padded_steps += int(processes.total(torch.tensor(sum(step.padded_steps for step in steps))))

    def plot(self) -> dict[str, float]:
        """The means of the figures that were read since the last call."""
        recent, self.plotted = self.figures[self.plotted :], len(self.figures)
        return means(recent)


def means(figures: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the steps that have it."""
    return {name: fmean(f[name] for f in figures if name in f) for name in figures[-1]}
