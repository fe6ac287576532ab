"""From a data set's files to a Dataset, with a cache keyed by everything that affects the result."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sairlib.batch import PAD
from sairlib.data.dataset import Dataset, index
from sairlib.data.filters import Filters
from sairlib.data.hashes import remembered
from sairlib.data.ids import Ids, pack, unpack
from sairlib.data.interactions import Interactions
from sairlib.data.source import Source
from sairlib.files import whole_file

VERSION = 4
"""Increase it whenever the same files and settings would give another Dataset, or the cache another content."""

_ARRAYS = ("items", "offsets", "item_categories")
_TEXTS = ("category_names", "notes", "titles_M")
_IDS = ("user_ids", "item_ids")


@runtime_checkable
class Reader(Protocol):
    """A file format: ``files`` names the files that affect the result, ``read`` gives the table."""

    def files(self, source: Source) -> list[str]: ...

    def read(self, source: Source) -> Interactions: ...


def prepare(source: Source, reader: Reader, filters: Filters, cache: Path | None) -> Dataset:
    """Read, filter and index the data, or load the result of an earlier call with the same files and settings.

    The cache key covers the content of the files, the reader with its settings, the filters and VERSION. A cache that
    is damaged, belongs to other data or cannot be written is no error: the data is prepared again. Processes that do
    so at the same time do not disturb one another. ``cache=None`` uses none.
    UserError if the files cannot be read or nothing passes the filters.
    """
    if cache is None:
        return index(filters.apply(reader.read(source)))
    cache = cache.expanduser()
    ingredients = [VERSION, remembered(source, reader.files(source), cache), repr(reader), asdict(filters)]
    key = hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()[:32]
    path = cache / f"{key}.npz"
    stored = _read(path, key)
    if stored is not None:
        return stored
    dataset = index(filters.apply(reader.read(source)))
    _write(path, key, dataset)
    return dataset


def _read(path: Path, key: str) -> Dataset | None:
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        # Zip members have checksums, so damage is noticed. np.load alone would leave a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            dataset = Dataset(
                **{name: arrays[name] for name in _ARRAYS},
                user_ids=_ids(arrays, "user_ids"),
                item_ids=_ids(arrays, "item_ids"),
                times=arrays["times"] if len(arrays["times"]) else None,
                category_names=tuple(_texts(arrays, "category_names")),
                notes=tuple(_texts(arrays, "notes")),
                titles_M=titles if len(titles := _texts(arrays, "titles_M")) else None,
            )
        return dataset if _is_whole(dataset) else None
    except Exception:  # a damaged zip may raise almost anything; the data can be prepared from its files
        return None


def _ids(arrays: Mapping[str, Any], name: str) -> Ids:
    return arrays[name] if name in arrays else _texts(arrays, name)


def _texts(arrays: Mapping[str, Any], name: str) -> NDArray[np.object_]:
    return unpack(arrays[f"{name}_utf8"], arrays[f"{name}_ends"])


def _is_whole(data: Dataset) -> bool:
    """Whether the arrays belong together: indexing by them can then not fail."""
    arrays = [getattr(data, name) for name in _ARRAYS]
    return (
        all(array.dtype == np.int64 for array in arrays)
        and [array.ndim for array in arrays] == [1, 1, 2]
        and all(ids.dtype in (np.int64, object) and ids.ndim == 1 for ids in (data.user_ids, data.item_ids))
        and len(data.offsets) == data.n_users + 1
        and (data.offsets[0], data.offsets[-1]) == (0, len(data.items))
        and bool((np.diff(data.offsets) > 0).all())
        and 1 <= data.items.min() <= data.items.max() <= data.n_items
        and len(data.item_categories) == data.n_items + 1
        and bool(((data.item_categories >= PAD) & (data.item_categories <= data.n_categories)).all())
        and (data.times is None or (data.times.shape == data.items.shape and data.times.dtype.kind in "if"))
        and (data.titles_M is None or len(data.titles_M) == data.n_items + 1)
    )


def _write(path: Path, key: str, dataset: Dataset) -> None:
    arrays = {name: getattr(dataset, name) for name in _ARRAYS}
    for name in (*_TEXTS, *_IDS):
        value = getattr(dataset, name)
        if name in _IDS and value.dtype == np.int64:
            arrays[name] = value
        else:
            arrays[f"{name}_utf8"], arrays[f"{name}_ends"] = pack(() if value is None else value)
    # Always stored: a damaged member name must not look like data without times.
    arrays["times"] = np.empty(0) if dataset.times is None else dataset.times
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, key=np.array(key), **arrays)
