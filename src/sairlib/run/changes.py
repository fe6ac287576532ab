"""Which settings may differ when a run is resumed, and how two configurations are compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sairlib.errors import UserError

MAY_CHANGE = (
    *("training.epochs", "training.patience", "training.eval_every", "training.save_every"),
    *("evaluation.batch_size", "device", "threads", "data.root", "data.cache"),
)
"""What a resumed run may change: how long it trains, how often it looks, and where it runs."""
OF_THE_START = ("data.root", "data.cache", "dataset.path", "dataset.items.path", "run_dir", "resume")
"""What says where a process finds things and how it was started: never compared."""
ABSENT = "(not set)"
"""Stands for the value of a setting that one of two configurations lacks."""

Pairs = dict[str, tuple[Any, Any]]
"""Settings by their dotted name: the stored value, and the given one."""


def flat(text: str, place: object) -> dict[str, Any]:
    """The settings in the text of a ``config.yaml``, by their dotted names. UserError if it is none."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise UserError(f"{place} is not a run's configuration: it has aliases")
        settings = yaml.safe_load(text)
        if not isinstance(settings, dict):
            raise UserError(f"{place} is not a run's configuration")
        return dict(_leaves(settings, ""))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{place} is not a run's configuration ({' '.join(str(error).split())[:160]})") from error


def read(path: Path) -> dict[str, Any]:
    """The settings in the ``config.yaml`` of a run, as by ``flat``. UserError if it cannot be read or is none."""
    try:
        return flat(path.read_bytes().decode(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a run's configuration ({error})") from error


def is_refused(name: str, stored: Any, given: Any) -> bool:
    """Whether a resumed run must not change this setting so. A setting that the stored run did not know yet may be."""
    return name not in MAY_CHANGE and stored is not ABSENT


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> Pairs:
    """The settings whose values differ; 1 and 1.0 are the same, 1 and true are not."""
    names = [*given, *(name for name in stored if name not in given)]
    pairs = {name: (stored.get(name, ABSENT), given.get(name, ABSENT)) for name in names if name not in OF_THE_START}
    return {name: (old, new) for name, (old, new) in pairs.items() if _typed(old) != _typed(new)}


def refuse(differing: Pairs, place: object) -> None:
    """UserError, with the differences, unless there is none."""
    if not differing:
        return
    shown = [f"{name} {_shown(old)} -> {_shown(new)}" for name, (old, new) in differing.items()]
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    raise UserError(
        f"the run in {place} was started with other settings: {', '.join(shown[:6])}{more}; leave them out, or start"
        f" another run (when resumed, a run may change {', '.join(MAY_CHANGE)})"
    )


def _leaves(value: Any, name: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(name, value)] if name else []
    return [leaf for key, below in value.items() for leaf in _leaves(below, f"{name}.{key}" if name else str(key))]


def _typed(value: Any) -> Any:
    """Python takes True for 1."""
    if isinstance(value, list):
        return [_typed(entry) for entry in value]
    return (value, isinstance(value, bool))


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
