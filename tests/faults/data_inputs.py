"""Valid data sets of every layout, random edits of them and of archives, and a slow plain reading."""

import csv
import io
import random
import re
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault import LostError
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sairlib.data.readers.categories import NONE
from sairlib.data.readers.grouplens import GroupLens

CONF = Path(__file__).resolve().parents[2] / "conf" / "dataset"
Content = dict[str, bytes]
GENRES = ("Action", "Children's", "Drama", "(no genres listed)", "Film-Noir")


@dataclass(frozen=True)
class DataSet:
    """A reader as conf/dataset has it, and the file of its actions."""

    reader: Any
    name: str


def _sets() -> list[DataSet]:
    found = []
    for path in sorted(CONF.glob("*.yaml")):
        reader = OmegaConf.load(path).get("reader", {})
        if reader.get("_target_", "").rpartition(".")[2] not in ("GroupLens", "UserItemText"):
            continue
        reader = instantiate(reader)
        names = ["ratings.csv", "ratings.dat", "u.data"] if isinstance(reader, GroupLens) else [reader.file]
        found += [DataSet(reader, name) for name in names]
    return list(dict.fromkeys(found))


SETS = _sets()


def valid(chosen: DataSet, rng: random.Random, rows: int = 30) -> Content:
    """Files that are right, those with the categories now and then missing."""
    times = rng.choice([range(900, 999), range(10**9, 10**9 + 5), range(-3, 3)])
    actions = [
        (rng.randrange(9), rng.choice([3, 40, rng.randrange(50), 2**62]), rng.choice([1, 2.5, 5]), rng.choice(times))
        for _ in range(rng.randint(1, rows))
    ]
    items = sorted({item for _, item, _, _ in actions})
    movies = [(item, rng.choice(["A (1995)", 'The "B"', "C, The", "Ü::"]), rng.sample(GENRES, 2)) for item in items]
    content = _files(chosen.name, actions, movies, more=rng.random() < 0.3)
    with_movies = rng.random() < 0.6
    return {name: text.encode() for name, text in content.items() if name == chosen.name or with_movies}


def _files(name: str, actions: list[Any], movies: list[Any], more: bool) -> dict[str, str]:
    if name == "ratings.csv":
        header = "userId,movieId,rating,timestamp" + (",note" if more else "")
        tail = ',"a, b"' if more else ""
        rows = [f"{user},{item},{rating},{time}{tail}" for user, item, rating, time in actions]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([("movieId", "title", "genres"), *((item, title, "|".join(of)) for item, title, of in movies)])
        return {name: _text([header, *rows]), "movies.csv": buffer.getvalue()}
    if name == "ratings.dat":
        rows = ["::".join(map(str, action)) for action in actions]
        return {name: _text(rows), "movies.dat": _text([f"{i}::{title}::{'|'.join(of)}" for i, title, of in movies])}
    if name == "u.data":
        flags = [[f"{item}|{title}|||", *("01"[genre in of] for genre in GENRES)] for item, title, of in movies]
        genres = _text([f"{genre}|{number}" for number, genre in enumerate(GENRES)])
        return {
            name: _text(["\t".join(map(str, a)) for a in actions]),
            "u.item": _text(map("|".join, flags)),
            "u.genre": genres,
        }
    table = _text(["sasrec_item_id,genres", *(f"{item},{'|'.join(of)}" for item, _, of in movies)])
    return {name: _text([f"{user} {item}" for user, item, _, _ in actions]), "item_map.csv": table}


def _text(lines: Any) -> str:
    return "".join(f"{line}\n" for line in lines)


def own_table(rng: random.Random) -> bytes:
    """A table of anybody's: ids of all kinds, times as numbers or dates, quotes here and there."""
    ids = rng.choice([["1", "20", "0"], ["007", "7", "x"], ['a "b"', "c,d", "é"], ["u_0000001", "u_0000002", ""]])
    times = rng.choice(
        [["881250949", "1"], ["2024-01-31", "2024-02-01"], ["2024-01-31T10:00:00Z", "1999-01-01"], ["1.5"]]
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n", quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer.writerow(["user", "item", "when", "note"])
    writer.writerows([rng.choice(ids), rng.choice(ids), rng.choice(times), "x"] for _ in range(rng.randint(1, 30)))
    return buffer.getvalue().encode()


def plain_rows(content: bytes) -> list[list[str]]:
    """The rows of a csv, blank lines aside, the header first; separated by what its first line has most of."""
    text = content.decode("utf-8-sig", "surrogateescape")  # a column that is not read may hold anything
    first = re.split("[\r\n]", text)[0]
    separator = max(",;|\t", key=first.count)
    lines = [line for line in re.split("\r\n|\r|\n", text) if line.strip()]
    if separator == "\t":
        return [line.split(separator) for line in lines]
    return [next(csv.reader([line], delimiter=separator)) for line in lines]


def plain_actions(name: str, content: bytes) -> list[tuple[Any, ...]]:
    """(user, item, rating, time) of every line that is not blank; (user, item) if the layout has no more.

    LostError if a line is not as the layout wants it: such a file should have been refused.
    """
    lines = _lines(content)
    wanted: list[Any] = [0, 1, 2, 3]
    if name == "ratings.csv":
        rows = [next(csv.reader([line])) for line in lines]
        header = [field.strip() for field in rows.pop(0)]
        wanted = [header.index(column) for column in ("userId", "movieId", "rating", "timestamp")]
        width = len(header)
    elif name.startswith(("ratings", "u.")):
        rows, width = [line.split("::" if name == "ratings.dat" else "\t") for line in lines], 4
    else:
        rows, width, wanted = [re.split("[ \t]+", line.strip(" \t")) for line in lines], 2, [0, 1]
    if any(len(row) != width for row in rows):
        raise LostError(f"a line with other than {width} fields was taken")
    return [tuple(_plain(row[at], is_rating=kind == 2) for kind, at in enumerate(wanted)) for row in rows]


def plain_categories(chosen: DataSet, content: Content) -> set[tuple[int, str]]:
    """(item, category) of every line of the file with the categories; nothing if there is none."""
    pairs: list[tuple[str, list[str]]] = []
    for name in ("movies.csv", getattr(chosen.reader, "item_map", None)):
        if name in content and (name == "item_map.csv" or chosen.name == "ratings.csv"):
            header, *rows = ([field.strip() for field in next(csv.reader([line]))] for line in _lines(content[name]))
            item = header.index("movieId" if name == "movies.csv" else "sasrec_item_id")
            pairs += [(row[item], row[header.index("genres")].split("|")) for row in rows]
    if "movies.dat" in content:
        rows = [line.split("::") for line in _lines(content["movies.dat"])]
        pairs += [(row[0], row[-1].split("|")) for row in rows]
    if "u.item" in content:
        genres = [line.split("|")[0] for line in _lines(content["u.genre"])]
        for row in (line.split("|") for line in _lines(content["u.item"])):
            flagged = zip(genres, row[5:], strict=True)
            pairs.append((row[0], [genre for genre, flag in flagged if flag.strip() == "1"]))
    return {
        (int(_plain(item, is_rating=False)), _readable(name).strip())
        for item, names in pairs
        for name in names
        if _readable(name).strip().lower() not in NONE
    }


def _readable(name: str) -> str:
    """Of bytes that are not UTF-8, Latin-1."""
    content = name.encode("utf-8", "surrogateescape")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _lines(content: bytes) -> list[str]:
    return [
        line
        for line in re.split("\r\n|\r|\n", content.decode("utf-8", "surrogateescape").lstrip("\ufeff"))
        if line.strip()
    ]


def _plain(value: str, is_rating: bool) -> int | float:
    if is_rating:
        return float(value)
    if not re.fullmatch(r"[+-]?[0-9]+(\.0*)?", value.strip()):
        raise LostError(f"{value[:40]!r} was taken as an integer")
    sign, digits = re.findall(r"([+-]?)0*([0-9]*)", value.strip())[0]
    return int(sign + (digits or "0"))


NASTY = [
    *(b"", b" ", b"-1", b"1E2", b"1e400", b"4.9999999999999999", b"5.0", b"5.", b"+7", b"007", b"nan", b"NaN", b"inf"),
    *(b"true", b"True", b"0x10", b"1_000", b"1,5", b"NULL", b"None", b"9007199254740993.0", b"9223372036854775807"),
    *(b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"1" * 400, b"1" * 4400, b"0" * 4400),
    *(b"1" * 140_000, b"\xd9\xa3", b"\xef\xbc\x95", b"5\xa0", b"1\x005", b'"1"', b'"1', b'1"', b'""', b"'1'", b"=1+1"),
    *(b"1\x0b", b"1\x1f", b"\x1b[2J", b"12:30", b"2009-01-01", b"1;2", b"1|2", b"1\r2", b"1 2", b"1::2", b"\xff\xfe"),
    *(b"1262304000000", b"<b>1</b>", b"-0", b"1-", b"1.5", b".0", b"1e-3", b"0.1e1"),
]
HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head>\n<body>1,2,3,4</body></html>\n"


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few bytes altered, lost or added, a stretch zeroed, or the end lost."""
    if not content:
        return b"?"
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(changed))
        how = rng.randrange(6)
        if how == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            changed[at] = rng.choice([0, 0xFF, 10, 13, 34, 44, rng.randrange(256)])
        elif how == 2:
            del changed[at : at + rng.choice([1, 1, 20])]
        elif how == 3:
            changed[at:at] = rng.randbytes(rng.choice([1, 4]))
        elif how == 4:
            changed[at : at + 8] = bytes(len(changed[at : at + 8]))
        else:
            del changed[at:]
        changed = changed or bytearray(b"?")
    return bytes(changed)


def _a_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True) or [b"\n"]
    at = rng.randrange(len(lines))
    other = rng.choice(lines)
    lines[at : at + 1] = rng.choice(
        [
            [],
            [lines[at]] * 2,
            [lines[at][: len(lines[at]) // 2]],
            [b"\n", lines[at]],
            [other, lines[at]],
            [HTML, lines[at]],
        ]
    )
    return b"".join(lines)


def _a_field(content: bytes, rng: random.Random) -> bytes:
    """Replace a field in one line or in all, or swap two, or add one, or drop one."""
    separator = next((one for one in (b"::", b"\t", b",", b"|") if one in content), b" ")
    lines = content.split(b"\n")
    chosen = range(len(lines)) if rng.random() < 0.3 else [rng.randrange(len(lines))]
    position, value, how = rng.randrange(4), rng.choice(NASTY), rng.randrange(6)
    for number in chosen:
        fields = lines[number].split(separator)
        at = min(position, len(fields) - 1)
        if how <= 2:
            fields[at] = value
        elif how == 3:
            fields.insert(rng.choice([at, len(fields)]), rng.choice([value, b""]))
        elif how == 4:
            fields[0], fields[at] = fields[at], fields[0]
        elif number or rng.random() < 0.5:
            del fields[at]
        lines[number] = separator.join(fields)
    return b"\n".join(lines)


def _all(content: bytes, rng: random.Random) -> bytes:
    """Something done to the whole file."""
    text = content.decode("utf-8", "replace")
    first, _, rest = content.partition(b"\n")
    return rng.choice(
        [
            lambda: b"\xef\xbb\xbf" + content,
            lambda: content.replace(b"\n", b"\r\n"),
            lambda: content.replace(b"\n", b"\r"),
            lambda: text.encode(rng.choice(["utf-16", "utf-16-be", "utf-32", "utf-7"])),
            lambda: text.encode("latin-1", "replace"),
            lambda: content.rstrip(b"\n"),
            lambda: content + rng.choice([b"\n\n", b" \n", b"\x1a", b"\0", b",,,\n", b'""\n', b'"']),
            lambda: HTML,
            lambda: b"",
            lambda: rest,
            lambda: first + b",extra\n" + rest,
            lambda: first + b"\n" + rest.replace(b"\n", rng.choice([b",\n", b",x\n", b"\t\n", b" \n"])),
            lambda: first + b"\n" + first + b"\n" + rest,
            lambda: content.replace(b",", b";").replace(b"::", b","),
            lambda: re.sub(rb"([0-9.]+)", rb'"\1"', content),
            lambda: content * rng.choice([2, 300]),
            lambda: b"\n" * rng.choice([1, 70_000]) + content,
            lambda: rng.randbytes(2000),
        ]
    )()


def edited(content: Content, rng: random.Random) -> Content:
    """One of the files edited once to three times."""
    content = dict(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        name = rng.choice([*content, next(iter(content))])
        content[name] = rng.choice([damaged, _a_line, _a_field, _a_field, _all])(content[name], rng)
    return content


def an_archive(path: Path, content: Content, rng: random.Random) -> None:
    method = rng.choice(
        [zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    )
    folder = rng.choice(["", "set/", "../../", "/etc/", "a\\b/", "ü/\n/", "C:/"])
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, written in content.items():
            archive.writestr(folder + name, written)


def damaged_archive(path: Path, content: Content, rng: random.Random) -> None:
    """An archive of the content with something wrong in it."""
    an_archive(path, content, rng)
    whole = path.read_bytes()
    name = next(iter(content))
    directory = whole.index(b"PK\1\2")
    tools: list[Callable[[], bytes]] = [
        lambda: damaged(whole, rng),
        lambda: whole[:directory] + damaged(whole[directory:], rng),
        lambda: whole[:directory] + damaged(whole[directory:], rng),
        lambda: damaged(whole[:60], rng) + whole[60:],
        lambda: whole[: rng.randrange(len(whole))],
        lambda: rng.choice([HTML, b"", b"PK", rng.randbytes(300), content[name]]),
        lambda: whole + rng.choice([HTML, bytes(70_000), whole]),
        lambda: HTML + whole,
        lambda: _with_number(whole, directory + rng.choice([8, 10, 20, 24, 42]), rng),
        lambda: _added(path, name, rng),
        lambda: _bomb(path, name, rng),
    ]
    path.write_bytes(rng.choice(tools)())


def _with_number(whole: bytes, at: int, rng: random.Random) -> bytes:
    """Flags, method, a size or the offset in the directory's first entry replaced."""
    number = rng.choice([0, 1, 8, 0x40, 99, 0xFFFF, 2**31, 2**32 - 1])
    width = 2 if number < 2**16 else 4
    return whole[:at] + struct.pack("<H" if width == 2 else "<I", number) + whole[at + width :]


def _added(path: Path, name: str, rng: random.Random) -> bytes:
    """A second file of the same name, a link, a folder of that name, or thousands of files."""
    how = rng.randrange(4)
    with zipfile.ZipFile(path, "a") as archive:
        if how == 0:
            archive.writestr(f"other/{name}", b"1,2,3,4\n")
        elif how == 1:
            link = zipfile.ZipInfo(f"link/{name}")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, b"/etc/passwd")
        elif how == 2:
            archive.writestr(f"{name}/", b"")
        else:
            for number in range(3000):
                archive.writestr(f"{number}.txt", b"")
    return path.read_bytes()


def _bomb(path: Path, name: str, rng: random.Random) -> bytes:
    """17 MB of one byte in the place of the actions, or a declared size of nearly 4 GB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(name, rng.choice([b"0", b"\n"]) * (17 << 20))
    whole = path.read_bytes()
    if rng.random() < 0.5:
        at = whole.index(b"PK\1\2") + rng.choice([20, 24])
        whole = whole[:at] + struct.pack("<I", rng.choice([2**31, 2**32 - 2])) + whole[at + 4 :]
    return whole
