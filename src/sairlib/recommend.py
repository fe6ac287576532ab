"""What a trained run recommends: to people in its data, or to others by what they did.

    python -m sairlib.recommend DIR user=42 [SETTING=VALUE ...]      (or: sairlib-recommend)

Examples:
    python -m sairlib.recommend DIR 'user=[1,2,3]' k=5 filter=category:Comedy
    python -m sairlib.recommend DIR users=all out=top.parquet
    echo 296 318 2571 | python -m sairlib.recommend DIR history=-
    python -m sairlib.recommend DIR history=people.csv format=jsonl exclude_seen=false candidates=new.txt

Settings: user (an id, or a list of them), users=all, history (a file; -: standard input), history_format (items, lines,
csv, jsonl; auto tells them apart), k, exclude_seen, candidates (a file of ids, one a line), filter=category:NAME,
explain (which interests spoke: auto, true, false), out (a file that ends in .csv, .jsonl or .parquet), format (of out,
or of what is printed: csv, jsonl, table), batch_size, device, data.root, data.cache, trust. The result goes to standard
output, or to ``out``; what else there is to say, to standard error.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sairlib.commands import whole_start
from sairlib.configured import run_configured
from sairlib.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from sairlib.run.finished import Run
    from sairlib.run.histories import Histories

CATEGORY = "category:"
MOST_TABLES = 1000
"""People who get a table each; of more, a program reads the result."""


@dataclass(frozen=True)
class RecommendSettings:
    """The settings at the top level of ``recommend.yaml``. UserError for those that do not go together."""

    run: str
    user: Any
    users: str | None
    history: str | None
    history_format: str
    k: int
    exclude_seen: bool
    candidates: str | None
    filter: str | None
    explain: str
    out: str | None
    format: str
    batch_size: int | None
    device: str
    trust: tuple[str, ...]

    def __post_init__(self) -> None:
        given = [name for name in ("user", "users", "history") if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"{' and '.join(given)} do not go together; " if given else ""
            raise UserError(f"{said}recommend to whom? Give one of user=ID, users=all, history=FILE")
        if self.users not in (None, "all"):
            raise UserError(f"users={self.users}: only users=all; give ids by user=ID or user=[ID,ID]")
        if self.k < 1:
            raise UserError(f"k={self.k}: must be 1 or more")
        if self.explain.lower() not in ("auto", "true", "false"):
            raise UserError(f"explain={self.explain}: choose one of auto, true, false")
        if self.filter is not None and not self.filter.startswith(CATEGORY):
            raise UserError(f"filter={self.filter}: give filter=category:NAME")
        if self.history == "-" == self.candidates:
            raise UserError("history=- and candidates=- do not go together: there is one standard input")
        if self.format not in ("auto", "table", "csv", "jsonl", "parquet"):
            raise UserError(f"format={self.format}: choose one of csv, jsonl, parquet, table")
        if self.out is not None and self.format == "table":
            raise UserError("format=table is for standard output; leave out=... away, or choose csv, jsonl or parquet")
        if self.out is None and self.format == "parquet":
            raise UserError("format=parquet needs a file: out=FILE.parquet")
        if self.out is None and self.users == "all" and self.format in ("auto", "table"):
            raise UserError("users=all: give out=FILE (.csv, .jsonl or .parquet), or format=csv to print the lists")


def recommend(config: "DictConfig") -> None:
    """Write the recommendations that ``config`` asks for. UserError as in ``load_run`` and ``Run.stream``."""
    if not config.run:
        raise UserError("which run? Give its directory: python -m sairlib.recommend DIR user=ID [k=10 ...]")
    with whole_start():  # here, not above: --help must not wait for torch
        from sairlib import build, make
        from sairlib.run import histories as people_of
        from sairlib.run import history_files, list_files

    settings = make.settings(make.only(config, RecommendSettings.__dataclass_fields__), "", RecommendSettings)
    users = people_of.given_ids(settings.user) if settings.user is not None else None
    format = settings.format
    if settings.out is not None:  # before minutes of work
        format = list_files.format_of(Path(settings.out)) if format == "auto" else format
        list_files.check_format(format)
    candidates = None if settings.candidates is None else history_files.read_ids(settings.candidates, "candidates")
    histories = None
    if settings.history is not None:
        histories = history_files.read_histories(settings.history, settings.history_format)
    run = build.load_unranked(Path(settings.run), config, settings.device, settings.trust, settings.batch_size)

    people = run.people(histories, users)
    as_tables = settings.out is None and format in ("auto", "table")
    if as_tables and len(people) > MOST_TABLES:
        raise UserError(f"{len(people):,} people are too many for tables: give out=FILE, or format=csv")
    wanted = settings.explain.lower()
    category = None if settings.filter is None else settings.filter.removeprefix(CATEGORY)
    frames = run.stream(
        people,
        settings.k,
        exclude_seen=settings.exclude_seen,
        candidates=candidates,
        category=category,
        interests=wanted == "true" or (wanted == "auto" and as_tables and run.has_interests()),
    )
    _say_unknown(run, people, candidates)
    counted = _Counted(frames, len(people), settings.k)
    if as_tables:
        _print_tables(run, people, counted)
    elif settings.out is None:
        list_files.write(sys.stdout.buffer, counted, format)
    else:
        list_files.write_file(Path(settings.out), counted, format)
    counted.say_short()


class _Counted:
    """Frames as they come, with a progress bar if standard error is a terminal, and who got less than was asked for."""

    def __init__(self, frames: "Iterable[pd.DataFrame]", n_people: int, k: int) -> None:
        self.frames = frames
        self.n_people = n_people
        self.k = k
        self.n_full = 0
        """How many people got ``k`` items."""

    def __iter__(self) -> "Iterator[pd.DataFrame]":
        from tqdm import tqdm

        with tqdm(total=self.n_people, unit=" people", disable=None, leave=False) as bar:
            for frame in self.frames:
                self.n_full += int((frame["rank"] == self.k).sum())
                yield frame
                bar.update(int((frame["rank"] == 1).sum()))

    def say_short(self) -> None:
        short = self.n_people - self.n_full
        if short:
            _say(f"{_people(short)} got fewer than {self.k} items: no more are left for them to be recommended")


def _print_tables(run: "Run", people: "Histories", frames: "Iterable[pd.DataFrame]") -> None:
    import pandas as pd

    from sairlib.run.list_files import favours, shown, table

    frame = pd.concat(list(frames), ignore_index=True)
    lists = dict(iter(frame.groupby("user", sort=False)))
    leanings = dict(iter(run.leanings(people).groupby("user", sort=False))) if "interests" in frame else {}
    for row, person in enumerate(people.ids):
        n = int(people.lengths[row])
        by = f"after {n:,} action{'s' * (n != 1)}" if n else "the most popular items"
        print(f"{'' if row == 0 else chr(10)}user {shown(person)}, {by}:")
        print(table(lists[person]) if person in lists else "no item is left")
        if person in leanings and person in lists and n:
            print(favours(leanings[person]))


def _say_unknown(run: "Run", people: "Histories", candidates: list[str] | None) -> None:
    """What was left out of the histories and of the candidates, and who gets what is popular."""
    n_left_out, n_all = int(people.n_unknown.sum()), int(people.n_unknown.sum() + people.lengths.sum())
    if n_left_out:
        of_people = int((people.n_unknown > 0).sum())
        _say(f"the model does not know {n_left_out:,} of {n_all:,} actions' items, of {_people(of_people)}: left out")
    n_nothing = int((people.lengths == 0).sum())
    if n_nothing:
        _say(f"{_people(n_nothing)} did nothing that the model knows: they get the most popular items")
    if candidates is not None:
        unknown = int((run.split.dataset.item_numbers(candidates) == 0).sum())
        if unknown:
            _say(f"the model does not know {unknown:,} of {len(candidates):,} candidates: left out")


def _people(n: int) -> str:
    return "1 person" if n == 1 else f"{n:,} people"


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def main() -> None:
    """The console script ``sairlib-recommend``."""
    run_configured(recommend, "recommend", lambda: str(__doc__))


if __name__ == "__main__":
    main()
