"""A training step: a batch of users through the model and the loss, then the optimisers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from sairlib.batch import PAD, Batch
from sairlib.data.sequences import Rows
from sairlib.models.recommender import Recommender
from sairlib.training.averages import Averages
from sairlib.training.objectives import Objective
from sairlib.training.partners import Partners
from sairlib.training.settings import TrainingSettings

LossFunction = Callable[[Recommender, Batch, float], dict[str, Tensor]]
"""From the model, a piece of a batch and its share of the batch to the named parts of its loss."""


@dataclass
class Step:
    """The results of a training step. They stay on the device, so that nothing waits for it."""

    figures: dict[str, Tensor] = field(default_factory=dict)
    """The loss and its parts."""
    norm: Tensor | None = None
    """Of the gradient; only if it is clipped."""
    padded_steps: int = 0
    real_steps: Tensor | int = 0
    """Steps of the sequences, with and without padding."""

    def add(self, batch: Batch, figures: dict[str, Tensor]) -> None:
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0) + value.detach()
        self.padded_steps += batch.history.items_BN.numel()
        self.real_steps = self.real_steps + (batch.history.items_BN != PAD).sum()


@dataclass
class Learner:
    """All that a training step needs and changes.

    ``steps_at_once``: the pieces in which a batch passes through the model, see ``Objective.batches``. ``total_steps``:
    of the whole training, for the learning rate. ``partners``: the other processes that train the same model.
    ``averages`` of the weights, if these are what is measured.
    """

    model: Recommender
    objective: Objective
    loss: LossFunction
    optimizers: list[Optimizer]
    generator: torch.Generator
    settings: TrainingSettings
    total_steps: int
    steps_at_once: int | None = None
    partners: Partners | None = None
    averages: Averages | None = None
    n_steps: int = 0
    """Steps taken so far."""

    def step(self, rows: Rows) -> Step:
        """One optimiser step on the batch of these users. Nothing in it waits for the device."""
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(self.settings, self.n_steps, self.total_steps)
            optimizer.zero_grad()
        result, bf16 = Step(), self.settings.precision == "bf16"
        batches = self.objective.batches(rows, self.generator, self.steps_at_once)
        for batch, share in self.partners.own(batches) if self.partners else batches:
            with torch.autocast(batch.targets_BNS.device.type, torch.bfloat16, enabled=bf16):
                parts = self.loss(self.model, batch, share)
            total = torch.stack(list(parts.values())).sum()
            total.backward()  # the gradients of all pieces add up
            result.add(batch, {"loss": total, **parts})
        if self.partners:
            self.partners.exchange_rows()
        if self.settings.grad_clip:
            result.norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.after_step()
        self.n_steps += 1
        if self.averages:
            self.averages.update(self.n_steps)
        return result


def learning_rate(settings: TrainingSettings, step: int, total_steps: int) -> float:
    """The learning rate of a step, counted from 0, of ``total_steps``."""
    warmup = settings.warmup_steps
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total_steps - warmup)
    shrink = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return settings.lr * shrink[settings.schedule]
