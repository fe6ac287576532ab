"""Damaged, hostile and odd data: files, archives, caches, and processes that prepare or download at the same time.

Each try gives a valid result, compared with a slow plain reading of the same bytes, or one UserError of one line.
"""

import contextlib
import gzip
import os
import random
import signal
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

from data_inputs import (
    SETS,
    Content,
    DataSet,
    an_archive,
    damaged,
    damaged_archive,
    edited,
    own_table,
    plain_actions,
    plain_categories,
    plain_rows,
    valid,
)
from fault import LostError, fault

from sairlib.data.dataset import Dataset, index
from sairlib.data.download import locate
from sairlib.data.filters import Filters
from sairlib.data.given import locate_files
from sairlib.data.interactions import CATEGORY, ITEM, RATING, TIMESTAMP, USER, Interactions
from sairlib.data.prepare import prepare
from sairlib.data.readers.own_table import Table
from sairlib.data.source import Source
from sairlib.errors import UserError

SECONDS = 10
"""A try that takes longer counts as one that hangs."""


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Raise LostError if the block hangs; an alarm of pytest-timeout goes on afterwards."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # an Exception might be caught and taken for damage

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except KeyboardInterrupt as error:
        raise LostError(f"hung for {time.monotonic() - started:.0f} s") from error
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, left - (time.monotonic() - started)) if left else 0)


def one_line_or(action: Callable[[], Dataset]) -> Dataset | None:
    """The result of ``action``, or None after a UserError of one line. Anything else is raised."""
    try:
        with no_hang(), warnings.catch_warnings():
            warnings.simplefilter("error")
            return action()
    except UserError as error:
        message = str(error)
        if not message.isprintable() or not 10 < len(message) < 1500:
            raise LostError(f"not one clear line: {message!r}") from error
        return None


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise LostError(what)


def demand_all_rows(table: Interactions, chosen: DataSet, content: Content) -> None:
    """LostError unless the table holds exactly what a plain reading of the file finds, and repetitions are noted."""
    expected = plain_actions(chosen.name, content[chosen.name])
    names = [name for name in (USER, ITEM, RATING, TIMESTAMP) if name in table.frame]
    found = list(zip(*(table.frame[name].tolist() for name in names), strict=True))
    demand(len(found) == len(expected), f"{len(found)} actions of {len(expected)}")
    for row, (one, other) in enumerate(zip(found, expected, strict=True)):
        close = all(abs(mine - plain) <= 1e-9 * abs(plain) for mine, plain in zip(one, other, strict=True))
        demand(close and one[:2] == other[:2], f"row {row}: {one} is not {other}")
    repeated = len(expected) - len({row[:2] + row[3:] for row in expected})
    notes = [note for note in index(table).notes if "repeat" in note]
    demand(bool(notes) == bool(repeated), f"{repeated} repeated rows, noted: {notes}")
    demand(
        not notes or notes[0].startswith(f"{repeated:,} of {len(expected):,} "), f"{repeated} repeated rows: {notes}"
    )
    pairs = {(int(item), name) for item, name in zip(table.categories[ITEM], table.categories[CATEGORY], strict=True)}
    expected_pairs = plain_categories(chosen, content)
    demand(pairs == expected_pairs, f"categories {sorted(pairs ^ expected_pairs)[:3]}")


@fault("a data file is edited at random", tries=2000, few=12)
def edit_a_file(home: Path, rng: random.Random) -> None:
    chosen = rng.choice(SETS)
    content = edited(valid(chosen, rng), rng)
    place = home / "set"
    place.mkdir()
    for name, written in content.items():
        (place / name).write_bytes(written)
    if rng.random() < 0.3:
        place = home / "set.zip"
        an_archive(place, content, rng)
    read: list[Interactions] = []

    def action() -> Dataset:
        read.append(chosen.reader.read(Source(place)))
        return index(read[0])

    if one_line_or(action) is not None:
        demand_all_rows(read[0], chosen, content)


@fault("a table of one's own is edited at random", tries=2000, few=12)
def edit_an_own_table(home: Path, rng: random.Random) -> None:
    content = edited({"my.csv": own_table(rng)}, rng)["my.csv"]
    path = home / rng.choice(["my.csv", "my.csv.gz"])
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    reader = Table("user", "item", time="when", missing=rng.choice(["error", "drop"]))
    read: list[Interactions] = []

    def action() -> Dataset:
        read.append(reader.read(locate_files([str(path)], None, None, home)))
        return index(read[0])

    if one_line_or(action) is None:
        return
    table, (header, *rows) = read[0], plain_rows(content)
    demand(all(len(row) == len(header) for row in rows), "a line with another number of fields was taken")
    names = [name.strip() for name in header]
    pairs = [(row[names.index("user")], row[names.index("item")], row[names.index("when")]) for row in rows]
    kept = [pair for pair in pairs if reader.missing != "drop" or all(is_there(*pair))]
    ids = ((table.frame[USER], table.user_ids), (table.frame[ITEM], table.item_ids))
    found = [[str(value) for value in (values if known is None else known[values.to_numpy()])] for values, known in ids]
    demand(list(zip(*found, strict=True)) == [pair[:2] for pair in kept], "the ids are other ones")
    demand(bool(table.dropped) == (len(kept) < len(pairs)), f"{len(pairs) - len(kept)} rows dropped: {table.dropped}")


def is_there(user: str, item: str, when: str) -> tuple[bool, bool, bool]:
    return bool(user.strip(" \t\r\n\x0b\x0c")), bool(item.strip(" \t\r\n\x0b\x0c")), bool(_filled(when))


def _filled(text: str) -> bool:
    return text.strip().lower() not in ("", "nan", "null", "none", "n/a", "\\n")


@fault("an archive is damaged or hostile", tries=1000, few=8)
def damage_an_archive(home: Path, rng: random.Random) -> None:
    chosen = rng.choice(SETS)
    content = valid(chosen, rng)
    inside = home / "inside"
    inside.mkdir()
    damaged_archive(inside / "set.zip", content, rng)
    read: list[Interactions] = []

    def action() -> Dataset:
        read.append(chosen.reader.read(Source(inside / "set.zip")))
        return index(read[0])

    if one_line_or(action) is not None:
        demand_all_rows(read[0], chosen, content)
    demand([path.name for path in home.rglob("*")] == ["inside", "set.zip"], "a file was written")


@fault("a cache file is damaged or another's", tries=500, few=5)
def damage_a_cache(home: Path, rng: random.Random) -> None:
    cache, sources = home / "cache", []
    chosen = rng.choice(SETS)
    for name in ("set", "other"):
        (home / name).mkdir()
        for file, content in valid(chosen, rng).items():
            (home / name / file).write_bytes(content)
        sources.append(Source(home / name))
    first = prepare(sources[0], chosen.reader, Filters(), cache)
    (file_,) = cache.iterdir()
    if rng.random() < 0.1:
        prepare(sources[1], chosen.reader, Filters(), home / "others")
        next((home / "others").iterdir()).replace(file_)
    else:
        file_.write_bytes(damaged(file_.read_bytes(), rng))
    again = one_line_or(lambda: prepare(sources[0], chosen.reader, Filters(), cache))
    demand(again is not None and same(first, again), "the cache was believed, or not rebuilt")


def same(first: Dataset, second: Dataset) -> bool:
    texts = [(data.sha256(), data.category_names, data.notes) for data in (first, second)]
    times = [None if data.times is None else data.times.tolist() for data in (first, second)]
    return texts[0] == texts[1] and times[0] == times[1]


@fault("a pipe, device, folder or dead link in the place of a file", tries=60, few=6)
def put_no_file(home: Path, rng: random.Random) -> None:
    chosen = rng.choice(SETS)
    content = valid(chosen, rng)
    (home / "set").mkdir()
    for file, written in content.items():
        (home / "set" / file).write_bytes(written)
    first = prepare(Source(home / "set"), chosen.reader, Filters(), home / "cache")
    (cached,) = (home / "cache").iterdir()
    place = rng.choice(["file", "zip", "cache"])
    files = chosen.reader.files(Source(home / "set"))
    path = {"file": home / "set" / rng.choice(files), "zip": home / "set.zip", "cache": cached}[place]
    path.unlink(missing_ok=True)
    kind = rng.choice(["pipe", "/dev/zero", "/dev/null", "nowhere", path.name, "folder"])
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)  # to its own name: a loop
    found = home / ("set.zip" if place == "zip" else "set")
    data = one_line_or(lambda: prepare(Source(found), chosen.reader, Filters(), home / "cache"))
    demand(place != "cache" or (data is not None and same(first, data)), "a cache that is no file stopped the work")
    demand(place == "cache" or data is None or kind == "folder", "data from nowhere")


def children(tasks: list[Callable[[], object]], rng: random.Random, victims: int, seconds: float) -> None:
    """Run the tasks in processes of their own, kill so many of them within the time; LostError if another fails."""
    pids = []
    for task in tasks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python 3.12: there are other threads
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                task()
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    killed = rng.sample(pids, victims)
    time.sleep(rng.random() * seconds)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    with no_hang():
        codes = {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}
    demand(all(code == 0 for pid, code in codes.items() if pid not in killed), f"exit codes {list(codes.values())}")


@fault("four processes prepare the same data, one is killed", tries=60, few=2)
def prepare_at_once(home: Path, rng: random.Random) -> None:
    chosen = rng.choice(SETS)
    (home / "set").mkdir()
    for file, content in valid(chosen, rng, rows=3000).items():
        (home / "set" / file).write_bytes(content)
    plain = prepare(Source(home / "set"), chosen.reader, Filters(), None)

    def task() -> None:
        assert same(plain, prepare(Source(home / "set"), chosen.reader, Filters(), home / "cache"))

    children([task] * 4, rng, victims=1, seconds=0.05)
    task()
    demand(len([*(home / "cache").glob("*.npz")]) == 1, "no cache")


class Handler(BaseHTTPRequestHandler):
    """Sends ``body`` in small pieces, slowly."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the one who asked was killed
            for at in range(0, len(self.body), 1000):
                self.wfile.write(self.body[at : at + 1000])
                time.sleep(0.002)

    def log_message(self, format: str, *args: object) -> None:
        pass


@fault("four processes download the same data, one is killed", tries=40, few=1)
def download_at_once(home: Path, rng: random.Random) -> None:
    chosen = SETS[0]
    content = valid(chosen, rng)
    an_archive(home / "published.zip", content | {"README": rng.randbytes(20_000)}, random.Random(0))
    Handler.body = (home / "published.zip").read_bytes()
    os.environ["no_proxy"] = "127.0.0.1"
    root = home / "data"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{http.server_port}/set.zip"

            def task() -> None:
                source = locate(name="set", root=root, archive="set.zip", url=url)
                assert len(chosen.reader.read(source)) == len(plain_actions(chosen.name, content[chosen.name]))

            children([task] * 4, rng, victims=1, seconds=0.1)
        finally:
            http.shutdown()
            thread.join()
    demand(zipfile.is_zipfile(root / "set.zip"), "no archive")
    demand({path.name for path in root.iterdir()} <= {"set.zip", ".set.zip.lock"}, f"left over: {[*root.iterdir()]}")
