"""The settings of the training loop."""

import math
from dataclasses import dataclass

from sairlib.errors import UserError

SCHEDULES = ("constant", "linear", "cosine")
OPTIMIZERS = ("adam", "adamw", "adagrad")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of the training loop.

    epochs: how often every user is shown. batch_size: users per batch.
    optimizer: ``adam``, ``adamw`` or ``adagrad``, with its lr, betas (not for adagrad) and weight_decay. The decay is
    L2 in the gradient, as in most of the papers; ``adamw`` subtracts lr x weight_decay of every weight instead.
    schedule: ``constant``, or ``linear`` / ``cosine`` down to 0 at the last epoch, after ``warmup_steps`` up from 0.
    grad_clip: largest gradient norm, 0 for no limit.
    ema: decay of a moving average of the weights (0.999, say), which is then validated, saved and tested in their
    place (``averages.Averages``); 0 for none. Each step then reads all weights, of large tables too.
    monitor: the validation figure (ranking/metric) that chooses the best weights.
    patience: stop after this many epochs without a better ``monitor``; 0 never stops.
    eval_every: epochs between validations.
    save_every: steps between checkpoints to resume from inside an epoch; 0 for the ends of epochs only.
    precision: ``fp32``, or ``bf16`` (autocast; weights, optimiser and scores stay fp32; not faster on CPU).
    compile: pass the forward pass and the loss through torch.compile.
    length_window: sort the users of this many batches by length before cutting them into batches. More means less
    padding; 1 mixes all lengths.
    """

    epochs: int = 200
    batch_size: int = 128
    optimizer: str = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    grad_clip: float = 0.0
    ema: float = 0.0
    patience: int = 20
    eval_every: int = 1
    save_every: int = 0
    monitor: str = "full/ndcg@10"
    precision: str = "fp32"
    compile: bool = False
    length_window: int = 32

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every", "length_window"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name}={getattr(self, name)}: must be 1 or more")
        for name in ("batch_size", "length_window"):
            if getattr(self, name) >= 2**31:
                raise UserError(f"training.{name}={getattr(self, name)}: must be less than 2^31")
        for name in ("weight_decay", "warmup_steps", "grad_clip", "patience", "save_every"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"training.{name}={getattr(self, name)}: must be 0 or more")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"training.lr={self.lr}: must be greater than 0")
        if not 0 <= self.ema < 1:
            raise UserError(f"training.ema={self.ema}: must be in [0, 1); 0 takes the weights themselves")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"training.betas={list(self.betas)}: give two numbers in [0, 1)")
        options = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, choices in options.items():
            if getattr(self, name) not in choices:
                raise UserError(f"training.{name}={getattr(self, name)}: choose one of {', '.join(choices)}")
