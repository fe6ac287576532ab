"""MovieLens, in all layouts that GroupLens publishes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sairlib.data.interactions import ITEM, RATING, TIMESTAMP, USER, Interactions
from sairlib.data.readers.categories import Described, item_tables, read_items_csv
from sairlib.data.readers.table import Layout, open_text, read_id, read_table
from sairlib.data.source import Source
from sairlib.errors import UserError

_CSV = Layout(",", {"userId": USER, "movieId": ITEM, "rating": RATING, "timestamp": TIMESTAMP}, header=True)
_DAT = Layout("::", {"UserID": USER, "MovieID": ITEM, "Rating": RATING, "Timestamp": TIMESTAMP})
_TAB = Layout("\t", {"user id": USER, "item id": ITEM, "rating": RATING, "timestamp": TIMESTAMP})

_LAYOUTS = {"ratings.csv": _CSV, "ratings.dat": _DAT, "u.data": _TAB}
_MOVIES = {"ratings.csv": ["movies.csv"], "ratings.dat": ["movies.dat"], "u.data": ["u.item", "u.genre"]}


@dataclass(frozen=True)
class GroupLens:
    """Reads whichever of these layouts is present; the files with titles and genres may be missing.

    * ``ratings.csv``, ``movies.csv``: ml-latest-small, ml-latest, ml-20m, ml-25m, ml-32m
    * ``ratings.dat``, ``movies.dat``: ml-1m, ml-10m
    * ``u.data``, ``u.item``, ``u.genre``: ml-100k
    """

    def files(self, source: Source) -> list[str]:
        """The files that affect the result."""
        ratings = self._ratings(source)
        return [ratings, *(name for name in _MOVIES[ratings] if source.has(name))]

    def read(self, source: Source) -> Interactions:
        ratings, *movies = self.files(source)
        frame = read_table(source, ratings, _LAYOUTS[ratings])
        return Interactions(frame, source.where(ratings), *item_tables(self._movies(source, movies) if movies else ()))

    def _ratings(self, source: Source) -> str:
        present = [name for name in _LAYOUTS if source.has(name)]
        if len(present) != 1:
            problem = f"both {present[0]} and {present[1]}" if present else f"none of {', '.join(_LAYOUTS)}"
            raise UserError(f"{source.path}: {problem} in it; expected one MovieLens data set as published")
        return present[0]

    def _movies(self, source: Source, movies: list[str]) -> Iterable[Described]:
        if movies == ["movies.csv"]:
            return read_items_csv(source, "movies.csv", "movieId", "title", "genres")
        if movies == ["movies.dat"]:
            return _movies_dat(source)
        if movies == ["u.item", "u.genre"]:
            return _u_item(source, _u_genre(source))
        raise UserError(f"{source.path}: {movies[0]} alone; the genres need both u.item and u.genre")


def _movies_dat(source: Source) -> Iterator[Described]:
    """``MovieID::Title::Genre|Genre``."""
    where = source.where("movies.dat")
    with open_text(source, "movies.dat", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.strip().split("::")
            if fields == [""]:
                continue
            if len(fields) < 3:
                raise UserError(f"{where}, line {number}: {line.strip()[:40]!r} is not MovieID::Title::Genres")
            yield read_id(fields[0], "MovieID", where, number), "::".join(fields[1:-1]), fields[-1].split("|")


def _u_genre(source: Source) -> list[str]:
    """``name|number``, in the order of the flags in u.item."""
    with open_text(source, "u.genre", errors="surrogateescape") as lines:
        return [line.split("|")[0].strip() for line in lines if line.strip()]


def _u_item(source: Source, genres: list[str]) -> Iterator[Described]:
    """``id|title|date|video date|url|`` and one 0 or 1 for each genre."""
    where = source.where("u.item")
    with open_text(source, "u.item", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.strip().split("|")
            if fields == [""]:
                continue
            flags = fields[-len(genres) :] if genres else []
            if len(fields) != 5 + len(genres) or not set(flags) <= {"0", "1"}:
                raise UserError(f"{where}, line {number}: not 5 fields and {len(genres)} genre flags of 0 or 1")
            yield (
                read_id(fields[0], "movie id", where, number),
                fields[1],
                [name for name, flag in zip(genres, flags, strict=True) if flag == "1"],
            )
