"""MovieLens in all its layouts, and one clear line for each way a file can be wrong."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sairlib.data.interactions import CATEGORY, ITEM, RATING, TIMESTAMP, USER, Interactions
from sairlib.data.readers.grouplens import GroupLens
from sairlib.data.source import Source
from sairlib.errors import UserError

HEADER = b"userId,movieId,rating,timestamp\n"
CSV = {
    "ratings.csv": HEADER + b"7,30,4.5,900\n2,10,3.0,800\n7,10,0.5,700\n",
    "movies.csv": b'movieId,title,genres\n10,"Big, The ""1""",Action|Drama\n20,x,(no genres listed)\n30,y,Drama\n',
}
DAT = {
    "ratings.dat": b"7::30::4.5::900\n2::10::3::800\n7::10::0.5::700\n",
    "movies.dat": b"10::Big: Caf\xe9 (1995)::Action|Drama\n20::x::(no genres listed)\n30::y::Drama\n",
}
TAB = {
    "u.data": b"7\t30\t4.5\t900\n2\t10\t3\t800\n7\t10\t0.5\t700\n",
    "u.item": b"10|Caf\xe9 (1995)|01-Jan-1995||http://x|0|1|1\n20|x||||1|0|0\n30|y||||0|0|1\n",
    "u.genre": b"unknown|0\nAction|1\nDrama|2\n\n",
}
LAYOUTS = [CSV, DAT, TAB]


def read(folder: Path, members: dict[str, bytes]) -> Interactions:
    for name, content in members.items():
        (folder / name).write_bytes(content)
    return GroupLens().read(Source(folder))


@pytest.mark.parametrize("members", LAYOUTS, ids=["csv", "dat", "tab"])
@pytest.mark.parametrize("dress", ["plain", "crlf", "bom", "no last newline", "blank lines"])
def test_every_layout_gives_the_same_table_in_file_order(tmp_path: Path, members: dict[str, bytes], dress: str) -> None:
    dresses: dict[str, Callable[[bytes], bytes]] = {
        "plain": lambda content: content,
        "crlf": lambda content: content.replace(b"\n", b"\r\n"),
        "bom": lambda content: b"\xef\xbb\xbf" + content,
        "no last newline": lambda content: content.rstrip(b"\n"),
        "blank lines": lambda content: content + b"\n\n",
    }
    table = read(tmp_path, {name: dresses[dress](content) for name, content in members.items()})
    assert list(table.frame.columns) == [USER, ITEM, RATING, TIMESTAMP]
    assert table.frame.to_numpy().tolist() == [[7, 30, 4.5, 900], [2, 10, 3, 800], [7, 10, 0.5, 700]]
    assert [table.frame[column].dtype for column in table.frame] == [np.int64, np.int64, np.float64, np.int64]
    pairs = list(zip(table.categories[ITEM], table.categories[CATEGORY], strict=True))
    assert pairs == [(10, "Action"), (10, "Drama"), (30, "Drama")]
    first = 'Big, The "1"' if members is CSV else dict(table.titles.to_numpy().tolist())[10]
    assert table.titles.to_numpy().tolist() == [[10, first], [20, "x"], [30, "y"]]
    assert members is not TAB or first == "Café (1995)"  # Latin-1


@pytest.mark.parametrize("members", LAYOUTS, ids=["csv", "dat", "tab"])
def test_without_its_movies_a_layout_has_no_categories(tmp_path: Path, members: dict[str, bytes]) -> None:
    ratings = next(iter(members))
    table = read(tmp_path, {ratings: members[ratings]})
    assert len(table) == 3 and len(table.categories) == 0
    assert GroupLens().files(Source(tmp_path)) == [ratings]


def test_columns_of_a_csv_go_by_name(tmp_path: Path) -> None:
    swapped = b'note,"timestamp",movieId,userId,rating\n"a, b",900,30,7,4.5\n'
    assert read(tmp_path, {"ratings.csv": swapped}).frame.to_numpy().tolist() == [[7, 30, 4.5, 900]]


BAD_CSV = {
    "empty": (b"", r"ratings\.csv: the file is empty"),
    "blank": (b"\n\r\n", r"ratings\.csv: the file is empty"),
    "header only": (HEADER, r"ratings\.csv: no rows in it"),
    "binary": (HEADER + b"1,\0\1,3,4\n", r"ratings\.csv: not a text file"),
    "utf-16": ((HEADER + b"1,2,3,4\n").decode().encode("utf-16"), r"ratings\.csv: not a text file"),
    "wrong separator": ((HEADER + b"1,2,3,4\n").replace(b",", b";"), r"no column 'userId' \(found: userId;movieId;"),
    "missing column": (b"userId,movieId,rating\n1,2,3\n", r"no column 'timestamp' \(found: userId, movieId, rating\)"),
    "no header": (b"1,2,3,4\n1,2,3,4\n", r"no column 'userId' \(found: 1, 2, 3, 4\)"),
    "empty id": (HEADER + b"1,2,3,4\n\n,2,3,4\n", r"ratings\.csv, line 4: userId is ''"),
    "nan id": (HEADER + b"1,2,3,4\nnan,2,3,4\n", r"line 3: userId is 'nan', not an integer"),
    "text id": (HEADER + b"1,2,3,4\n1,tt0114709,3,4\n", r"line 3: movieId is 'tt0114709', not an integer"),
    "fraction id": (HEADER + b"1,2.5,3,4\n", r"line 2: movieId is '2\.5', not an integer"),
    "negative id": (HEADER + b"1,2,3,4\n1,-2,3,4\n", r"line 3: movieId is '-2', not an integer"),
    "huge id": (HEADER + b"9223372036854775808,2,3,4\n", r"line 2: userId is '9223372036854775808'"),
    "huger id": (HEADER + b"1" + b"0" * 30 + b",2,3,4\n", r"line 2: userId is '10000000000"),
    "nan rating": (HEADER + b"1,2,3,4\n1,2,NaN,4\n", r"line 3: rating is 'NaN', not a number"),
    "infinite rating": (HEADER + b"1,2,3,4\n1,2,inf,4\n", r"line 3: rating is 'inf', not a number"),
    "date": (HEADER + b"1,2,3,2009-01-01 00:00:00\n", r"line 2: timestamp is '2009-01-01 00:00:00', not a whole"),
    "cut": (HEADER + b"1,2,3,4\n1,2\n", r"line 3: 2 fields where 4 separated by commas were expected"),
    "surplus at once": (HEADER + b"1,2,4,0,9\n", r"line 2: 5 fields where 4 .* '1 2 4 0 9'"),
    "surplus later": (HEADER + b"1,2,3,4\n1,2,4,0,9\n", r"line 3: 5 fields where 4"),
    "open quote": (HEADER + b'1,2,3,4\n"1,2,3,4\n1,2,3,4\n', r"ratings\.csv, line"),
    "exponent": (HEADER + b"1,2,3,4\n1E2,2,3,4\n", r"line 3: userId is '1E2', not an integer"),
    "nearly 5": (HEADER + b"1,4.9999999999999999,3,4\n", r"line 2: movieId is '4\.9999999999999999', not an integer"),
    "exponent time": (HEADER + b"1,2,3,4\n1,2,3,1e9\n", r"line 3: timestamp is '1e9', not a whole"),
    "truth": (HEADER + b"1,true,3,4\n2,true,3,4\n", r"line 2: movieId is 'true', not an integer"),
    "true ratings": (HEADER + b"1,2,true,4\n1,3,true,4\n", r"line 2: rating is 'true', not a number"),
    "4,300 digits": (HEADER + b"1,2,3,4\n" + b"1" * 4400 + b",2,3,4\n", r"line 3: userId is '1{40}', not an integer"),
    "4,300 digits time": (HEADER + b"1,2,3," + b"1" * 4400 + b"\n", r"line 2: timestamp is '1{40}', not a whole"),
    "late NUL": (HEADER + b"1,2,3,4\n" * 9000 + b"1\0001,2,3,4\n", r"line 9002: userId is '1"),
    "header longer": (
        b"userId,movieId,rating,timestamp,note\n1,2,3,4\n",
        r"line 2: 4 fields where 5 separated by commas",
    ),
    "header shorter": (HEADER + b"1,2,3,4,\n1,2,3,5,\n", r"line 2: 5 fields where 4"),
    "column twice": (
        b"userId,userId,movieId,rating,timestamp\n1,2,3,4,5\n",
        r"several columns 'userId' \(found: userId, u",
    ),
    "swallowed": (
        b'userId,movieId,rating,timestamp,note\n1,2,3,4,"a\n1,3,3,5,b"\n',
        r"line 2: a quoted field does not end on its line",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD_CSV.values(), ids=BAD_CSV)
def test_a_bad_csv_gets_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, {"ratings.csv": content})
    assert "\n" not in str(error.value)


def test_integers_may_end_in_point_zero_and_are_exact(tmp_path: Path) -> None:
    content = HEADER + b"+1,9007199254740993.0,3,-4.\n007,9223372036854775807,1E0,4\n"
    frame = read(tmp_path, {"ratings.csv": content}).frame
    assert frame[[USER, ITEM]].to_numpy().tolist() == [[1, 2**53 + 1], [7, 2**63 - 1]]
    assert frame[[RATING, TIMESTAMP]].to_numpy().tolist() == [[3, -4], [1, 4]]
    assert [frame[column].dtype for column in frame] == [np.int64, np.int64, np.float64, np.int64]


def test_empty_fields_of_other_columns_are_no_fault(tmp_path: Path) -> None:
    content = b'note,userId,movieId,rating,timestamp,tag\n,1,2,3,4,\n"a, ""b""",1,3,3,4,x\n'
    assert read(tmp_path, {"ratings.csv": content}).frame[ITEM].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ratings.dat", b"1\t2::3::4\n", r"ratings\.dat, line 1: 3 fields where 4"),
        ("ratings.dat", b"1::2::3::4::\n", r"ratings\.dat, line 1: 5 fields where 4"),
        ("u.data", b'"1"\t2\t3\t4\n', r"u\.data, line 1: user id is '\"1\"'"),
        ("ratings.dat", b"1::2::3::4\n1:2:3:4\n", r"ratings\.dat, line 2: 1 fields where 4 separated by '::'"),
        ("ratings.dat", b"1,2,3,4\n", r"ratings\.dat, line 1: 1 fields where 4"),
        ("ratings.dat", b"1::2::3::4\n1::2::3::4::5\n", r"ratings\.dat, line 2: 5 fields"),
        ("ratings.dat", b"1::2::3::4\n1::x::3::4\n", r"ratings\.dat, line 2: MovieID is 'x'"),
        ("u.data", b"1\t2\t3\t4\n1 2 3 4\n", r"u\.data, line 2: 1 fields where 4 separated by tabs"),
        ("u.data", b"1\t2\t3\tx\n", r"u\.data, line 1: timestamp is 'x'"),
    ],
)
def test_the_other_layouts_name_the_line_too(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, {name: content})


@pytest.mark.parametrize(
    ("layout", "name", "content", "message"),
    [
        (CSV, "movies.csv", b"id,title,genres\n", r"movies\.csv: no column 'movieId' \(found: id, title, genres\)"),
        (
            CSV,
            "movies.csv",
            b"movieId,title,genres\n1,x,A\n2,y\n",
            r"movies\.csv, line 3: 2 fields where the header has 3: '2'",
        ),
        (CSV, "movies.csv", b"movieId,title,genres\n1,The Ant, a,A\n", r"line 2: 4 fields where the header has 3: '1'"),
        (
            CSV,
            "movies.csv",
            b'movieId,title,genres\n1,"x,A\n2,y",B\n',
            r"line 2: a quoted field does not end on its line",
        ),
        (CSV, "movies.csv", b"movieId,title,genres\n" + b"1" * 4400 + b",x,A\n", r"line 2: movieId is '1{40}'"),
        (CSV, "movies.csv", b"movieId,title,genres\nx,x,A\n", r"movies\.csv, line 2: movieId is 'x'"),
        (DAT, "movies.dat", b"1::x::A\n2|y|B\n", r"movies\.dat, line 2: '2\|y\|B' is not MovieID::Title::Genres"),
        (TAB, "u.item", b"10|x||||0|1\n", r"u\.item, line 1: not 5 fields and 3 genre flags"),
        (TAB, "u.item", b"10|x||||0|1|2\n", r"u\.item, line 1: not 5 fields and 3 genre flags"),
    ],
)
def test_bad_movies_get_one_line(
    tmp_path: Path, layout: dict[str, bytes], name: str, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, {**layout, name: content})


def test_a_damaged_zip_is_one_line_too(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ratings.csv", HEADER + b"1,2,3,4\n" * 100_000)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"ratings\.csv: cannot be read, get a new copy"):
        GroupLens().read(Source(path))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"README": b""}, "none of ratings.csv, ratings.dat, u.data"),
        (CSV | DAT, "both ratings.csv and ratings.dat"),
        ({"u.data": TAB["u.data"], "u.item": TAB["u.item"]}, "u.item alone"),
    ],
)
def test_a_folder_that_is_no_single_layout_is_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, members)


@pytest.mark.parametrize(
    ("name", "rows", "users", "items", "categories"),
    [
        ("ml-latest-small.zip", 100_836, 610, 9_724, 19),
        ("ml-100k.zip", 100_000, 943, 1_682, 18),
        ("ml-1m.zip", 1_000_209, 6_040, 3_706, 18),
    ],
)
def test_the_published_files(
    real_data: Callable[[str], Path], name: str, rows: int, users: int, items: int, categories: int
) -> None:
    table = GroupLens().read(Source(real_data(name)))
    assert len(table) == rows
    assert table.frame[USER].nunique() == users
    assert table.frame[ITEM].nunique() == items
    assert table.categories[CATEGORY].nunique() == categories
