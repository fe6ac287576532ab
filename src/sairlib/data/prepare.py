"""From a data set's files to a Dataset, with a cache keyed by everything that affects the result."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from sairlib.data.dataset import Dataset, index
from sairlib.data.filters import Filters
from sairlib.data.interactions import Interactions
from sairlib.data.source import Source
from sairlib.files import whole_file

VERSION = 2
"""Increase it whenever the same files and settings would give another Dataset."""


class Reader(Protocol):
    """A file format: ``files`` names the files that affect the result, ``read`` gives the table."""

    def files(self, source: Source) -> list[str]: ...

    def read(self, source: Source) -> Interactions: ...


def prepare(source: Source, reader: Reader, filters: Filters, cache: Path | None) -> Dataset:
    """Read, filter and index the data, or load the result of an earlier call with the same files and settings.

    The cache key covers the content of the files, the reader with its settings, the filters and VERSION. A cache that
    is damaged or cannot be written is no error: the data is prepared again. ``cache=None`` uses none.
    UserError if the files cannot be read or nothing passes the filters.
    """
    if cache is None:
        return index(filters.apply(reader.read(source)))
    ingredients = [VERSION, source.sha256(reader.files(source)), repr(reader), asdict(filters)]
    key = hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()[:32]
    path = cache.expanduser() / f"{key}.npz"
    stored = _read(path)
    if stored is not None:
        return stored
    dataset = index(filters.apply(reader.read(source)))
    _write(path, dataset)
    return dataset


def _read(path: Path) -> Dataset | None:
    try:
        # Zip members have checksums, so damage is noticed. np.load alone would leave a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["category_names"])
            fields = ("items", "offsets", "user_ids", "item_ids", "item_categories")
            times = arrays["times"] if len(arrays["times"]) else None
            return Dataset(**{field: arrays[field] for field in fields}, category_names=names, times=times)
    except Exception:  # a damaged zip may raise almost anything; the data can be prepared from its files
        return None


def _write(path: Path, dataset: Dataset) -> None:
    arrays = {**vars(dataset), "category_names": np.array(dataset.category_names, dtype=str)}
    if dataset.times is None:
        arrays["times"] = np.empty(0)  # always stored: a damaged member name must not look like data without times
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, **arrays)
