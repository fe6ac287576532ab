"""A training step: batches through the model and the loss, then the optimisers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from sairlib.batch import PAD, Batch
from sairlib.models.recommender import Recommender
from sairlib.training.settings import TrainingSettings


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


def train_step(
    model: Recommender,
    loss: Callable[[Recommender, Batch, float], dict[str, Tensor]],
    batches: Iterable[tuple[Batch, float]],
    optimizers: list[Optimizer],
    lr: float,
    settings: TrainingSettings,
) -> Step:
    """One optimiser step at the learning rate ``lr``.

    ``batches`` are the pieces of a batch, each with its share of it. ``loss`` gives the named parts of a piece's loss;
    the gradients of all pieces add up.
    """
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
    result = Step()
    for batch, share in batches:
        with torch.autocast(batch.targets_BNS.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            parts = loss(model, batch, share)
        total = torch.stack(list(parts.values())).sum()
        total.backward()
        result.add(batch, {"loss": total, **parts})
    if settings.grad_clip:
        result.norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
    for optimizer in optimizers:
        optimizer.step()
    model.after_step()
    return result
