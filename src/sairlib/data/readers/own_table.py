"""Tables of anybody: text or parquet, with ids, times and columns of any kind."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sairlib.data.assembly import Assembly, Described, Rules, describe
from sairlib.data.columns import Chunk
from sairlib.data.interactions import CATEGORY, ITEM, RATING, TIMESTAMP, TITLE, USER, Interactions
from sairlib.data.readers.arrow import parquet_chunks
from sairlib.data.readers.text_chunks import TextFormat, column_names, text_chunks
from sairlib.data.source import ACTIONS, ITEMS, Source
from sairlib.errors import UserError


@dataclass(frozen=True)
class Table:
    """Reads tables of actions, one after the other, and perhaps a table of items.

    ``user``, ``item``, ``time``, ``rating``, ``category`` and ``title`` are names of columns of the actions;
    ``items_item``, ``items_title`` and ``items_category`` of the items. The files are those that the source was given;
    where it is a folder or zip, ``file`` and ``items_file`` (which may be missing there). ``separator``, ``header``
    and ``typed`` are those of ``TextFormat``; ``missing``, ``time_unit``, ``category_separator`` and ``unrated`` those
    of ``Rules``. ``keep_unrated``: ``keep`` or ``drop``. ``order``: ``file``, or ``shuffled`` with ``order_seed``.

    UserError for a setting that is none of these.
    """

    user: str | int
    item: str | int
    time: str | int | None = None
    rating: str | int | None = None
    category: str | int | None = None
    title: str | int | None = None
    file: str | None = None
    items_file: str | None = None
    items_item: str | int | None = None
    items_title: str | int | None = None
    items_category: str | int | None = None
    separator: str = "auto"
    header: bool = True
    typed: bool = False
    missing: str = "error"
    time_unit: str = "auto"
    category_separator: str = "|"
    unrated: float | None = None
    keep_unrated: str = "keep"
    order: str = "file"
    order_seed: int = 1

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("order", self.order, ("file", "shuffled")),
            ("unrated", self.keep_unrated, ("keep", "drop")),
        ):
            if value not in allowed:
                raise UserError(f"{name}={value}: choose one of {', '.join(allowed)}")
        if self.user == self.item:
            raise UserError(f"columns.user={self.user}: the items are in the same column; choose another")
        self._text()
        self._rules()

    def files(self, source: Source) -> list[str]:
        """The files that affect the result."""
        return [*self._actions(source), *self._items(source)]

    def read(self, source: Source) -> Interactions:
        wanted = _chosen(
            {
                USER: self.user,
                ITEM: self.item,
                TIMESTAMP: self.time,
                RATING: self.rating,
                CATEGORY: self.category,
                TITLE: self.title,
            }
        )
        names = self._actions(source)
        assembly = Assembly(wanted, self._rules())
        described = self._described(source)
        for name in names:
            for chunk in self._chunks(source, name, wanted):
                assembly.add(chunk)
        where = source.where(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        return assembly.finish(where, described, self._unused_items(source))

    def _actions(self, source: Source) -> list[str]:
        return list(source.given.get(ACTIONS, ())) or [str(self.file)]

    def _items(self, source: Source) -> list[str]:
        """The file of the items, if there is one and something in it is wanted."""
        if not _chosen({TITLE: self.items_title, CATEGORY: self.items_category}):
            return []
        given = list(source.given.get(ITEMS, ()))
        if given or self.items_file is None:
            return given
        return [self.items_file] if source.has(self.items_file) else []

    def _described(self, source: Source) -> Described | None:
        names = self._items(source)
        if not names:
            return None
        wanted = _chosen({ITEM: self.items_item, TITLE: self.items_title, CATEGORY: self.items_category})
        chunks = self._chunks(source, names[0], wanted)
        return describe(chunks, source.where(names[0]), self.category_separator)

    def _unused_items(self, source: Source) -> list[str]:
        """A line about a table of items that is there, but of which no column is chosen."""
        name = next(iter(source.given.get(ITEMS, ())), None)
        if name is None or self._items(source):
            return []
        with source.open_unpacked(name) as stream:
            names = ", ".join(column_names(stream, source.where(name), self._text()))[:200]
        return [
            f"{source.where(name)} describes the items ({names}), but none of its columns is chosen:"
            " dataset.items.columns.title=..., dataset.items.columns.category=..."
        ]

    def _chunks(self, source: Source, name: str, wanted: Mapping[str, str]) -> Iterator[Chunk]:
        where = source.where(name)
        with source.open(name) as stream:
            is_parquet = stream.peek(4)[:4] == b"PAR1"
        if is_parquet:
            yield from parquet_chunks(source.on_disk(name), where, wanted)
            return
        with source.open_unpacked(name) as stream:
            yield from text_chunks(stream, where, wanted, self._text())

    def _text(self) -> TextFormat:
        return TextFormat(self.separator, self.header, self.typed)

    def _rules(self) -> Rules:
        return Rules(
            self.missing,
            self.time_unit,
            self.unrated,
            self.keep_unrated == "drop",
            self.category_separator,
            self.order_seed if self.order == "shuffled" else None,
        )


def _chosen(columns: Mapping[str, str | int | None]) -> dict[str, str]:
    return {ours: str(theirs) for ours, theirs in columns.items() if theirs is not None}
