"""The training loop."""

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from sairlib.data.sequences import Rows, SequenceStore
from sairlib.data.split import Part
from sairlib.errors import NonFiniteError, UserError, out_of_memory
from sairlib.evaluation.evaluator import Evaluator
from sairlib.models.recommender import Recommender
from sairlib.nn.kernels.switch import allowed
from sairlib.training.objectives import Objective
from sairlib.training.optimisers import RowAdam, optimisers, tables_by_rows
from sairlib.training.settings import TrainingSettings
from sairlib.training.state import load_weights
from sairlib.training.step import Step, train_step

Item = TypeVar("Item")
FLUSH = 20
"""Steps between readings of the loss. On a GPU each reading waits for the device."""
PIECE = 2**13
"""Sequence steps that pass through the model at once on CPU: pieces of a batch take less memory and 7 % less time."""
DIAGNOSED = 512
"""How many validation histories ``Recommender.diagnose`` gets at each validation."""


class Recorder(Protocol):
    """Records what happens in training, for example in a run directory (``RunLog``)."""

    def say(self, line: str) -> None: ...

    def progress(self, items: list[Item], title: str) -> Iterable[Item]: ...

    def scalars(self, group: str, values: dict[str, float], step: int) -> None: ...

    def diagnosis(self, values: dict[str, Tensor], step: int) -> None: ...

    def record(self, epoch: int, step: int, **values: Any) -> None: ...

    def save(self, name: str, state: dict[str, Any]) -> None: ...


@dataclass
class Progress:
    """How far training has come. Resuming needs it, the model, the optimisers and the random generators."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class Trainer:
    """Holds everything that changes during training, and changes it. ``state()`` is what a checkpoint stores.

    ``identity`` names the model, data set and split, so that no checkpoint of others is loaded. UserError if the
    settings, the data and the model do not fit together.
    """

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
        evaluator.settings.check_measured(settings.monitor, "training.monitor")
        if len(store.train_users) == 0:
            raise UserError("no user has 2 training actions: nothing to train on; check the filters of the data set")
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
        # A loss over all items changes every row at every step.
        tables = tables_by_rows(model, settings, objective.rows_per_batch) if objective.sampler else []
        self.optimizers = optimisers(model, settings, tables)
        self.loss = torch.compile(objective.loss, dynamic=True) if settings.compile else objective.loss
        if self.optimizers and settings.precision != "fp32":
            self._check_precision()
        whole = store.device.type != "cpu" or settings.compile or not allowed()
        self.steps_at_once = None if whole else PIECE
        self.steps_per_epoch = store.n_batches(settings.batch_size)

    def fit(self, log: Recorder) -> None:
        """Train until the epochs or the patience are used up. Saves ``best.pt`` and ``last.pt`` in ``log``."""
        settings, progress = self.settings, self.progress
        if not self.optimizers:
            settings = replace(settings, epochs=1)  # a model without weights has nothing to train
        while progress.epoch < settings.epochs and not self._patience_is_over():
            start = time.perf_counter()
            figures = self.train_epoch(log)
            progress.epoch += 1
            seconds = time.perf_counter() - start
            line = f"epoch {progress.epoch:>3}  loss {figures['loss']:.4f}  {seconds:.1f} s"
            if progress.epoch % settings.eval_every == 0 or progress.epoch == settings.epochs:
                line += self._validate(log)
            progress.seconds += time.perf_counter() - start
            log.record(progress.epoch, progress.step, train=figures, seconds=round(seconds, 3))
            log.save("last.pt", self.state())
            log.say(line)

    def step(self, rows: Rows) -> Step:
        """One optimiser step on the batch of these users. Nothing in it waits for the device."""
        lr = self.settings.lr_at(self.progress.step, self.settings.epochs * self.steps_per_epoch)
        batches = self.objective.batches(rows, self.generator, self.steps_at_once)
        result = train_step(self.model, self.loss, batches, self.optimizers, lr, self.settings)
        self.progress.step += 1
        return result

    def train_epoch(self, log: Recorder) -> dict[str, float]:
        """Train on every user once. Returns the means of the loss, its parts and the gradient's norm."""
        if not self.optimizers:
            return {"loss": 0.0}
        self.model.train()
        start, padded_steps = time.perf_counter(), 0
        real_steps = torch.zeros((), dtype=torch.long, device=self.store.device)
        pending: list[Step] = []
        figures: list[dict[str, float]] = []
        batches = self.store.epoch(self.settings.batch_size, self.settings.length_window, self.generator)
        for rows in log.progress(batches, f"epoch {self.progress.epoch + 1}"):
            try:
                pending.append(self.step(rows))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise UserError(
                    f"not enough memory for a training step: lower training.batch_size={self.settings.batch_size},"
                    f" max_len={self.store.max_len} or negatives.n"
                ) from error
            padded_steps += pending[-1].padded_steps
            real_steps += pending[-1].real_steps
            if len(pending) == FLUSH or self.progress.step % self.steps_per_epoch == 0:
                figures += self._read(pending, log)
                pending = []
        self.catch_up()
        seconds, tokens = time.perf_counter() - start, int(real_steps)
        speed = {
            "steps_per_second": len(batches) / seconds,
            "tokens_per_second": tokens / seconds,
            "padding_share": 1 - tokens / max(1, padded_steps),
        }
        log.scalars("speed", speed, self.progress.step)
        means = _means(figures)
        # Within an epoch the loss varies with the lengths of the batches; over an epoch it is the mean over all steps.
        log.scalars("epoch", means, self.progress.step)
        return means

    def _check_precision(self) -> None:
        """UserError if bf16 has no effect because the model multiplies no matrices."""
        users_B = self.store.train_users[:8]
        rows = Rows(users_B, int(self.store.train_steps(users_B).max()))
        [(batch, _)] = self.objective.batches(rows, self.generator.clone_state())
        self.model.eval()
        with torch.no_grad():
            exact = self.objective.loss(self.model, batch)
            with torch.autocast(self.store.device.type, torch.bfloat16):
                rounded = self.objective.loss(self.model, batch)
        if all(torch.equal(exact[name], rounded[name]) for name in exact):
            raise UserError(
                f"training.precision={self.settings.precision} changes nothing for {type(self.model).__name__}:"
                " it multiplies no matrices in training; use fp32"
            )

    def catch_up(self) -> None:
        """Finish the pending updates of all tables. Call it before reading weights as a whole."""
        for optimizer in self.optimizers:
            if isinstance(optimizer, RowAdam):
                optimizer.catch_up()

    def _read(self, pending: list[Step], log: Recorder) -> list[dict[str, float]]:
        """Copy the figures of the pending steps to the host and plot their means. NonFiniteError if one is NaN or inf.

        The gradient's norm is of the last of these steps only: each norm costs a pass over all weights.
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

    def _validate(self, log: Recorder) -> str:
        """Rank the validation part, save the weights if they are the best so far, and return a summary."""
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
        self.model.eval()
        history = next(self.store.evaluation(Part.VALIDATION, DIAGNOSED)).history
        log.diagnosis(self.model.diagnose(history), progress.step)
        monitor = self.settings.monitor
        better = measured[monitor] > progress.best.get(monitor, -math.inf)
        if better:
            progress.best_epoch, progress.best = progress.epoch, measured
            best = {"identity": self.identity, "epoch": progress.epoch, "model": self.model.state_dict()}
            log.save("best.pt", best)
        return f"  validation {monitor} {measured[monitor]:.4f}{' *' if better else '  '}  {seconds:.1f} s"

    def _patience_is_over(self) -> bool:
        patience, every = self.settings.patience, self.settings.eval_every
        validated = self.progress.epoch // every * every  # later epochs, not validated yet, may be better
        return patience > 0 and validated - self.progress.best_epoch >= patience

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs, as plain tensors and numbers."""
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

    def restore(self, state: dict[str, Any], place: object) -> None:
        """Continue from ``state``, which was read from the file ``place``.

        UserError if it belongs to another model, data set or split.
        """
        keys = ("optimizers", "progress", "generator", "torch_rng", "cuda_rng")
        if not state.keys() >= set(keys):
            raise UserError(f"{place} holds only weights, not a state to resume from")
        load_weights(self.model, state, self.identity, place)
        if len(self.optimizers) != len(state["optimizers"]):
            raise UserError(
                f"{place} was saved on another kind of device or with other training settings:"
                " the state of its optimizer does not fit"
            )
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
            # Loading replaces the configured settings by the stored ones.
            configured = {"betas": self.settings.betas, "weight_decay": self.settings.weight_decay}
            group = optimizer.param_groups[0]
            group |= {name: value for name, value in configured.items() if name in group}
        self.progress = Progress(**state["progress"])
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["torch_rng"].cpu())
        if state["cuda_rng"] is not None and self.store.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.store.device)


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the steps that have it."""
    return {name: fmean(f[name] for f in figures if name in f) for name in figures[-1]}
