"""The objects that a configuration names, checked before they are made."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sairlib.configuration import literal
from sairlib.data.dataset import Dataset
from sairlib.data.order import Order
from sairlib.data.prepare import Reader
from sairlib.data.split import Split
from sairlib.errors import UserError, one_line, out_of_memory

Settings = TypeVar("Settings")
Component = TypeVar("Component")

LARGEST = 1_000_000
"""Of the widths and counts in sairlib's parts: with more, making them may take for ever, or too much memory."""
PLAIN = (bool, int, float, str, NoneType)
"""The types of settings that are checked before an object is made."""


def group(config: DictConfig, name: str) -> DictConfig:
    """The group ``config[name]``; UserError if it is missing, null, a list or a single value."""
    own = OmegaConf.select(config, name)
    if not isinstance(own, DictConfig):
        raise UserError(f"{name}={own}: must be a group of settings; leave it out, or choose one of its options")
    return own


def only(config: DictConfig, names: Iterable[str]) -> DictConfig:
    """These settings of ``config`` alone, with the values that their references lead to."""
    return OmegaConf.create({name: _literal(config[name]) for name in names})


def _literal(value: Any) -> Any:
    """A value that was looked up, for a configuration: what looks like a reference in it is none."""
    if isinstance(value, dict):
        return {key: _literal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_literal(inner) for inner in value]
    return literal(value) if isinstance(value, str) else value


def settings(config: DictConfig, name: str, kind: type[Settings]) -> Settings:
    """``config[name]`` as a ``kind``, a frozen dataclass; UserError for unknown keys, wrong types and bad values."""
    own = group(config, name) if name else config
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), _literal(OmegaConf.to_container(own, resolve=True)))
        plain = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, ValueError, OverflowError) as error:  # the latter two: numbers of no end
        key = ".".join(str(part) for part in (name, getattr(error, "key", None) or "") if part)
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    values = {str(key): tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    return kind(**values)


def component(config: DictConfig, name: str, kind: type[Component], facts: Mapping[str, Any]) -> Component:
    """Make the target of ``config[name]``, a ``kind``, from its settings, and from those ``facts`` that it takes."""
    own = group(config, name)
    if not issubclass(_class(own, name), kind):
        raise UserError(f"{name}._target_={own._target_} is not a {kind.__name__}")
    for fact in facts:
        if fact in own:
            raise UserError(f"{name}.{fact}={own[fact]}: this comes from the data and the other settings; leave it out")
    parameters = _check_types(own, name)
    factory = _instantiate(own, name, _partial_=True)  # Hydra would take the facts for configuration
    try:
        made = factory(**{fact: value for fact, value in facts.items() if fact in parameters})
    except (UserError, TypeError) as error:  # a TypeError: an unknown or missing argument, or one of a wrong type
        raise UserError(f"{name}: {one_line(error)}") from error
    except (RuntimeError, MemoryError, OverflowError) as error:
        if isinstance(error, RuntimeError) and not (out_of_memory(error) or "overflow" in str(error).lower()):
            raise
        raise UserError(f"{name}: its settings need more memory than this machine has; lower its sizes") from error
    assert isinstance(made, kind)
    return made


def reader(config: DictConfig, name: str) -> Reader:
    """The reader of files that ``config[name]`` describes."""
    own = group(config, name)
    if not issubclass(_class(own, name), Reader):
        raise UserError(f"{name}._target_={own._target_} is not a reader: it has no methods `files` and `read`")
    _check_types(own, name)
    made: Reader = _instantiate(own, name)
    return made


def split_rule(config: DictConfig, name: str) -> Callable[[Dataset], Split]:
    """The rule that ``config[name]`` describes, in the order that its group ``order`` says, if it has one."""
    own = group(config, name)
    order = settings(config, f"{name}.order", Order) if "order" in own else Order()
    own = OmegaConf.masked_copy(own, [str(key) for key in own if key != "order"])
    _check_types(own, name)
    rule = _instantiate(own, name, _partial_=True)

    def apply(data: Dataset) -> Split:
        try:
            made = order.applied(rule, data)
        except TypeError as error:  # an unknown or missing argument
            raise UserError(f"{name}: {one_line(error)}") from error
        if not isinstance(made, Split):
            raise UserError(f"{name}._target_={own._target_} makes no Split")
        return made

    return apply


def find(target: Any) -> Any:
    """The object of the dotted name ``target``, in a module. Raises whatever importing the module may raise."""
    module, _, name = str(target).rpartition(".")
    return getattr(import_module(module), name)


def _class(own: DictConfig, where: str) -> type:
    try:
        found = find(own.get("_target_"))
    except Exception as error:  # an import may raise anything
        raise UserError(f"{where}._target_={own.get('_target_')} does not exist: {one_line(error)}") from error
    if not isinstance(found, type):
        raise UserError(f"{where}._target_={own._target_} is not a class")
    return found


def _check_types(own: DictConfig, where: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a target; UserError if it does not exist, or if it or a part has a setting of a wrong type."""
    try:
        parameters = inspect.signature(find(own.get("_target_"))).parameters
    except Exception as error:
        raise UserError(f"{where}._target_={own.get('_target_')} does not exist: {one_line(error)}") from error
    for key, value in own.items():
        name = str(key)
        if isinstance(value, DictConfig) and "_target_" in value:
            _check_types(value, f"{where}.{name}")
        largest = LARGEST if own._target_.startswith("sairlib.") else 2**63 - 1
        if type(value) is int and abs(value) > largest:
            raise UserError(f"{where}.{name}={value}: must be at most {largest:,}")
        expected = parameters[name].annotation if name in parameters else None
        if get_origin(expected) is Sequence and not isinstance(value, ListConfig):
            raise UserError(f"{where}.{name}={value}: must be a list, as in [1, 2]")
        kinds = get_args(expected) if isinstance(expected, UnionType) else (expected,)  # of int | None: both
        if (
            all(kind in PLAIN for kind in kinds)
            and type(value) not in kinds
            and not (type(value) is int and float in kinds)
        ):
            wanted = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
            raise UserError(f"{where}.{name}={value}: must be {wanted}, not {type(value).__name__}")
    return parameters


def _instantiate(config: DictConfig, where: str, **facts: Any) -> Any:
    try:
        return instantiate(config, **facts)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError | TypeError):  # an unknown or missing argument, or a wrong type
            raise UserError(f"{where}: {one_line(error.__cause__)}") from error
        raise
    except Exception as error:  # about _partial_, _args_ and their like: what a target raises is wrapped
        raise UserError(f"{where}: {one_line(error)}") from error
