"""From configuration to objects: the one place, beside the commands, that knows Hydra."""

import inspect
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

from sairlib.data.download import locate
from sairlib.data.filters import Filters
from sairlib.data.prepare import prepare
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.models.recommender import Recommender
from sairlib.run import checkpoint, runtime
from sairlib.run.study import About, Run, Study
from sairlib.training.losses import Loss
from sairlib.training.negatives import Sampler
from sairlib.training.objectives import Objective
from sairlib.training.settings import TrainingSettings
from sairlib.training.state import load_weights
from sairlib.training.trainer import Trainer

Settings = TypeVar("Settings")
Kept = TypeVar("Kept")
Made = TypeVar("Made")

_CHECKOUT = Path(__file__).parents[2] / "conf"
CONFIG_PATH = str(_CHECKOUT) if (_CHECKOUT / "train.yaml").is_file() else "pkg://sairlib.conf"
"""The checkout's ``conf/`` where there is one, else the copy inside the wheel."""


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


def compose(words: Sequence[str]) -> DictConfig:
    """The configuration that these words of the command line come to, in or outside of a Hydra job."""
    with _hydra_of_its_own():
        if CONFIG_PATH.startswith("pkg://"):
            context: Any = initialize_config_module(CONFIG_PATH.removeprefix("pkg://"), version_base="1.3")
        else:
            context = initialize_config_dir(CONFIG_PATH, version_base="1.3")
        with context:
            return hydra_compose("train", list(words))


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what Hydra says of bad words into UserErrors."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """The message, or, where a wrapper has none, that of what it wraps."""
    told: BaseException | None = error
    while told is not None and not str(told).strip():
        told = told.__cause__
    return " ".join(str(told or type(error).__name__).split())


def kept_words(words: Sequence[str]) -> dict[str, str]:
    """The document of a run directory that ``words_of`` reads."""
    return {".hydra/overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(words)))}


@contextmanager
def _hydra_of_its_own() -> Iterator[None]:
    """Hydra allows one of it in a process: put aside the one of a job, or of a notebook, and put it back."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def study(config: DictConfig, command: str, documents: Mapping[str, str]) -> Study:
    """All objects of a run. ``command`` and ``documents`` are as in ``About``.

    UserError, before anything long is begun, for whatever in the configuration cannot be.
    """
    started = time.perf_counter()
    check_run(config)
    training = settings(config, "training", TrainingSettings)
    evaluation = settings(config, "evaluation", EvaluationSettings)
    device = runtime.choose_device(config.device)
    runtime.seed_everything(config.seed)
    runtime.keep_freed_memory()
    parts = split(config)
    made = model(config, parts, device)
    store = SequenceStore(parts, config.max_len, device)
    evaluator = Evaluator(parts, store, evaluation)
    asks = objective(config, store, training.batch_size)
    trainer = Trainer(made, asks, store, evaluator, training, config.seed, identity(config, parts))
    text = OmegaConf.to_yaml(config, resolve=True)
    about = About(
        command,
        config.dataset.name,
        config.seed,
        {"config.yaml": text, **documents},
        _flat(config),
        time.perf_counter() - started,
    )
    return Study(parts, store, made, asks, evaluator, trainer, about)


def check_run(config: DictConfig) -> None:
    """UserError for a value of the wrong type, or out of range, at the top of the configuration."""
    top = {name: config[name] for name in RunSettings.__dataclass_fields__}
    settings(OmegaConf.create({"": top}), "", RunSettings)


def settings(config: DictConfig, group: str, kind: type[Settings]) -> Settings:
    """``config[group]`` as a ``kind``, a frozen dataclass: unknown keys, wrong types and bad values are UserErrors."""
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
    """Find, read, filter and split the data set."""
    reader = _instantiate(config.dataset.reader, "dataset.reader")
    filters = settings(config.dataset, "filters", Filters)
    place: dict[str, Any] = {key: config.dataset[key] for key in config.dataset if key not in ("reader", "filters")}
    source = locate(root=Path(config.data.root).expanduser(), **place)
    cache = Path(config.data.cache) if config.data.cache else None
    cut = _instantiate(config.split, "split")
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
    return _part(config, "model", Recommender, facts).to(device)


def objective(config: DictConfig, store: SequenceStore, batch_size: int) -> Objective:
    """What training asks, by which loss, against which negatives."""
    loss = _part(config, "loss", Loss, {"n_items": store.n_items})
    sampler = _part(config, "negatives", Sampler, {"store": store}) if config.negatives else None
    facts = {"loss": loss, "sampler": sampler, "store": store, "batch_size": batch_size}
    return _part(config, "objective", Objective, facts)


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
    load_weights(best, state, identity(config, parts), directory / "best.pt")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    kept = {str(key): value for key, value in plain.items()}
    return Run(kept, parts, store, best.eval(), Evaluator(parts, store, evaluation), state["epoch"])


def words_of(directory: Path) -> list[str]:
    """The words of the command line that a run was started with."""
    path = directory / ".hydra" / "overrides.yaml"
    if not path.is_file():
        raise UserError(f"{directory} holds no run that can be resumed (no .hydra/overrides.yaml in it)")
    return [str(word) for word in read_kept(path, ListConfig)]


def read_kept(path: Path, kind: type[Kept]) -> Kept:
    """What a run wrote about itself; UserError if it is damaged."""
    try:
        kept = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise UserError(f"{path} is not a run's configuration ({error})") from error
    if not isinstance(kept, kind):
        raise UserError(f"{path} is not a run's configuration")
    return kept


def _part(config: DictConfig, group: str, kind: type[Made], facts: Mapping[str, Any]) -> Made:
    """What ``config[group]`` names, made of its settings and of those facts that it asks for."""
    own = config[group]
    takes = _check_types(own, group)
    unfinished = _instantiate(own, group, _partial_=True)  # handed to Hydra, the facts would be taken for configuration
    try:
        made = unfinished(**{name: fact for name, fact in facts.items() if name in takes})
    except (UserError, TypeError) as error:  # a TypeError: an argument that isn't there, or a wrong type for one
        raise UserError(f"{group}: {' '.join(str(error).split())}") from error
    if not isinstance(made, kind):
        raise UserError(f"{group}._target_={own._target_} is not a {kind.__name__}")
    return made


def _check_types(own: DictConfig, where: str) -> Mapping[str, inspect.Parameter]:
    """What the target takes; UserError if it is not there, or a setting is of another type, here or in a part of it."""
    try:
        takes = inspect.signature(get_class(own._target_)).parameters
    except Exception as error:  # Hydra wraps whatever an import may raise
        raise UserError(f"{where}._target_={own.get('_target_')} is not there: {error}") from error
    for name in map(str, own):
        value = own[name]
        if isinstance(value, DictConfig) and "_target_" in value:
            _check_types(value, f"{where}.{name}")
        expected = takes[name].annotation if name in takes else None
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if expected in (bool, int, float, str) and type(value) is not expected:
            raise UserError(f"{where}.{name}={value}: must be {expected.__name__}, not {type(value).__name__}")
    return takes


def _instantiate(config: DictConfig, where: str, **facts: Any) -> Any:
    try:
        return instantiate(config, **facts)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise UserError(f"{where}: {error.__cause__}") from error
        if isinstance(error.__cause__, TypeError):  # an argument that isn't there, or a wrong type for one
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
