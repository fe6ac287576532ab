"""From a data set's files to a Dataset, by way of a cache keyed by everything that shapes it."""

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
"""Goes up whenever the same files and settings would come out differently."""


class Reader(Protocol):
    """What a file format needs: which members shape the result, and the table they make."""

    def files(self, source: Source) -> list[str]: ...

    def read(self, source: Source) -> Interactions: ...


def prepare(source: Source, reader: Reader, filters: Filters, cache: Path | None) -> Dataset:
    """Read, filter and index; or take what an earlier run with the same files and settings has stored.

    The key covers the content of the files, the reader with its settings, the filters and VERSION. A cache that is
    damaged or cannot be written is only a lost convenience: the data is prepared anew.
    """
    if cache is None:
        return index(filters.apply(reader.read(source)))
    shaped_by = [VERSION, source.sha256(reader.files(source)), repr(reader), asdict(filters)]
    key = hashlib.sha256(json.dumps(shaped_by).encode()).hexdigest()[:32]
    path = cache.expanduser() / f"{key}.npz"
    stored = _read(path)
    if stored is not None:
        return stored
    dataset = index(filters.apply(reader.read(source)))
    _write(path, dataset)
    return dataset


def _read(path: Path) -> Dataset | None:
    try:
        # Zip members carry checksums: damage is noticed. np.load alone would leave a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["category_names"])
            fields = ("items", "offsets", "user_ids", "item_ids", "item_categories")
            times = arrays["times"] if len(arrays["times"]) else None
            return Dataset(**{field: arrays[field] for field in fields}, category_names=names, times=times)
    except Exception:  # a damaged zip may raise almost anything, and whatever it is, the files themselves are there
        return None


def _write(path: Path, dataset: Dataset) -> None:
    arrays = {**vars(dataset), "category_names": np.array(dataset.category_names, dtype=str)}
    if dataset.times is None:
        arrays["times"] = np.empty(0)  # not left out: a damaged name must not read as data without times
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, **arrays)
