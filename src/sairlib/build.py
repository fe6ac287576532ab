"""From configuration to objects. Only this module and the commands know Hydra."""

import inspect
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sairlib import processes
from sairlib.data.download import locate
from sairlib.data.filters import Filters
from sairlib.data.prepare import prepare
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.recommender import Recommender
from sairlib.run import checkpoint, distributed, runtime
from sairlib.run.study import About, Run, Study
from sairlib.training.losses import Loss
from sairlib.training.negatives import Sampler
from sairlib.training.objectives import Objective
from sairlib.training.settings import TrainingSettings
from sairlib.training.state import load_weights
from sairlib.training.trainer import Trainer

Settings = TypeVar("Settings")
Stored = TypeVar("Stored")
Component = TypeVar("Component")

_CHECKOUT = Path(__file__).parents[2] / "conf"
CONFIG_PATH = str(_CHECKOUT) if (_CHECKOUT / "train.yaml").is_file() else "pkg://sairlib.conf"
"""The checkout's ``conf/`` if there is one, else the copy in the installed package."""


def _unique() -> str:
    """Six random characters, for names that do not collide. They leave the random generators alone."""
    return "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(6))


OmegaConf.register_new_resolver("unique", _unique, use_cache=True, replace=True)


@dataclass(frozen=True)
class RunSettings:
    """The settings at the top level of ``train.yaml``. UserError for a value out of range."""

    seed: int
    device: str
    max_len: int
    resume: str
    """``true``, ``false``, or ``auto``: if there is a run in ``run_dir``."""
    run_dir: str

    def __post_init__(self) -> None:
        if self.resume.lower() not in ("true", "false", "auto"):
            raise UserError(f"resume={self.resume}: choose one of true, false, auto")
        if not self.run_dir:
            raise UserError("run_dir= is empty: give a directory")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: must be between 0 and 2^63 - 1")
        if self.max_len < 1:
            raise UserError(f"max_len={self.max_len}: must be 1 or more")


def compose(words: Sequence[str]) -> DictConfig:
    """Compose the configuration from words of the command line, inside or outside a Hydra job."""
    with _hydra_of_its_own():
        if CONFIG_PATH.startswith("pkg://"):
            context: Any = initialize_config_module(CONFIG_PATH.removeprefix("pkg://"), version_base="1.3")
        else:
            context = initialize_config_dir(CONFIG_PATH, version_base="1.3")
        with context:
            return hydra_compose("train", list(words))


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn Hydra's errors about bad words into UserErrors."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """The error's message in one line; if it is empty, the message of its cause."""
    cause: BaseException | None = error
    while cause is not None and not str(cause).strip():
        cause = cause.__cause__
    return " ".join(str(cause or type(error).__name__).split())


def words_document(words: Sequence[str]) -> dict[str, str]:
    """The document of a run directory, by its file name, from which ``words_of`` reads the words."""
    return {".hydra/overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(words)))}


@contextmanager
def _hydra_of_its_own() -> Iterator[None]:
    """Hydra allows one instance in a process: set aside that of a job or notebook, and restore it."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def study(config: DictConfig, command: str, documents: Mapping[str, str]) -> Study:
    """Assemble all objects of a run. ``command`` and ``documents`` are as in ``About``.

    UserError for a bad configuration or bad data. Settings are checked before the data is read.
    """
    started = time.perf_counter()
    check_run(config)
    training = settings(config, "training", TrainingSettings)
    evaluation = settings(config, "evaluation", EvaluationSettings)
    device = distributed.device_of_this_process(runtime.choose_device(config.device))
    runtime.seed_everything(config.seed)
    runtime.keep_freed_memory()
    if processes.rank():
        processes.wait()  # until the first has filled the cache
    data_split = split(config)
    if processes.rank() == 0:
        processes.wait()
    recommender = model(config, data_split, device)
    store = SequenceStore(data_split, config.max_len, device)
    evaluator = Evaluator(data_split, store, evaluation)
    train_objective = objective(config, store, training.batch_size)
    trainer = Trainer(
        recommender, train_objective, store, evaluator, training, config.seed, identity(config, data_split)
    )
    text = OmegaConf.to_yaml(config, resolve=True)
    about = About(
        command,
        config.dataset.name,
        config.seed,
        {"config.yaml": text, **documents},
        _flat(config),
        time.perf_counter() - started,
    )
    return Study(data_split, store, recommender, train_objective, evaluator, trainer, about)


def resume_mode(config: DictConfig) -> str:
    """``true``, ``false`` or ``auto``."""
    return str(config.resume).lower()


def check_run(config: DictConfig) -> None:
    """UserError for a value of the wrong type, or out of range, at the top level of the configuration."""
    if "interests" in config and "n_interests" not in config.model:
        raise UserError("interests: only SAIR's models have interests; leave the group out")
    top = {name: config[name] for name in RunSettings.__dataclass_fields__}
    settings(OmegaConf.create({"": top}), "", RunSettings)


def settings(config: DictConfig, group: str, kind: type[Settings]) -> Settings:
    """``config[group]`` as a ``kind``, a frozen dataclass; UserError for unknown keys, wrong types and bad values."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), config[group])
        plain = OmegaConf.to_container(merged, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = ".".join(part for part in (group, str(error.key or "")) if part)
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    values = {str(name): tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    return kind(**values)


def split(config: DictConfig) -> Split:
    """Find, read, filter and split the data set; UserError if one of these fails."""
    reader = _instantiate(config.dataset.reader, "dataset.reader")
    filters = settings(config.dataset, "filters", Filters)
    location: dict[str, Any] = {key: config.dataset[key] for key in config.dataset if key not in ("reader", "filters")}
    source = locate(root=Path(config.data.root).expanduser(), **location)
    cache = Path(config.data.cache) if config.data.cache else None
    rule = _instantiate(config.split, "split")
    data_split = rule(prepare(source, reader, filters, cache))
    assert isinstance(data_split, Split)
    return data_split


def model(config: DictConfig, split: Split, device: torch.device) -> Recommender:
    """The configured model on ``device``, given the sizes of the data, its categories and the maximum length."""
    data = split.dataset
    facts = {
        "n_items": data.n_items,
        "n_users": data.n_users,
        "max_len": config.max_len,
        "item_categories": torch.from_numpy(data.item_categories),
        "n_categories": data.n_categories,
    }
    return _component(config, "model", Recommender, facts).to(device)


def objective(config: DictConfig, store: SequenceStore, batch_size: int) -> Objective:
    """The configured objective, with its loss and its sampler of negatives."""
    loss = _component(config, "loss", Loss, {"n_items": store.n_items})
    sampler = _component(config, "negatives", Sampler, {"store": store}) if config.negatives else None
    facts = {"loss": loss, "sampler": sampler, "store": store, "batch_size": batch_size}
    return _component(config, "objective", Objective, facts)


def identity(config: DictConfig, split: Split) -> dict[str, str]:
    """What a checkpoint and a run must have in common for the run to load it."""
    return {"model": str(config.model._target_), "data and split": split.sha256()}


def load_run(directory: Path, overrides: DictConfig | None = None, device: str = "auto") -> Run:
    """Load a run: its data, its evaluator and its best model.

    Values in ``overrides.data`` and ``overrides.evaluation`` that are not null replace the run's settings. UserError
    for a directory without a run, or if the data is not what the weights were trained on.
    """
    path = directory / "config.yaml"
    if not path.is_file():
        raise UserError(f"{directory} holds no run (no config.yaml in it); give run=DIR, a directory that train wrote")
    config = _read_stored(path, DictConfig)
    for group in ("data", "evaluation"):
        replaced = OmegaConf.select(overrides, group) if overrides is not None else None
        for key, value in (replaced or {}).items():
            if value is not None:
                config[group][key] = value
    target_device = runtime.choose_device(device)
    evaluation = settings(config, "evaluation", EvaluationSettings)
    state = checkpoint.load(directory / "best.pt", target_device)
    data_split = split(config)
    store = SequenceStore(data_split, config.max_len, target_device)
    best_model = model(config, data_split, target_device)
    load_weights(best_model, state, identity(config, data_split), directory / "best.pt")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    resolved = {str(key): value for key, value in plain.items()}
    evaluator = Evaluator(data_split, store, evaluation)
    return Run(resolved, data_split, store, best_model.eval(), evaluator, state["epoch"])


def words_of(directory: Path) -> list[str]:
    """The words of the command line that started a run; UserError if they are missing or damaged."""
    path = directory / ".hydra" / "overrides.yaml"
    if not path.is_file():
        raise UserError(f"{directory} holds no run that can be resumed (no .hydra/overrides.yaml in it)")
    return [str(word) for word in _read_stored(path, ListConfig)]


def _read_stored(path: Path, kind: type[Stored]) -> Stored:
    """Read a yaml file that a run wrote; UserError if it is damaged."""
    try:
        config = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise UserError(f"{path} is not a run's configuration ({error})") from error
    if not isinstance(config, kind):
        raise UserError(f"{path} is not a run's configuration")
    return config


def _component(config: DictConfig, group: str, kind: type[Component], facts: Mapping[str, Any]) -> Component:
    """Build the target of ``config[group]`` from its settings, and from those ``facts`` that are parameters of it."""
    own = config[group]
    parameters = _check_types(own, group)
    factory = _instantiate(own, group, _partial_=True)  # Hydra would take the facts for configuration
    try:
        component = factory(**{name: fact for name, fact in facts.items() if name in parameters})
    except (UserError, TypeError) as error:  # a TypeError: an unknown or missing argument, or one of a wrong type
        raise UserError(f"{group}: {' '.join(str(error).split())}") from error
    if not isinstance(component, kind):
        raise UserError(f"{group}._target_={own._target_} is not a {kind.__name__}")
    return component


def _check_types(own: DictConfig, where: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a target; UserError if it does not exist, or if it or a part has a setting of a wrong type."""
    try:
        parameters = inspect.signature(get_class(own._target_)).parameters
    except Exception as error:  # Hydra wraps whatever an import may raise
        raise UserError(f"{where}._target_={own.get('_target_')} does not exist: {error}") from error
    for name in map(str, own):
        value = own[name]
        if isinstance(value, DictConfig) and "_target_" in value:
            _check_types(value, f"{where}.{name}")
        expected = parameters[name].annotation if name in parameters else None
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if expected in (bool, int, float, str) and type(value) is not expected:
            raise UserError(f"{where}.{name}={value}: must be {expected.__name__}, not {type(value).__name__}")
    return parameters


def _instantiate(config: DictConfig, where: str, **facts: Any) -> Any:
    try:
        return instantiate(config, **facts)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise UserError(f"{where}: {error.__cause__}") from error
        if isinstance(error.__cause__, TypeError):  # an unknown or missing argument, or one of a wrong type
            raise UserError(f"{where}: {' '.join(str(error.__cause__).split())}") from error
        raise


def _flat(config: DictConfig) -> dict[str, object]:
    groups = ("model", "interests", "objective", "loss", "negatives", "training", "dataset.name", "max_len", "seed")
    flat: dict[str, object] = {}
    for group in groups:
        value = OmegaConf.select(config, group)
        if isinstance(value, DictConfig):
            flat |= {f"{group}.{key}": value[key] for key in map(str, value)}
        elif value is not None:
            flat[group] = value
    return flat
