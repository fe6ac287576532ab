"""One line a user: the user, then the items, oldest first. The attributes of items may lie beside it, in JSON."""

import json
from dataclasses import dataclass
from typing import Any

from sairlib.data.assembly import Assembly, Described, Rules
from sairlib.data.columns import Chunk
from sairlib.data.interactions import ITEM, USER, Interactions
from sairlib.data.readers.text_chunks import of_texts
from sairlib.data.source import ACTIONS, ITEMS, Source, one_line
from sairlib.errors import UserError

_SEPARATORS = {"blank": None, "comma": ",", "tab": "\t"}
LINES = 10_000
"""How many users are taken at once."""


@dataclass(frozen=True)
class Lines:
    """Reads the files that the source was given; where it is a folder or zip, ``file`` and ``attributes``.

    ``separator`` stands between the entries of a line: ``blank`` (one or more, or tabs), ``comma`` or ``tab``. The
    attributes, one JSON object from items to lists of names or numbers, are the categories.

    UserError for another separator.
    """

    file: str | None = None
    attributes: str | None = None
    separator: str = "blank"

    def __post_init__(self) -> None:
        if self.separator not in _SEPARATORS:
            raise UserError(f"separator={self.separator}: choose one of {', '.join(_SEPARATORS)}")

    def files(self, source: Source) -> list[str]:
        """The files that affect the result."""
        return [*self._actions(source), *self._items(source)]

    def read(self, source: Source) -> Interactions:
        names = self._actions(source)
        assembly = Assembly({USER: "user", ITEM: "item"}, Rules())
        described = [_attributes(source, name) for name in self._items(source)]
        for name in names:
            self._read_file(source, name, assembly)
        return assembly.finish(source.where(names[0]), described[0] if described else None)

    def _actions(self, source: Source) -> list[str]:
        return list(source.given.get(ACTIONS, ())) or [str(self.file)]

    def _items(self, source: Source) -> list[str]:
        given = list(source.given.get(ITEMS, ()))
        if given or self.attributes is None:
            return given
        return [self.attributes] if source.has(self.attributes) else []

    def _read_file(self, source: Source, name: str, assembly: Assembly) -> None:
        where, separator = source.where(name), _SEPARATORS[self.separator]
        users: list[str] = []
        items: list[str] = []
        numbers: list[int] = []

        def add() -> None:
            if items:
                at = list(numbers)
                chunk = Chunk({USER: of_texts(users), ITEM: of_texts(items)}, lambda row: f"{where}, line {at[row]}")
                assembly.add(chunk)
            for column in (users, items, numbers):
                column.clear()

        with source.open_unpacked(name) as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(f"{where}, line {number}: not UTF-8; save the file in UTF-8") from error
                fields = [field.strip() for field in text.split(separator)] if text.strip() else []
                if not fields:
                    continue
                if len(fields) < 2:
                    raise UserError(f"{where}, line {number}: {fields[0][:40]!r} alone; expected a user and items")
                users += [fields[0]] * (len(fields) - 1)
                items += fields[1:]
                numbers += [number] * (len(fields) - 1)
                if number % LINES == 0:
                    add()
        add()


def _attributes(source: Source, name: str) -> Described:
    where = source.where(name)
    with source.open_unpacked(name) as stream:
        try:
            content = json.loads(stream.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({one_line(error)[:120]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected one JSON object, from each item to a list of its attributes")
    items = [str(item) for item in content]
    return Described(where, items, [""] * len(items), [_names(value, item, where) for item, value in content.items()])


def _names(value: Any, item: str, where: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) for one in values):
        raise UserError(f"{where}: item {item[:40]!r} has no list of names or numbers: {str(value)[:40]!r}")
    return [name for name in (str(one).strip() for one in values) if name]
