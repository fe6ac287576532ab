"""The training loop."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from sairlib import processes
from sairlib.batch import Batch
from sairlib.data.sequences import Rows, SequenceStore
from sairlib.data.split import Part
from sairlib.errors import Stopped, UserError, out_of_memory
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import Ranks
from sairlib.models.recommender import Recommender
from sairlib.nn.kernels.switch import allowed
from sairlib.training.averages import Averages
from sairlib.training.epoch import Epoch, means
from sairlib.training.objectives import Objective
from sairlib.training.optimisers import RowAdam, optimisers, tables_by_rows
from sairlib.training.partners import Partners
from sairlib.training.requests import Requests
from sairlib.training.settings import TrainingSettings
from sairlib.training.state import fitting
from sairlib.training.step import Learner, Step
from sairlib.training.threads import Threads

Item = TypeVar("Item")
FLUSH = 20
"""Steps between readings of the loss. On a GPU each reading waits for the device."""
PIECE = 2**13
"""Sequence steps that pass through the model at once on CPU: pieces of a batch take less memory and 7 % less time."""
DIAGNOSED = 512
"""How many histories ``Recommender.prepare`` and, at each validation, ``Recommender.diagnose`` get."""


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
    """How far training has come, in whole epochs."""

    epoch: int = 0
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class Trainer:
    """Holds everything that changes during training, and changes it. ``state()`` is what a checkpoint stores.

    ``identity`` names the model, data set and split, so that no checkpoint of others is loaded. If several processes
    train together (``processes.py``), each has a trainer, and all its methods are collective. UserError if the
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
        model.prepare(store.counts_M, store.train_window(store.first_rows(DIAGNOSED))[0])
        self.model = model
        self.store = store
        self.evaluator = evaluator
        self.settings = settings
        self.seed = seed
        self.identity = identity
        self.requests = Requests()
        self.progress = Progress()
        self.epoch: Epoch | None = None
        """The epoch under way."""
        self.threads: Threads | None = None
        """Gives way to other processes; None keeps the number of threads."""
        self.hopeless: Callable[[Progress], bool] = lambda progress: False
        """Asked before each epoch: a search over settings may end training here."""
        self._started = 0.0
        """When the epoch under way would have started, had nothing interrupted it."""
        self.steps_per_epoch = objective.n_batches()
        self.learner = self._new_learner(objective)
        if self.learner.optimizers and settings.precision != "fp32":
            self._check_precision()
        self._seed_process()

    def _new_learner(self, objective: Objective) -> Learner:
        model, settings, device = self.model, self.settings, self.store.device
        tables = tables_by_rows(model, settings, objective.rows_per_batch)
        learner = Learner(
            model,
            objective,
            torch.compile(objective.loss, dynamic=True) if settings.compile else objective.loss,
            optimisers(model, settings, tables),
            torch.Generator(device).manual_seed(self.seed),
            settings,
            total_steps=settings.epochs * self.steps_per_epoch,
            steps_at_once=None if device.type != "cpu" or settings.compile or not allowed() else PIECE,
        )
        if settings.ema and learner.optimizers:
            learner.averages = Averages(model, settings.ema)
        if processes.size() > 1 and learner.optimizers:
            learner.partners = Partners(model, learner.loss, tables, self._example(learner))
            learner.loss = learner.partners.loss
        return learner

    def _seed_process(self) -> None:
        """Let every process but the first drop out other entries; what else is drawn is the same in all of them."""
        if processes.rank():
            torch.manual_seed(hash((self.seed, processes.rank(), self.learner.n_steps)) % 2**63)

    def fit(self, log: Recorder) -> None:
        """Train until the epochs or the patience are used up. Saves ``best.pt`` and ``last.pt`` in ``log``.

        Stopped, with ``last.pt`` saved, if ``requests`` ask for it.
        """
        settings, progress = self.settings, self.progress
        if not self.learner.optimizers:
            settings = replace(settings, epochs=1)  # a model without weights has nothing to train
        while not self.done and not self.hopeless(progress):
            figures = self.train_epoch(log)
            self._answer_requests(log)
            number, seconds = progress.epoch + 1, self._seconds()
            line = f"epoch {number:>3}  loss {figures['loss']:.4f}  {seconds:.1f} s"
            if number % settings.eval_every == 0 or number == settings.epochs:
                line += self._validate(log, number)
            progress.epoch = number
            progress.seconds += self._seconds()
            log.record(number, self.learner.n_steps, train=figures, seconds=round(seconds, 3))
            self.epoch = None
            log.save("last.pt", self.state())
            log.say(line)
            self._answer_requests(log)

    def train_epoch(self, log: Recorder) -> dict[str, float]:
        """Train on every user once, or on the rest of the epoch under way.

        Returns the means over the epoch of the loss, its parts and the gradient's norm.
        """
        learner = self.learner
        generator = learner.generator
        if self.epoch is None:
            self.epoch = Epoch(generator.get_state())
        else:  # draw the same order again
            generator = generator.clone_state().set_state(self.epoch.start)
        epoch = self.epoch
        self._started = time.perf_counter() - epoch.seconds
        if not learner.optimizers:
            return {"loss": 0.0}
        self.model.train()
        batches = learner.objective.epoch(self.settings.length_window, generator)
        done, tokens, start = epoch.done, epoch.real_steps, time.perf_counter()
        if self.threads:
            self.threads.start()
        for number in log.progress(list(range(done, len(batches))), f"epoch {self.progress.epoch + 1}"):
            epoch.add(self._step(batches[number]))
            if self.threads and (line := self.threads.look()):
                log.say(line)
            ended = epoch.done == len(batches)
            if ended or epoch.done % FLUSH == 0:
                self._read(epoch, log)
            if not ended:
                every = self.settings.save_every
                self._answer_requests(log, save=every > 0 and learner.n_steps % every == 0)
        self.catch_up()
        # Within an epoch the loss varies with the lengths of the batches; over an epoch it is the mean over all steps.
        figures = means(epoch.figures)
        if epoch.done > done:  # else a process that was stopped after the last step has plotted these
            seconds = time.perf_counter() - start
            speed = {
                "steps_per_second": (epoch.done - done) / seconds,
                "tokens_per_second": (epoch.real_steps - tokens) / seconds,
                "padding_share": 1 - epoch.real_steps / max(1, epoch.padded_steps),
            }
            log.scalars("speed", speed, learner.n_steps)
            log.scalars("epoch", figures, learner.n_steps)
        return figures

    def _step(self, rows: Rows) -> Step:
        try:
            return self.learner.step(rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(
                f"not enough memory for a training step: lower training.batch_size={self.settings.batch_size},"
                f" max_len={self.store.max_len} or negatives.n"
            ) from error

    def _read(self, epoch: Epoch, log: Recorder) -> None:
        """Read the figures of the last steps and plot their means. NonFiniteError if one is NaN or inf.

        The gradient's norm is of the last of these steps only: each norm costs a pass over all weights.
        """
        n_steps = self.learner.n_steps
        norm = epoch.last_norm()
        if norm is None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm([g.coalesce().values() if g.is_sparse else g for g in gradients])
        epoch.read(n_steps - epoch.done)
        epoch.figures[-1]["gradient_norm"] = float(norm)
        lr = self.learner.optimizers[0].param_groups[0]["lr"]
        log.scalars("train", {**epoch.plot(), "lr": lr}, n_steps)

    def _answer_requests(self, log: Recorder, save: bool = False) -> None:
        """Save the state if that is due or asked for. Stopped, after saving, if that is asked for."""
        asked = self.requests
        save_asked, stop = processes.any_of([asked.save, asked.stop])
        if save or save_asked or stop:
            log.save("last.pt", self.state())
        if save_asked:
            asked.save = False
            if asked.saved is not None:
                asked.saved()
        if stop:
            raise Stopped

    def _seconds(self) -> float:
        """Seconds spent on the epoch under way."""
        return time.perf_counter() - self._started

    def _check_precision(self) -> None:
        """UserError if bf16 has no effect because the model multiplies no matrices."""
        objective, batch = self.learner.objective, self._example(self.learner)
        self.model.eval()
        with torch.no_grad():
            exact = objective.loss(self.model, batch)
            with torch.autocast(self.store.device.type, torch.bfloat16):
                rounded = objective.loss(self.model, batch)
        if all(torch.equal(exact[name], rounded[name]) for name in exact):
            raise UserError(
                f"training.precision={self.settings.precision} changes nothing for {type(self.model).__name__}:"
                " it multiplies no matrices in training; use fp32"
            )

    def _example(self, learner: Learner) -> Batch:
        """A small batch. The trainer's generator does not move."""
        [(batch, _)] = learner.objective.batches(learner.objective.few(), learner.generator.clone_state())
        return batch

    def catch_up(self) -> None:
        """Finish the pending updates of all tables. Call it before reading weights as a whole."""
        for optimizer in self.learner.optimizers:
            if isinstance(optimizer, RowAdam):
                optimizer.catch_up()

    def _validate(self, log: Recorder, epoch: int) -> str:
        """Rank the validation part, save the weights if they are the best so far, and return a summary."""
        progress, start = self.progress, time.perf_counter()
        ks, step = self.evaluator.settings.ks, self.learner.n_steps
        measured = {
            f"{ranking}/{name}": value
            for ranking, ranks in self._rank_validation(log).items()
            for name, value in ranks.means(ks).items()
        }
        seconds = time.perf_counter() - start
        log.scalars("validation", measured, step)
        log.scalars("speed", {"validation_seconds": seconds}, step)
        self.model.eval()
        history = next(self.store.evaluation(Part.VALIDATION, DIAGNOSED)).history
        with self._measured_weights():
            diagnosis = self.model.diagnose(history)
        log.diagnosis(diagnosis, step)
        told = {"diagnosis": {name: value.tolist() for name, value in diagnosis.items()}} if diagnosis else {}
        log.record(epoch, step, validation=measured, seconds=round(seconds, 3), **told)
        monitor = self.settings.monitor
        better = measured[monitor] > progress.best.get(monitor, -math.inf)
        if better:
            progress.best_epoch, progress.best = epoch, measured
            with self._measured_weights():
                log.save("best.pt", {"identity": self.identity, "epoch": epoch, "model": self.model.state_dict()})
        return f"  validation {monitor} {measured[monitor]:.4f}{' *' if better else '  '}  {seconds:.1f} s"

    def _rank_validation(self, log: Recorder) -> dict[str, Ranks]:
        """Ranks of the validation part. A request to stop is answered at once: ranking changes nothing."""
        try:
            with self._measured_weights(), self.requests.answered_at_once():
                return self.evaluator.rank(self.model, Part.VALIDATION)
        except Stopped:
            log.save("last.pt", self.state())
            raise

    def _measured_weights(self) -> AbstractContextManager[None]:
        """Within it the model has the weights that are validated and kept: its own, or their averages."""
        averages = self.learner.averages
        return averages.in_place() if averages else nullcontext()

    @property
    def done(self) -> bool:
        """Whether the epochs or the patience are used up."""
        epochs = self.settings.epochs if self.learner.optimizers else 1  # a model without weights has nothing to train
        return self.progress.epoch >= epochs or self._patience_is_over()

    def _patience_is_over(self) -> bool:
        patience, every = self.settings.patience, self.settings.eval_every
        validated = self.progress.epoch // every * every  # later epochs, not validated yet, may be better
        return patience > 0 and validated - self.progress.best_epoch >= patience

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs, as plain tensors and numbers."""
        learner, device, epoch = self.learner, self.store.device, self.epoch
        if epoch is not None:
            epoch.read(learner.n_steps - epoch.done)
            epoch.seconds = self._seconds()
        random = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }
        carried = learner.objective.carried(self.model)
        return {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in learner.optimizers],
            "progress": asdict(self.progress),
            "step": learner.n_steps,
            "epoch": None if epoch is None else asdict(epoch),
            "generator": learner.generator.get_state(),
            "random": processes.everyones(random),
            **({"averages": learner.averages.state()} if learner.averages else {}),
            **({"carried": carried} if carried is not None else {}),
        }

    def restore(self, state: dict[str, Any], place: object) -> None:
        """Continue from ``state``, which was read from the file ``place``, on any number of processes.

        UserError if it belongs to another model, data set or split.
        """
        learner, device = self.learner, self.store.device
        state = fitting(state, self.state(), learner.optimizers, place)
        self.model.load_state_dict(state["model"])
        for optimizer, stored in zip(learner.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        if learner.averages:
            learner.averages.restore(state["averages"])
        if learner.objective.carried(self.model) is not None:
            learner.objective.carry(tuple(part.to(device) for part in state["carried"]))
        self.progress = Progress(**state["progress"])
        learner.n_steps = state["step"]
        if state["epoch"] is not None:
            self.epoch = Epoch(**state["epoch"])
            self._started = time.perf_counter() - self.epoch.seconds
        learner.generator.set_state(state["generator"].cpu())
        if processes.rank() >= len(state["random"]):
            self._seed_process()
            return
        random = state["random"][processes.rank()]
        torch.set_rng_state(random["cpu"].cpu())
        if random["cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"].cpu(), device)
