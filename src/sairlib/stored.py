"""The configuration that a run stored. The run may be a stranger's, so nothing is done with it before it is checked.

It may name only classes of sairlib and of packages that the user trusts, refers to nothing outside itself (so that no
variable of the environment gets into a file), and downloads from no address but those of the data sets in ``conf/``.
"""

import inspect
import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from sairlib.commands import CONF
from sairlib.configuration import user_errors
from sairlib.data.prepare import Reader
from sairlib.data.split import Split
from sairlib.errors import UserError, one_line
from sairlib.make import find
from sairlib.models.heads import HeadPart
from sairlib.models.recommender import Recommender
from sairlib.nn.layers import Encoder
from sairlib.training.losses import Loss
from sairlib.training.negatives import Sampler
from sairlib.training.objectives import Objective

Kind = TypeVar("Kind")

LARGEST, DEEPEST = 200_000, 30
"""How many bytes and levels a stored file may have; those that sairlib writes have some 3,000 and 4."""
SAFE = re.compile(r"\$\{([\w.]+|oc\.env:SAIRLIB_[A-Z]+)\}")
"""References to other settings, and to the variables of the environment that ``conf/`` itself uses."""
KINDS: dict[str, type] = {
    "model": Recommender,
    "loss": Loss,
    "objective": Objective,
    "negatives": Sampler,
    "dataset.reader": Reader,
    "model.head": HeadPart,
}
"""What a class must be, by its place; any other class must be a part of a model."""
FUNCTIONS: dict[str, type] = {"split": Split, "model.encoder": Encoder}
"""Where a function may stand, and what it must return."""


def settings_of(directory: Path, trust: Sequence[str] = ()) -> DictConfig:
    """The configuration of the run in ``directory``, which names nothing but objects of sairlib and of the packages in
    ``trust``. UserError if it is missing, damaged, or names others."""
    path = directory / "config.yaml"
    if not path.is_file():
        raise UserError(f"{directory} holds no run (no config.yaml in it); give run=DIR, a directory that train wrote")
    config = _read(path, DictConfig)
    for place, value in _walk(OmegaConf.to_container(config), ""):
        if "${" in place or (isinstance(value, str) and "${" in value):
            raise UserError(f"{path}: {place}={value} refers to something else; a run stores plain values")
    check(config, path, trust)
    return config


def words_of(directory: Path, dropped: Collection[str] = ()) -> list[str]:
    """The words of the command line that started a run, without those of the settings in ``dropped``.

    UserError if they are missing, damaged or unsafe. What they choose is to be checked after it is composed.
    """
    path = directory / ".hydra" / "overrides.yaml"
    if not path.is_file():
        raise UserError(f"{directory} holds no run that can be resumed (no .hydra/overrides.yaml in it)")
    words: list[str] = []
    stored = OmegaConf.to_container(_read(path, ListConfig))  # as they are: nothing is looked up
    for word in stored if isinstance(stored, list) else []:
        if not isinstance(word, str):
            raise UserError(f"{path} is not a run's configuration ({word!r} is no word)")
        if word.partition("=")[0].lstrip("+~") not in dropped:
            words.append(word)
    with user_errors():
        overrides = OverridesParser.create().parse_overrides(words)
    for override in overrides:
        _check_word(override, path)
    return words


def check(config: DictConfig, path: Path, trust: Sequence[str]) -> None:
    """UserError if ``config``, from the file ``path``, would make an object that is neither sairlib's nor of a package
    in ``trust``. A download from an address that sairlib does not know is removed from it."""
    for place, value in _walk(OmegaConf.to_container(config, resolve=True), ""):
        if isinstance(value, dict) and "_target_" in value:
            _check_target(place, value["_target_"], path, trust)
    url = OmegaConf.select(config, "dataset.url")
    if url is not None and url not in _known_addresses():
        config.dataset.url = None


def packages(config: DictConfig) -> list[str]:
    """The packages of all objects that ``config`` names: whoever typed its words trusts them."""
    values = (value for _, value in _walk(OmegaConf.to_container(config), ""))
    return [
        str(value["_target_"]).partition(".")[0] for value in values if isinstance(value, dict) and "_target_" in value
    ]


def _check_target(place: str, target: Any, path: Path, trust: Sequence[str]) -> None:
    named = f"{path}: {place}._target_={target}"
    if not isinstance(target, str) or not _belongs(target, ("sairlib", *trust)):
        package = str(target).partition(".")[0]
        raise UserError(
            f"{named} is not part of sairlib, and making it may run any code: if you trust this run and that package,"
            f" add trust=[{package}]"
        )
    try:
        found = find(target)
    except Exception as error:  # an import may raise anything
        raise UserError(f"{named} does not exist: {one_line(error)}") from error
    if not _belongs(str(getattr(found, "__module__", "")), ("sairlib", *trust)):  # such as sairlib.batch.torch.load
        raise UserError(f"{named} is not part of {target.partition('.')[0]}")
    if place in FUNCTIONS and inspect.isfunction(found):
        returned = inspect.signature(found).return_annotation
        fits = isinstance(returned, type) and issubclass(returned, FUNCTIONS[place])
    else:
        part = object if _belongs(found.__module__, trust) else nn.Module
        fits = isinstance(found, type) and issubclass(found, KINDS.get(place, part))
    if not fits:
        raise UserError(f"{named} is not of a kind that belongs there")


def _belongs(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages if package)


def _check_word(override: Override, path: Path) -> None:
    """A word may neither change how Hydra works nor refer to the environment."""
    word = override.input_line
    keys = (str(key).replace("/", ".") for key in (override.key_or_group, override.package))
    of_hydra = any(_belongs(key, ("hydra",)) for key in keys)
    if of_hydra or "${" in SAFE.sub("", f"{word} {override.value()}"):
        raise UserError(
            f"{path}: {word} is not taken from a stored run, for it may read or run what is on your machine;"
            f" remove it there, or give {override.key_or_group}=... again on the command line"
        )


def _known_addresses() -> set[str | None]:
    files = (yaml.safe_load(path.read_text()) for path in (CONF / "dataset").glob("*.yaml"))
    return {file.get("url") for file in files}


def _walk(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """``value`` and all values in it, each with its dotted place."""
    yield place, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _walk(inner, f"{place}.{key}".lstrip("."))


def _read(path: Path, kind: type[Kind]) -> Kind:
    """Read a yaml file that a run wrote; UserError if it is damaged."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1).decode()
        _check_shape(text)
        config = OmegaConf.load(io.StringIO(text))
    except Exception as error:  # the parsers may raise almost anything
        raise UserError(f"{path} is not a run's configuration ({one_line(error)})") from error
    if not isinstance(config, kind):
        raise UserError(f"{path} is not a run's configuration")
    return config


def _check_shape(text: str) -> None:
    """UserError for a text that would take long to read, or more memory than it has room for."""
    if len(text.encode()) > LARGEST:
        raise UserError(f"it has more than {LARGEST:,} bytes")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
            raise UserError("it is nested too deeply, or repeats itself by an alias")
