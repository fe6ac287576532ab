"""From configuration to objects. Only this module and the commands know Hydra."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from sairlib import make, processes, stored
from sairlib.build_data import DataParts as DataParts
from sairlib.build_data import data_parts as data_parts
from sairlib.build_data import split as split
from sairlib.configuration import CONFIG_PATH as CONFIG_PATH
from sairlib.configuration import compose as compose
from sairlib.data.interactions import Interactions
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.recommender import Recommender
from sairlib.run import checkpoint, distributed, runtime
from sairlib.run.finished import Run
from sairlib.run.memory import bounded_parameters, check_fits
from sairlib.run.study import About, Study
from sairlib.training.losses import Loss
from sairlib.training.negatives import Sampler
from sairlib.training.objectives import Objective
from sairlib.training.settings import TrainingSettings
from sairlib.training.state import load_weights
from sairlib.training.threads import Threads
from sairlib.training.trainer import Trainer


@dataclass(frozen=True)
class RunSettings:
    """The settings at the top level of ``train.yaml``. UserError for a value out of range."""

    seed: int
    device: str
    max_len: int
    resume: str
    """``true``, ``false``, or ``auto``: if there is a run in ``run_dir``."""
    run_dir: str
    threads: str
    """``auto``: OMP_NUM_THREADS if it is set, else one for each core, and fewer while other processes take these."""

    deterministic: bool = False
    """On CUDA: use only kernels that give the same digits every time. On a CPU they always do."""

    def __post_init__(self) -> None:
        if self.threads != "auto" and not (self.threads.isdecimal() and 1 <= int(self.threads[:5]) <= 1024):
            raise UserError(f"threads={self.threads[:40]}: must be auto, or a number from 1 to 1024")
        if self.resume.lower() not in ("true", "false", "auto"):
            raise UserError(f"resume={self.resume}: choose one of true, false, auto")
        if not self.run_dir:
            raise UserError("run_dir= is empty: give a directory")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: must be between 0 and 2^63 - 1")
        if not 1 <= self.max_len < 2**31:
            raise UserError(f"max_len={self.max_len}: must be 1 or more, and less than 2^31")


def study(config: DictConfig, command: str, documents: Mapping[str, str], data: Interactions | None = None) -> Study:
    """Assemble all objects of a run. ``command`` and ``documents`` are as in ``About``; ``data`` as in ``split``.

    UserError for a bad configuration or bad data. Settings are checked before the data is read.
    """
    started = time.perf_counter()
    check_run(config)
    training = make.settings(config, "training", TrainingSettings)
    evaluation = make.settings(config, "evaluation", EvaluationSettings)
    device = distributed.device_of_this_process(runtime.choose_device(config.device))
    runtime.seed_everything(config.seed)
    runtime.keep_freed_memory()
    if config.deterministic:
        runtime.use_deterministic_kernels()
    if config.threads != "auto":
        torch.set_num_threads(int(config.threads))
    if processes.rank():
        processes.wait()  # until the first has filled the cache
    data_split = split(config, data)
    if processes.rank() == 0:
        processes.wait()
    recommender = model(config, data_split, device, copies=3)  # the gradient, and a mean of it at least
    store = SequenceStore(data_split, config.max_len, device)
    evaluator = make_evaluator(data_split, store, evaluation)
    train_objective = objective(config, store, training.batch_size)
    trainer = Trainer(
        recommender, train_objective, store, evaluator, training, config.seed, identity(config, data_split)
    )
    if config.threads == "auto" and device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        trainer.threads = Threads()
    text = OmegaConf.to_yaml(config, resolve=True)
    about = About(
        command,
        str(config.dataset.name),
        config.seed,
        {"config.yaml": text, **documents},
        _flat(config, documents.get(".hydra/overrides.yaml", "[]")),
        time.perf_counter() - started,
    )
    return Study(data_split, store, recommender, train_objective, evaluator, trainer, about)


def resume_mode(config: DictConfig) -> str:
    """``true``, ``false`` or ``auto``."""
    return str(config.resume).lower()


def check_run(config: DictConfig) -> None:
    """UserError for a value of the wrong type, or out of range, at the top level of the configuration."""
    if "interests" in config and "n_interests" not in make.group(config, "model"):
        raise UserError("interests: only SAIR's models have interests; leave the group out")
    known = [name for name in RunSettings.__dataclass_fields__ if name in config]  # an old run lacks what is new
    make.settings(make.only(config, known), "", RunSettings)


def model(config: DictConfig, split: Split, device: torch.device, copies: int = 1) -> Recommender:
    """The configured model on ``device``, given the sizes of the data, its categories and the maximum length.

    UserError if ``copies`` of its parameters do not fit into memory, or if it needs times and the data has none.
    """
    data = split.dataset
    facts = {
        "n_items": data.n_items,
        "n_users": data.n_users,
        "max_len": config.max_len,
        "item_categories": torch.from_numpy(data.item_categories),
        "n_categories": data.n_categories,
    }
    with bounded_parameters(copies):
        made = make.component(config, "model", Recommender, facts).to(device)
    if made.needs_times and data.times is None:
        raise UserError(
            f"dataset {config.dataset.name} has no times, and {type(made).__name__} looks at them: turn this off with"
            f" model.{made.needs_times}=false"
        )
    return made


def objective(config: DictConfig, store: SequenceStore, batch_size: int) -> Objective:
    """The configured objective, with its loss and its sampler of negatives."""
    loss = make.component(config, "loss", Loss, {"n_items": store.n_items})
    sampler = None
    if make.group(config, "negatives"):  # that of negatives=none is empty
        sampler = make.component(config, "negatives", Sampler, {"store": store})
        longest = int(store.train_steps(store.train_users).max()) if len(store.train_users) else 0
        check_fits(f"negatives.n={sampler.n}", longest * sampler.n * 8)  # those of a single user
    facts = {"loss": loss, "sampler": sampler, "store": store, "batch_size": batch_size}
    return make.component(config, "objective", Objective, facts)


def make_evaluator(split: Split, store: SequenceStore, settings: EvaluationSettings) -> Evaluator:
    """The evaluator, with the candidates of its sampled ranking; UserError if these or its lists do not fit into
    memory."""
    n_bytes = len(split.eval_users) * settings.n_candidates * 8
    check_fits(f"evaluation.n_candidates={settings.n_candidates}", n_bytes)
    check_fits(f"evaluation.lists={settings.lists}", len(split.test) * min(settings.lists, split.dataset.n_items) * 8)
    return Evaluator(split, store, settings)


def identity(config: DictConfig, split: Split) -> dict[str, str]:
    """What a checkpoint and a run must have in common for the run to load it."""
    return {"model": str(config.model._target_), "data and split": split.sha256()}


def load_unranked(
    directory: Path, config: DictConfig, device: str, trust: Sequence[str], batch_size: int | None
) -> Run:
    """``load_run`` for a command that ranks nothing, with the ``data`` of its ``config``: no candidates are drawn."""
    evaluation = {"n_candidates": 0, "full": True, "batch_size": batch_size}
    overrides = OmegaConf.create({"data": config.data, "evaluation": evaluation})
    return load_run(directory, overrides, device, trust)


def load_run(
    directory: Path,
    overrides: DictConfig | None = None,
    device: str = "auto",
    trust: Sequence[str] = (),
    data: Interactions | None = None,
) -> Run:
    """Load a run: its data, its evaluator and its best model.

    Values in ``overrides.data`` and ``overrides.evaluation`` that are not null replace the run's settings. Only classes
    of sairlib and of the packages in ``trust`` are made. ``data`` is as in ``split``. UserError for a directory
    without a run, for a run that names other classes, or if the data is not what the weights were trained on.
    """
    config = stored.settings_of(directory, trust)
    for group in ("data", "evaluation"):
        replaced = OmegaConf.select(overrides, group) if overrides is not None else None
        for key, value in (replaced or {}).items():
            if value is not None:
                make.group(config, group)[key] = value
    check_run(config)
    target_device = runtime.choose_device(device)
    evaluation = make.settings(config, "evaluation", EvaluationSettings)
    state = checkpoint.load(directory / "best.pt", target_device)
    data_split = split(config, data)
    store = SequenceStore(data_split, config.max_len, target_device)
    best_model = model(config, data_split, target_device)
    epoch = load_weights(best_model, state, identity(config, data_split), directory / "best.pt")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    resolved = {str(key): value for key, value in plain.items()}
    evaluator = make_evaluator(data_split, store, evaluation)
    return Run(resolved, data_split, store, best_model.eval(), evaluator, epoch)


def _flat(config: DictConfig, words: str) -> dict[str, object]:
    """The settings that may matter to a result, by their dotted names, those in ``words`` (a yaml list) first."""
    groups = ("model", "interests", "objective", "loss", "negatives", "training", "dataset.name", "max_len", "seed")
    flat: dict[str, object] = {}
    for group in groups:
        value = OmegaConf.select(config, group)
        if isinstance(value, DictConfig):
            flat |= {f"{group}.{key!s}": setting for key, setting in value.items()}
        elif value is not None:
            flat[group] = value
    plain = OmegaConf.to_container(OmegaConf.create(words)) or []  # as they are: nothing is looked up
    given = {str(word).partition("=")[0].lstrip("+~") for word in plain}
    return {name: flat[name] for name in sorted(flat, key=lambda name: name not in given)}
