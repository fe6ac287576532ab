"""From configuration to objects: the one place, beside the commands, that knows Hydra."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sairlib import checkpoint, runtime
from sairlib.data.download import locate
from sairlib.data.filters import Filters
from sairlib.data.negatives import Sampler
from sairlib.data.prepare import prepare
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.evaluator import EvaluationSettings, Evaluator
from sairlib.models.recommender import Recommender
from sairlib.objectives import Objective
from sairlib.trainer import TrainingSettings

Settings = TypeVar("Settings")
Kept = TypeVar("Kept")
LEAVE_ONE_OUT = OmegaConf.create({"_target_": "sairlib.data.split.leave_one_out", "_partial_": True})
"""How the runs were split whose configuration does not say it."""


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) run, ready to be looked at."""

    config: DictConfig
    split: Split
    store: SequenceStore
    evaluator: Evaluator
    model: Recommender
    best_epoch: int


@dataclass(frozen=True)
class RunSettings:
    """The settings at the top of ``train.yaml``."""

    seed: int
    device: str
    max_len: int
    resume: bool
    run_dir: str

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: must be between 0 and 2^63 - 1")
        if self.max_len < 1:
            raise UserError(f"max_len={self.max_len}: must be 1 or more")


def check_run(config: DictConfig) -> None:
    """UserError for a value of the wrong type, or out of range, at the top of the configuration."""
    top = {name: config[name] for name in RunSettings.__dataclass_fields__}
    settings(OmegaConf.create({"": top}), "", RunSettings)


def settings(config: DictConfig, group: str, kind: type[Settings]) -> Settings:
    """``config[group]`` as a ``kind``, a frozen dataclass: unknown keys, wrong types and bad values are UserErrors."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), config[group])
        made = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = ".".join(part for part in (group, str(error.key or "")) if part)
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    assert isinstance(made, kind)
    return made


def split(config: DictConfig) -> Split:
    """Find, read, filter and split the data set."""
    reader = _instantiate(config.dataset.reader, "dataset.reader")
    filters = settings(config.dataset, "filters", Filters)
    place: dict[str, Any] = {key: config.dataset[key] for key in config.dataset if key not in ("reader", "filters")}
    source = locate(root=Path(config.data.root).expanduser(), **place)
    cache = Path(config.data.cache) if config.data.cache else None
    cut = _instantiate(config.get("split", LEAVE_ONE_OUT), "split")
    made = cut(prepare(source, reader, filters, cache))
    assert isinstance(made, Split)
    return made


def model(config: DictConfig, split: Split, device: torch.device) -> Recommender:
    """The model, with what only the run knows: the sizes of the data, its categories, and the maximum length."""
    data = split.dataset
    facts = {
        "n_items": data.n_items,
        "n_users": data.n_users,
        "max_len": config.max_len,
        "item_categories": torch.from_numpy(data.item_categories),
        "n_categories": data.n_categories,
    }
    try:
        wanted = inspect.signature(get_class(config.model._target_)).parameters
    except Exception as error:  # Hydra wraps whatever an import may raise
        raise UserError(f"model._target_={config.model._target_} is not there: {error}") from error
    _check_types(config.model, wanted, "model")
    made = _instantiate(config.model, "model", **{name: fact for name, fact in facts.items() if name in wanted})
    assert isinstance(made, Recommender)
    return made.to(device)


def objective(config: DictConfig, store: SequenceStore, training: TrainingSettings) -> Objective:
    """What training asks, and by which loss."""
    loss = _instantiate(config.loss, "loss")
    takes = inspect.signature(loss.func).parameters  # a partial asks nothing of its arguments before it is called
    unknown = loss.keywords.keys() - takes.keys()
    if unknown:
        raise UserError(f"loss={loss.func.__name__} has no option {', '.join(sorted(unknown))}")
    _check_types(config.loss, takes, "loss")
    sampler = Sampler(training.negatives, training.n_negatives, training.popularity, store.unseen, store.counts_M)
    facts: dict[str, Any] = {"loss": loss, "sampler": sampler}
    wanted = inspect.signature(get_class(config.objective._target_)).parameters
    _check_types(config.objective, wanted, "objective")
    made = _instantiate(config.objective, "objective", **facts)
    assert isinstance(made, Objective)
    made.steps_per_batch = made.steps(store) / store.n_batches(training.batch_size)
    return made


def identity(config: DictConfig, split: Split) -> dict[str, str]:
    """What a checkpoint must share with a run to be of use to it."""
    return {"model": str(config.model._target_), "data and split": split.sha256()}


def load_run(directory: Path, overrides: DictConfig | None = None, device: str = "auto") -> Run:
    """A run's data, evaluator and best model; what is not null in ``overrides`` (``data``, ``evaluation``) replaces.

    UserError for a directory without a run, or whose data is no longer what the weights were trained on.
    """
    path = directory / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{directory} holds no run (no config.yaml in it); give run=DIR, a directory that train has made"
        )
    config = read_kept(path, DictConfig)
    for group in ("data", "evaluation"):
        given = OmegaConf.select(overrides, group) if overrides is not None else None
        for key, value in (given or {}).items():
            if value is not None:
                config[group][key] = value
    chosen = runtime.choose_device(device)
    evaluation = settings(config, "evaluation", EvaluationSettings)
    state = checkpoint.load(directory / "best.pt", chosen)
    parts = split(config)
    store = SequenceStore(parts, config.max_len, chosen)
    best = model(config, parts, chosen)
    checkpoint.load_weights(best, state, identity(config, parts), directory / "best.pt")
    return Run(config, parts, store, Evaluator(parts, store, evaluation), best.eval(), state["epoch"])


def read_kept(path: Path, kind: type[Kept]) -> Kept:
    """What a run wrote about itself; UserError if it is damaged."""
    try:
        found = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise UserError(f"{path} is not a run's configuration ({error})") from error
    if not isinstance(found, kind):
        raise UserError(f"{path} is not a run's configuration")
    return found


def _check_types(config: DictConfig, parameters: Mapping[str, inspect.Parameter], where: str) -> None:
    for name in map(str, config):
        value = config[name]
        expected = parameters[name].annotation if name in parameters else None
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if expected in (bool, int, float, str) and type(value) is not expected:
            raise UserError(f"{where}.{name}={value}: must be {expected.__name__}, not {type(value).__name__}")


def _instantiate(config: DictConfig, where: str, **facts: Any) -> Any:
    try:
        return instantiate(config, **facts)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise UserError(f"{where}: {error.__cause__}") from error
        if isinstance(error.__cause__, TypeError):  # an argument that isn't there, or a wrong type for one
            raise UserError(f"{where}: {' '.join(str(error.__cause__).split())}") from error
        raise
