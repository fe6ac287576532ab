"""fit(): the one training loop, by hand."""

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sairlib import checkpoint, runtime
from sairlib.batch import PAD, Batch
from sairlib.data.negatives import SAMPLERS
from sairlib.data.sequences import Rows, SequenceStore
from sairlib.data.split import Part
from sairlib.errors import UserError
from sairlib.evaluator import Evaluator, NonFiniteError
from sairlib.models.recommender import Recommender
from sairlib.nn.table import Table
from sairlib.objectives import Objective
from sairlib.row_adam import RowAdam, follows
from sairlib.runlog import RunLog

SCHEDULES = ("constant", "linear", "cosine")
OPTIMIZERS = ("adam", "adamw", "adagrad")
PRECISIONS = ("fp32", "bf16")
FLUSH = 20
"""Steps between looks at the loss: on a GPU each look waits for the device."""
PIECE = 2**13
"""Steps that go through the model at once on CPU: a batch in pieces takes less memory and 7 % less time."""
RARELY = 16
"""Rows of a table for each that a batch looks up, from which on updating those alone is faster (24 k rows: not yet)."""
DIAGNOSED = 512
"""Users whose sequences a model's own figures (interest use) are taken from at each validation."""


@dataclass(frozen=True)
class TrainingSettings:
    """The training loop's settings.

    epochs, batch_size: an epoch shows every user once.
    n_negatives, negatives, popularity: how many are drawn anew in every step, and from what: ``uniform``, each target
    its own outside the user's training history; ``shared``, the same for the whole batch; ``popular``, shared and drawn
    in proportion to (training count) ^ ``popularity``, which the others do not use. A loss over all items draws none.
    optimizer: ``adam``, ``adamw`` or ``adagrad`` (which uses no betas). lr, betas, weight_decay: its own. The decay is
    L2 in the gradient, as most of the papers use it; ``adamw``'s is apart from it, lr x weight_decay of every weight.
    schedule: ``constant``, or ``linear`` / ``cosine`` down to 0 at the last epoch, after ``warmup_steps`` up from 0.
    grad_clip: largest gradient norm, 0 for no limit.
    patience: stop after so many epochs without a better validation figure ``monitor`` (ranking/metric); 0 never stops.
    eval_every: epochs between validations.
    precision: ``fp32``, or ``bf16`` (autocast; weights, optimiser and scores stay fp32; on CPU it was not faster).
    compile: pass the forward pass and the loss through torch.compile.
    length_window: so many batches' sequences are sorted by length before they are cut into batches: less padding, the
    larger the less; 1 mixes lengths fully.
    """

    epochs: int = 200
    batch_size: int = 128
    n_negatives: int = 1
    negatives: str = "uniform"
    popularity: float = 0.75
    optimizer: str = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    grad_clip: float = 0.0
    patience: int = 20
    eval_every: int = 1
    monitor: str = "sampled/ndcg@10"
    precision: str = "fp32"
    compile: bool = False
    length_window: int = 32

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "n_negatives", "eval_every", "length_window"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name}={getattr(self, name)}: must be 1 or more")
        for name in ("popularity", "weight_decay", "warmup_steps", "grad_clip", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"training.{name}={getattr(self, name)}: must be 0 or more")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"training.lr={self.lr}: must be greater than 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"training.betas={list(self.betas)}: give two numbers in [0, 1)")
        chosen = {"negatives": SAMPLERS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, choices in chosen.items():
            if getattr(self, name) not in choices:
                raise UserError(f"training.{name}={getattr(self, name)}: choose one of {', '.join(choices)}")

    def lr_at(self, step: int, total_steps: int) -> float:
        """Learning rate of the step'th step (from 0) of ``total_steps``."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        shrink = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return self.lr * shrink[self.schedule]


@dataclass
class Progress:
    """How far training has come; with model, optimiser and generators, all that resuming needs."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class _Step:
    """What a step found, left on the device: nothing waits for it."""

    figures: dict[str, Tensor] = field(default_factory=dict)
    """The loss and its parts."""
    norm: Tensor | None = None
    """The gradient's, where it was needed to clip it."""
    shown: int = 0
    real: Tensor | int = 0
    """Steps of the sequences, with and without padding."""

    def add(self, batch: Batch, figures: dict[str, Tensor]) -> None:
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0) + value.detach()
        self.shown += batch.items_BN.numel()
        self.real = self.real + (batch.items_BN != PAD).sum()


class Trainer:
    """Everything that changes during training, in one place, so that one file can hold it."""

    def __init__(
        self,
        model: Recommender,
        objective: Objective,
        store: SequenceStore,
        evaluator: Evaluator,
        settings: TrainingSettings,
        seed: int,
        identity: dict[str, Any],
    ) -> None:
        ranking, _, metric = settings.monitor.partition("/")
        known = {f"{m}@{k}" for m in ("hr", "ndcg") for k in evaluator.settings.ks} | {"mrr"}
        if ranking not in evaluator.settings.rankings or metric not in known:
            raise UserError(
                f"training.monitor={settings.monitor} is not measured: rankings are"
                f" {', '.join(evaluator.settings.rankings)}, metrics {', '.join(sorted(known))}"
            )
        if len(store.train_rows) == 0:
            raise UserError("no user has 2 training actions: there is nothing to train on; check the filters")
        objective.check(model)
        model.prepare(store.counts_M)
        self.model = model
        self.objective = objective
        self.store = store
        self.evaluator = evaluator
        self.settings = settings
        self.identity = identity
        self.progress = Progress()
        self.generator = torch.Generator(store.device).manual_seed(seed)
        tables = self._tables_by_rows()
        self.by_rows = RowAdam(tables, settings.lr, settings.betas) if tables else None
        whole = [p for p in model.parameters() if not any(p is table.weight for table in tables)]
        common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
        self.optimizers: list[torch.optim.Optimizer] = [self.by_rows] if self.by_rows else []
        if whole and settings.optimizer == "adagrad":
            self.optimizers.insert(0, torch.optim.Adagrad(whole, **common))
        elif whole:
            kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
            self.optimizers.insert(0, kind(whole, betas=settings.betas, fused=True, **common))
        self.loss = torch.compile(objective.loss, dynamic=True) if settings.compile else objective.loss
        self.steps_per_epoch = store.n_batches(settings.batch_size)

    def _tables_by_rows(self) -> list[Table]:
        """Tables of far more rows than a batch looks up: on CPU a step would spend its time on the others.

        Not where every row moves at every step, or the gradient must be known whole.
        """
        settings = self.settings
        looked_up = self.store.steps_per_batch(settings.batch_size) * (2 + settings.n_negatives)
        if self.store.device.type != "cpu" or settings.compile or settings.weight_decay or settings.grad_clip:
            return []
        if self.objective.full or settings.optimizer == "adagrad" or not follows(settings.betas):
            return []
        tables = self.model.row_tables()
        return [table for table in tables if len(table.weight) > RARELY * looked_up]

    def fit(self, log: RunLog, directory: Path) -> None:
        """Train until the epochs or the patience are used up; ``best.pt`` and ``last.pt`` stand in ``directory``."""
        settings, progress = self.settings, self.progress
        if not self.optimizers:
            settings = replace(settings, epochs=1)  # nothing to train: an epoch is as good as any number
        while progress.epoch < settings.epochs and not self._patience_is_over():
            start = time.perf_counter()
            figures = self._train_epoch(log)
            progress.epoch += 1
            seconds = time.perf_counter() - start
            line = f"epoch {progress.epoch:>3}  loss {figures['loss']:.4f}  {seconds:.1f} s"
            if progress.epoch % settings.eval_every == 0 or progress.epoch == settings.epochs:
                line += self._validate(log, directory)
            progress.seconds += time.perf_counter() - start
            log.record(progress.epoch, progress.step, train=figures, seconds=round(seconds, 3))
            checkpoint.save(directory / "last.pt", self.state())
            log.say(line)

    def _train_epoch(self, log: RunLog) -> dict[str, float]:
        if not self.optimizers:
            return {"loss": 0.0}
        self.model.train()
        start, shown, real = time.perf_counter(), 0, torch.zeros((), dtype=torch.long, device=self.store.device)
        pending: list[_Step] = []
        figures: list[dict[str, float]] = []
        batches = self.store.epoch(self.settings.batch_size, self.settings.length_window, self.generator)
        for rows in log.progress(batches, f"epoch {self.progress.epoch + 1}"):
            try:
                pending.append(self._step(rows))
            except (RuntimeError, MemoryError) as error:
                if not runtime.out_of_memory(error):
                    raise
                raise UserError(
                    f"not enough memory for a training step: lower training.batch_size={self.settings.batch_size},"
                    f" max_len={self.store.max_len} or training.n_negatives={self.settings.n_negatives}"
                ) from error
            shown += pending[-1].shown
            real += pending[-1].real
            if len(pending) == FLUSH or self.progress.step % self.steps_per_epoch == 0:
                figures += self._look(pending, log)
                pending = []
        if self.by_rows:
            self.by_rows.catch_up()
        seconds, tokens = time.perf_counter() - start, int(real)
        log.scalars(
            "speed",
            {
                "steps_per_second": len(batches) / seconds,
                "tokens_per_second": tokens / seconds,
                "padding_share": 1 - tokens / max(1, shown),
            },
            self.progress.step,
        )
        means = _means(figures)
        # Within an epoch the loss follows the lengths of the batches; over one it is the mean over all steps.
        log.scalars("epoch", means, self.progress.step)
        return means

    def _step(self, rows: Rows) -> "_Step":
        """One step of training. Nothing in it waits for the device."""
        lr = self.settings.lr_at(self.progress.step, self.settings.epochs * self.steps_per_epoch)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
        done = _Step()
        for piece in self._pieces(rows):
            batch = self.objective.batch(self.store, piece.users_B, self.generator, piece.n_steps)
            with torch.autocast(self.store.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                parts = self.loss(self.model, batch, len(piece.users_B) / len(rows.users_B))
            loss = torch.stack(list(parts.values())).sum()
            loss.backward()
            done.add(batch, {"loss": loss, **parts})
        if self.settings.grad_clip:
            done.norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.after_step()
        self.progress.step += 1
        return done

    def _pieces(self, rows: Rows) -> list[Rows]:
        """A batch, or on CPU what of it is of like length and fits the caches; the gradients of the pieces add up."""
        n_pieces = round(len(rows.users_B) * rows.n_steps / PIECE)
        whole = self.store.device.type != "cpu" or self.settings.compile or not self.objective.in_pieces
        if whole or n_pieces < 2:
            return [rows]
        ordered = rows.users_B[self.store.train_steps(rows.users_B).argsort(stable=True)]
        return [Rows(users_B, int(self.store.train_steps(users_B[-1:]))) for users_B in ordered.chunk(n_pieces)]

    def _look(self, pending: list["_Step"], log: RunLog) -> list[dict[str, float]]:
        """Bring the pending steps' figures to the host, stop on NaN or inf, and plot their mean.

        The gradient's norm is that of the last of these steps: at every step it would cost a pass over all weights.
        """
        names, norm = list(pending[0].figures), pending[-1].norm
        if norm is None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm([g.coalesce().values() if g.is_sparse else g for g in gradients])
        values = torch.stack([torch.stack(list(step.figures.values())) for step in pending]).tolist()
        figures = [dict(zip(names, row, strict=True)) for row in values]
        figures[-1]["gradient_norm"] = float(norm)
        for step, figure in enumerate(figures, self.progress.step - len(figures) + 1):
            bad = [name for name, value in figure.items() if not math.isfinite(value)]
            if bad:
                raise NonFiniteError(f"{', '.join(bad)} became NaN or inf at step {step}")
        means = _means(figures)
        lr = self.optimizers[0].param_groups[0]["lr"]
        log.scalars("train", {**means, "lr": lr}, self.progress.step)
        return figures

    def _validate(self, log: RunLog, directory: Path) -> str:
        """Measure, keep the weights if they are the best so far, and say so in a few words."""
        progress, start = self.progress, time.perf_counter()
        ks = self.evaluator.settings.ks
        measured = {
            f"{ranking}/{name}": value
            for ranking, ranks in self.evaluator.rank(self.model, Part.VALIDATION).items()
            for name, value in ranks.means(ks).items()
        }
        seconds = time.perf_counter() - start
        log.scalars("validation", measured, progress.step)
        log.scalars("speed", {"validation_seconds": seconds}, progress.step)
        log.record(progress.epoch, progress.step, validation=measured, seconds=round(seconds, 3))
        self._diagnose(log)
        monitor = self.settings.monitor
        better = measured[monitor] > progress.best.get(monitor, -math.inf)
        if better:
            progress.best_epoch, progress.best = progress.epoch, measured
            best = {"identity": self.identity, "epoch": progress.epoch, "model": self.model.state_dict()}
            checkpoint.save(directory / "best.pt", best)
        return f"  validation {monitor} {measured[monitor]:.4f}{' *' if better else '  '}  {seconds:.1f} s"

    def _diagnose(self, log: RunLog) -> None:
        users_B = self.store.eval_users[:DIAGNOSED]
        ends_B = self.store.train_lengths[users_B] + Part.VALIDATION.value
        self.model.eval()
        figures = self.model.diagnose(self.store.windows(users_B, ends_B, self.store.max_len), users_B)
        log.diagnosis(figures, self.progress.step)

    def _patience_is_over(self) -> bool:
        patience, every = self.settings.patience, self.settings.eval_every
        validated = self.progress.epoch // every * every  # the epochs since then may have been better: nobody looked
        return patience > 0 and validated - self.progress.best_epoch >= patience

    def state(self) -> dict[str, Any]:
        """All of training's state, as plain tensors and numbers."""
        device = self.store.device
        return {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go on where ``state`` was saved. UserError if it is of another model, data set or split."""
        keys = ("optimizers", "progress", "generator", "torch_rng", "cuda_rng")
        if not state.keys() >= set(keys):
            raise UserError(f"{path} holds weights alone, not a state to go on from")
        checkpoint.load_weights(self.model, state, self.identity, path)
        if len(self.optimizers) != len(state["optimizers"]):
            raise UserError(
                f"{path} was saved on another kind of device or with other training settings:"
                " the state of its optimizer does not fit"
            )
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
            # The stored settings would silently win over the configured ones.
            configured = {"betas": self.settings.betas, "weight_decay": self.settings.weight_decay}
            group = optimizer.param_groups[0]
            group |= {name: value for name, value in configured.items() if name in group}
        self.progress = Progress(**state["progress"])
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["torch_rng"].cpu())
        if state["cuda_rng"] is not None and self.store.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.store.device)


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over those that have it."""
    return {name: fmean(f[name] for f in figures if name in f) for name in figures[-1]}
