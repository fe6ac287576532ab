"""The data that a configuration names: where it is found, how it is read, filtered, split and cached."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from sairlib import make
from sairlib.configuration import literal
from sairlib.data.dataset import Dataset, index
from sairlib.data.download import locate
from sairlib.data.filters import Filters
from sairlib.data.given import locate_files
from sairlib.data.interactions import Interactions
from sairlib.data.prepare import Reader, prepare
from sairlib.data.source import ACTIONS, ITEMS, Source
from sairlib.data.split import Split
from sairlib.errors import UserError

FOR_READERS = (
    *("columns", "separator", "header", "category_separator", "missing", "time_unit"),
    *("files", "unrated", "order", "order_seed"),
)
"""Settings of data sets that their readers refer to."""


@dataclass(frozen=True)
class DataSet:
    """Where a data set is found: the arguments of ``locate``, or the files that the user names."""

    name: str
    archive: str | None = None
    url: str | None = None
    checksum: str | None = None
    homepage: str | None = None
    path: Any = None
    """A path, a list of paths, or a pattern. ``archive`` is null then."""
    items: str | None = None
    beside: str | None = None


@dataclass(frozen=True)
class Folders:
    """The folder of data sets, and the one in which prepared data is cached."""

    root: str
    cache: str | None


class DataParts(NamedTuple):
    """What a configuration says of the data: where it is found, how it is read, filtered and split, and cached."""

    source: Source
    reader: Reader
    filters: Filters
    rule: Callable[[Dataset], Split]
    cache: Path | None


def split(config: DictConfig, data: Interactions | None = None) -> Split:
    """Find, read, filter and split the data set; UserError if one of these fails.

    ``data`` is for a configuration that says that its data is given from Python.
    """
    if data is not None or make.group(config, "dataset").get("from_python"):
        filters, rule = make.settings(config, "dataset.filters", Filters), make.split_rule(config, "split")
        return rule(index(filters.apply(_given(config, data))))
    parts = data_parts(config)
    return parts.rule(prepare(parts.source, parts.reader, parts.filters, parts.cache))


def data_parts(config: DictConfig) -> DataParts:
    """Find the data set, and make what reads, filters and splits it; UserError if one of these fails.

    The paths of the user's own files become absolute in ``config``, so that a run finds them from any directory.
    """
    dataset = make.group(config, "dataset")
    filters = make.settings(config, "dataset.filters", Filters)
    rule = make.split_rule(config, "split")
    if dataset.get("from_python"):
        _given(config, None)
    reader = make.reader(config, "dataset.reader")
    place = {str(key): dataset[key] for key in dataset if key not in ("reader", "filters", *FOR_READERS)}
    if "items" in place:
        items = make.group(config, "dataset.items")
        place |= {"items": items.get("path"), "beside": items.get("beside")}
    data_set = make.settings(OmegaConf.create({"dataset": place}), "dataset", DataSet)
    folders = make.settings(config, "data", Folders)
    try:
        source = _source(data_set, Path(folders.root).expanduser())
    except (OSError, ValueError, RuntimeError) as error:  # a path that cannot be one; a home that nobody has
        raise error if isinstance(error, UserError) else UserError(f"data.root={folders.root}: {error}") from error
    for setting, kind in (("dataset.path", ACTIONS), ("dataset.items.path", ITEMS)):
        if kind in source.given:
            paths = [literal(name) for name in source.given[kind]]
            OmegaConf.update(config, setting, paths[0] if len(paths) == 1 else paths, merge=False)
    return DataParts(source, reader, filters, rule, Path(folders.cache) if folders.cache else None)


def _source(data_set: DataSet, root: Path) -> Source:
    place = dict(vars(data_set))
    path, items, beside = (place.pop(name) for name in ("path", "items", "beside"))
    if data_set.archive is not None:
        return locate(root=root, **place)
    if path is None:
        raise UserError("dataset.path is missing: give your file, such as dataset.path=my.csv (docs/data.md)")
    paths = [path] if isinstance(path, str) else path
    if not isinstance(paths, list | tuple) or not all(isinstance(one, str) for one in paths):
        raise UserError(f"dataset.path={path}: must be the path of a file, or a list of paths")
    return locate_files(paths, items, beside, root)


def _given(config: DictConfig, data: Interactions | None) -> Interactions:
    """The data from Python; UserError if there is none, or if ``config`` names a data set too."""
    if data is None:
        raise UserError(
            "dataset=python: this data is given from Python: sairlib.study(..., data=interactions), and for a run that"
            " was trained on it sairlib.load(DIR, data=interactions)"
        )
    if not config.dataset.get("from_python"):
        raise UserError(f"data=... was given, but the run is of the data set {config.dataset.name}; leave data out")
    return data
