"""From chunks of rows, wherever they come from, to Interactions: ids, times, what is missing, and what to say of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sairlib.data.columns import (
    ABSENT,
    Chunk,
    FinishedIds,
    Flags,
    IdColumn,
    NumberColumn,
    Place,
    TextColumn,
    Values,
    coded,
    kept,
    missing,
    size,
)
from sairlib.data.interactions import CATEGORY, ITEM, RATING, TIMESTAMP, TITLE, USER, Interactions
from sairlib.data.readers.categories import NONE, pair_table
from sairlib.data.times import UNITS, TimeColumn
from sairlib.errors import UserError


@dataclass(frozen=True)
class Rules:
    """How rows are taken. UserError for a value that is none of these.

    ``missing``: a row without a value in a chosen column (user, item, time or rating) is an ``error``, or is left out
    (``drop``). ``time_unit``: that of times which are numbers: ``auto`` (by their size), ``s``, ``ms``, ``us`` or
    ``ns``. ``unrated``: a rating that means "seen, not rated"; ``drop_unrated`` leaves such rows out.
    ``category_separator`` stands between the categories of an item; empty: there is one. ``shuffle_seed``: put the
    actions of each user in an order drawn with this seed; for data without times alone.
    """

    missing: str = "error"
    time_unit: str = "auto"
    unrated: float | None = None
    drop_unrated: bool = False
    category_separator: str = "|"
    shuffle_seed: int | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("missing", self.missing, ("error", "drop")),
            ("time_unit", self.time_unit, ("auto", *UNITS)),
        ):
            if value not in allowed:
                raise UserError(f"{name}={value}: choose one of {', '.join(allowed)}")
        if self.shuffle_seed is not None and not 0 <= self.shuffle_seed < 2**63:
            raise UserError(f"order_seed={self.shuffle_seed}: must be between 0 and 2^63 - 1")


@dataclass
class Described:
    """What a table of items, the file ``source``, says: each row's item, its title ("": none), its categories."""

    source: str
    items: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    categories: list[list[str]] = field(default_factory=list)


class Assembly:
    """Takes the rows of a table in chunks, in order; ``finish`` gives the table.

    ``names``: the columns to expect, from sairlib's names to those of the source, which messages use.
    """

    def __init__(self, names: Mapping[str, str], rules: Rules) -> None:
        if rules.shuffle_seed is not None and TIMESTAMP in names:
            raise UserError(f"order=shuffled, but '{names[TIMESTAMP]}' gives the times; choose one of them")
        self._names = names
        self._rules = rules
        self._users, self._items = IdColumn(), IdColumn()
        self._times = TimeColumn(names[TIMESTAMP], rules.time_unit) if TIMESTAMP in names else None
        self._ratings = NumberColumn(names[RATING]) if RATING in names else None
        self._texts = {name: TextColumn() for name in (CATEGORY, TITLE) if name in names}
        self._n_rows = self._n_unrated = self._n_dropped = 0
        self._lacking: dict[str, int] = {}

    def add(self, chunk: Chunk) -> None:
        """UserError, naming the row's place, for a missing value (unless these are dropped) or an unreadable one."""
        chunk = self._complete(chunk)
        columns = chunk.columns
        if self._times is not None:
            self._times.add(columns[TIMESTAMP], chunk.place)
        if self._ratings is not None:
            self._ratings.add(columns[RATING], chunk.place)
        self._users.add(columns[USER])
        self._items.add(columns[ITEM])
        for name, column in self._texts.items():
            column.add(columns[name])

    def _complete(self, chunk: Chunk) -> Chunk:
        """The rows that have a value in every column, and are rated or need not be."""
        columns = dict(chunk.columns)
        n = size(columns[USER])
        self._n_rows += n
        drop = np.zeros(n, bool)
        for name in (USER, ITEM, TIMESTAMP, RATING):
            flags = missing(columns[name], frozenset() if name in (USER, ITEM) else ABSENT) if name in columns else None
            if flags is None:
                continue
            if self._rules.missing == "error":
                row = int(flags.argmax())
                raise UserError(
                    f"{chunk.place(row)}: no {name} ('{self._names[name]}' is empty);"
                    " dataset.missing=drop (from Python: missing='drop') leaves such rows out"
                )
            self._lacking[name] = self._lacking.get(name, 0) + int((flags & ~drop).sum())
            drop |= flags
        place = chunk.place
        if drop.any():
            columns, place = _taken(columns, ~drop, place)
            self._n_dropped += int(drop.sum())
        if self._rules.unrated is not None and RATING in columns:
            ratings = NumberColumn(self._names[RATING])
            ratings.add(columns[RATING], place)
            rated = ratings.finish() != self._rules.unrated
            self._n_unrated += int((~rated).sum())
            if self._rules.drop_unrated:
                columns, place = _taken(columns, rated, place)
        return Chunk(columns, place)

    def finish(self, source: str, described: Described | None = None, notes: Sequence[str] = ()) -> Interactions:
        """The table; UserError if there is no row in it. ``source`` names it in messages; ``notes`` are kept."""
        notes = list(notes)
        if self._n_rows == self._n_dropped + (self._n_unrated if self._rules.drop_unrated else 0):
            left = f"; {'; '.join(self._dropped())}" if self._n_rows else ""
            raise UserError(f"{source}: no rows in it{left}")
        users, items = self._users.finish(), self._items.finish()
        frame: dict[str, NDArray[np.generic]] = {USER: users.values, ITEM: items.values}
        if self._times is not None:
            frame[TIMESTAMP], found = self._times.finish()
            notes += found
        else:
            notes.append(self._order_note())
        if self._n_unrated and not self._rules.drop_unrated:
            notes.append(f"{self._unrated_rows()} are kept; unrated=drop leaves them out")
        if self._ratings is not None:
            frame[RATING] = self._ratings.finish()
        for name, column, ids in ((USER, self._users, users), (ITEM, self._items, items)):
            if column.from_decimals and ids.ids is None:
                notes.append(f"the {name} ids are decimals, all of them whole: they are taken as integers")
            notes += [f"{count:,} rows have the {name} id {word!r}: kept as an id" for word, count in ids.odd().items()]
        pairs = {name: self._pairs(column, items) for name, column in self._texts.items()}
        separator = self._rules.category_separator
        categories = [(item, name) for item, text in pairs.get(CATEGORY, []) for name in split_names(text, separator)]
        titles = [(item, text.strip()) for item, text in pairs.get(TITLE, [])]
        if described is not None:
            numbers = items.numbers_of(described.items).tolist()
            categories += [
                pair
                for number, names in zip(numbers, described.categories, strict=True)
                for pair in _with(number, names)
            ]
            titles += [(number, title.strip()) for number, title in zip(numbers, described.titles, strict=True)]
            notes += _undescribed(items, numbers, described.source)
        table: pd.DataFrame = pd.DataFrame(frame, copy=False)
        if self._rules.shuffle_seed is not None:
            table = table.take(np.random.default_rng(self._rules.shuffle_seed).permutation(len(table)))
            table = table.reset_index(drop=True)
        return Interactions(
            table,
            source,
            pair_table([(item, name) for item, name in categories if item >= 0 and name.lower() not in NONE], CATEGORY),
            pair_table([(item, title) for item, title in titles if item >= 0 and title], TITLE),
            users.ids,
            items.ids,
            tuple(self._dropped()),
            tuple(notes),
        )

    def _order_note(self) -> str:
        if self._rules.shuffle_seed is not None:
            return f"there are no times: each user's actions are shuffled, with the seed {self._rules.shuffle_seed}"
        return "no times are read: a user's actions keep the order of the rows"

    def _unrated_rows(self) -> str:
        return f"{self._n_unrated:,} of {self._n_rows:,} rows, with the rating {self._rules.unrated:g} for not rated,"

    def _dropped(self) -> list[str]:
        lines = []
        if self._n_dropped:
            parts = ", ".join(f"{count:,} without {name}" for name, count in self._lacking.items() if count)
            lines.append(f"{self._n_dropped:,} of {self._n_rows:,} rows are left out: {parts}")
        if self._n_unrated and self._rules.drop_unrated:
            lines.append(f"{self._unrated_rows()} are left out")
        return lines

    @staticmethod
    def _pairs(column: TextColumn, items: FinishedIds) -> list[tuple[int, str]]:
        """Each pair of an item and a text once, in the order of the rows."""
        numbers_of_texts, texts = column.finish()
        codes, found = pd.factorize(items.values)
        keys = pd.unique(codes * len(texts) + numbers_of_texts)
        numbers = found.tolist()
        return [(numbers[key // len(texts)], texts[key % len(texts)]) for key in keys.tolist()]


def _taken(columns: Mapping[str, Values], keep: Flags, place: Place) -> tuple[dict[str, Values], Place]:
    """The rows that ``keep`` marks, and where each of these stands."""
    rows = np.flatnonzero(keep)
    return {name: kept(values, keep) for name, values in columns.items()}, lambda row: place(int(rows[row]))


def _with(number: int, names: list[str]) -> list[tuple[int, str]]:
    return [(number, name) for name in names]


def _undescribed(items: FinishedIds, numbers: list[int], source: str) -> list[str]:
    """A line that says how many items the table of items lacks, if it lacks any."""
    present = pd.unique(items.values)
    lacking = int((~np.isin(present, np.array(numbers, np.int64))).sum())
    return [f"{lacking:,} of {len(present):,} items are not in {source}"] if lacking else []


def split_names(text: str, separator: str) -> list[str]:
    """The names in a text, without blanks around them; none of an empty text."""
    names = (name.strip() for name in (text.split(separator) if separator else [text]))
    return [name for name in names if name]


def describe(chunks: Iterable[Chunk], source: str, separator: str) -> Described:
    """What a table of items says, from its columns item, title and category.

    UserError, naming the place, for a row without an item.
    """
    found = Described(source)
    for chunk in chunks:
        flags = missing(chunk.columns[ITEM])
        if flags is not None:
            raise UserError(f"{chunk.place(int(flags.argmax()))}: no item")
        columns = {name: coded(values) for name, values in chunk.columns.items()}
        rows = {name: [column.texts[code] for code in column.codes.tolist()] for name, column in columns.items()}
        found.items += rows[ITEM]
        found.titles += rows.get(TITLE, [""] * len(rows[ITEM]))
        texts = rows.get(CATEGORY, [""] * len(rows[ITEM]))
        found.categories += [split_names(text, separator) for text in texts]
    return found
