"""Tables of anybody: what is read equals a plain reading, and every bad file gets one clear line."""

import csv
import gzip
import io
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sairlib.data import given as given_module
from sairlib.data.assembly import Assembly, Rules
from sairlib.data.dataset import Dataset, index
from sairlib.data.given import locate_files
from sairlib.data.interactions import CATEGORY, ITEM, RATING, TIMESTAMP, TITLE, USER, Interactions
from sairlib.data.readers.own_table import Table
from sairlib.data.readers.text_chunks import TextFormat, text_chunks
from sairlib.data.times import TimeColumn
from sairlib.errors import UserError

TIMED = Table("user", "item", time="when")


def read(folder: Path, content: bytes | str, table: Table = TIMED, name: str = "my.csv", **items: str) -> Interactions:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = locate_files([str(folder / name)], items.get("items"), None, folder)
    return table.read(source)


def rows(table: Interactions) -> list[tuple[Any, ...]]:
    """(user, item, time) of each row, ids as in the file."""
    columns = []
    for name, ids in ((USER, table.user_ids), (ITEM, table.item_ids)):
        values = table.frame[name].to_numpy()
        columns.append((values if ids is None else ids[values]).tolist())
    times = table.frame[TIMESTAMP].tolist() if TIMESTAMP in table.frame else [None] * len(table)
    return list(zip(*columns, times, strict=True))


def test_text_ids_dates_and_other_columns(tmp_path: Path) -> None:
    content = "note,uid,sku,when\nx,u1,007,2024-01-31T10:00:00+02:00\ny,U1,7,2024-01-31T08:00:01+00:00\n"
    table = read(tmp_path, content, Table("uid", "sku", time="when"))
    assert rows(table) == [("u1", "007", 1706688000), ("U1", "7", 1706688001)]
    assert table.notes == () == table.dropped
    data = index(table)
    assert data.user_ids.tolist() == ["U1", "u1"] and data.users(["u1", "x"]).tolist() == [1, -1]
    assert data.item_ids.tolist() == ["007", "7"] and data.item_numbers([7, "007"]).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (["1", "20", "0"], [1, 20, 0]),
        (["9223372036854775807", "1"], [2**63 - 1, 1]),
        (["1", "02"], ["1", "02"]),
        (["1", "+2"], ["1", "+2"]),
        (["1", "2.0"], ["1", "2.0"]),
        (["1", " 2"], ["1", " 2"]),
        (["1", "9223372036854775808"], ["1", "9223372036854775808"]),
        (["1", "é"], ["1", "é"]),
        (["1", "NULL"], ["1", "NULL"]),
        (["1" * 40, "x" * 200], ["1" * 40, "x" * 200]),
        (["abcdefgh", "abcdefghi"], ["abcdefgh", "abcdefghi"]),
    ],
)
def test_ids_are_integers_if_all_of_them_are_written_so(tmp_path: Path, ids: list[str], kept: list[object]) -> None:
    table = read(tmp_path, "user,item\n" + "".join(f"{one},i\n" for one in ids), Table("user", "item"))
    assert [row[0] for row in rows(table)] == kept
    assert ("1 rows have the user id 'NULL': kept as an id" in table.notes) == ("NULL" in ids)


@pytest.mark.parametrize(
    ("written", "kept", "note"),
    [
        (["881250949", "-5"], [881250949, -5], "times are taken as seconds"),
        (["881250949000", "881250950000"], [881250949, 881250950], "times are taken as milliseconds"),
        (["881250949001", "881250950000"], [881250949001, 881250950000], "times are taken as milliseconds"),
        (["8.8e8", "880000001.0"], [880000000, 880000001], "times are taken as seconds"),
        (["880000000.25", "880000001"], [880000000.25, 880000001.0], "times are taken as seconds"),
        (["2024-02-29", "1969-12-31"], [1709164800, -86400], "2 of 2 times name no zone: they are taken as UTC"),
        (["2024-02-29 10:00:00", "2024-02-29T10:00"], [1709200800, 1709200800], "2 of 2 times name no zone"),
        (["2024-02-29T10:00:00.25Z", "2024-02-29T10:00:00.50Z"], [1709200800250, 1709200800500], ""),
        (["2024-02-29T10:00:00-0530", "2024-02-29T10:00Z"], [1709220600, 1709200800], ""),
        (["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"], [-62135596800, 253402300799], ""),
        (["2024-02-29T10:00:00.123456789Z", "2024-02-29T10:00:00Z"], [1709200800123456, 1709200800000000], "cut off"),
    ],
)
def test_times_in_all_forms(tmp_path: Path, written: list[str], kept: list[float], note: str) -> None:
    table = read(tmp_path, "user,item,when\n" + "".join(f"u,i,{time}\n" for time in written))
    assert [row[2] for row in rows(table)] == kept
    assert [note in line for line in table.notes] == [True] * bool(note)


def test_a_unit_that_is_given_is_believed(tmp_path: Path) -> None:
    content = "user,item,when\nu,i,5000\nu,i,6000\n"
    assert [row[2] for row in rows(read(tmp_path, content, Table("user", "item", time="when", time_unit="ms")))] == [
        5,
        6,
    ]


BAD = [
    ("", "my.csv: the file is empty"),
    ("user,item,when\n", "my.csv: no rows in it"),
    ("\nuser,item,when\n", "my.csv, line 1: it is blank"),
    ("user,thing,when\nu,i,1\n", "my.csv, line 1: no column 'item' for the item (found: user, thing, when)"),
    ("user,item,when,item\nu,i,1,i\n", "my.csv, line 1: several columns 'item'"),
    ("user,item,when\nu,i,1\nu,i\n", "my.csv, line 3: 2 fields where 3 separated by ',' were expected: 'u,i'"),
    ("user,item,when\nu,i,1\n\nu,i,1,4\nu,i\n", "my.csv, line 4: 4 fields where 3"),
    ("user,item,when\nu,i,1\n,i,1\n", "my.csv, line 3: no user ('user' is empty); dataset.missing=drop"),
    ("user,item,when\nu,i,1\nu, ,1\n", "my.csv, line 3: no item"),
    ("user,item,when\nu,i,1\nu,i,NaN\n", "my.csv, line 3: no timestamp ('when' is empty)"),
    ("user,item,when\nu,i,1\nu,i,noon\n", "my.csv, line 3: when is 'noon'; expected a number"),
    ("user,item,when\nu,i,1\nu,i,2024-01-01\n", "line 3: when is '2024-01-01', a date, where"),
    ("user,item,when\nu,i,2024-01-01\nu,i,1\n", "line 3: when is '1', a number, where"),
    ("user,item,when\nu,i,2024-02-30\n", "my.csv, line 2: when is '2024-02-30'; expected"),
    ("user,item,when\nu,i,2024-01-01\nu,i,2024-13-01\n", "my.csv, line 3: when is '2024-13-01'; expected"),
    ("user,item,when\nu,i,31/01/2024\n", "my.csv, line 2: when is '31/01/2024'; expected"),
    ("user,item,when\nu,i,1e999\n", "my.csv, line 2: when is '1e999'; expected"),
    ('user,item,when\nu,"i,1\nu,i,2\n', "my.csv, line 2: a quoted field does not end on its line"),
    (b"user,item,when\nu,i,1\nu,\xe9,2\n", "my.csv, line 3: byte 0xe9 is not UTF-8"),
    (b"PK\3\4user", "my.csv: a zip, or a file of an office program"),
    (b"\1\0\2", "my.csv: not a text file in UTF-8"),
    (b"\x1f\x8b\x08nothing", "my.csv: cannot be read"),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_bad_file_gets_one_line(tmp_path: Path, content: "bytes | str", message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert message in str(caught.value) and str(caught.value).isprintable() and str(tmp_path) in str(caught.value)


def test_rows_without_a_value_are_dropped_and_counted(tmp_path: Path) -> None:
    content = "user,item,when\nu,i,1\n,i,2\nu,,\nu,j,null\nv,k,5\n"
    table = read(tmp_path, content, Table("user", "item", time="when", missing="drop"))
    assert rows(table) == [("u", "i", 1), ("v", "k", 5)]
    assert table.dropped == ("3 of 5 rows are left out: 1 without user, 1 without item, 1 without timestamp",)
    assert index(table).notes[0] == table.dropped[0]
    with pytest.raises(UserError, match=r"no rows in it; 1 of 1 rows are left out: 1 without user"):
        read(tmp_path, "user,item,when\n,i,1\n", Table("user", "item", time="when", missing="drop"))


def test_a_bad_row_after_dropped_ones_is_named_rightly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 4: when is 'x'"):
        read(tmp_path, "user,item,when\n,i,2\nu,i,1\nu,i,x\n", Table("user", "item", time="when", missing="drop"))


def test_categories_titles_and_ratings_of_the_rows_and_of_a_second_file(tmp_path: Path) -> None:
    content = "user;item;stars;kind;name\nu;b;4;War|Drama;The B\nv;a;3.5;;\nv;b;5;War;The B\n"
    own = read(tmp_path, content, Table("user", "item", rating="stars", category="kind", title="name"))
    assert own.frame[RATING].tolist() == [4, 3.5, 5]
    assert own.item_ids is not None and own.item_ids.tolist() == ["a", "b"]
    assert own.categories[[ITEM, CATEGORY]].to_numpy().tolist() == [[1, "War"], [1, "Drama"], [1, "War"]]
    assert own.titles[[ITEM, TITLE]].to_numpy().tolist() == [[1, "The B"]]
    assert index(own).category_names == ("Drama", "War", "[UNK]")
    (tmp_path / "items.tsv").write_text('sku\tcalled\tkinds\nb\tThe "B", 1999\tWar, Drama\nz\tZ\tNone\n')
    table = Table(
        "user", "item", items_item="sku", items_title="called", items_category="kinds", category_separator=","
    )
    other = read(tmp_path, content, table, items=str(tmp_path / "items.tsv"))
    assert other.categories[CATEGORY].tolist() == ["War", "Drama"]
    assert other.titles[TITLE].tolist() == ['The "B", 1999']
    assert "1 of 2 items are not in items.tsv" in other.notes


def test_files_without_a_header_and_several_packed_or_not(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("2,u2,5.0\n")
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("1,u1,5.0\n1,u2,5.0\n")
    table = Table(2, 1, header=False)
    source = locate_files([str(tmp_path / "*.csv*")], None, None, tmp_path)
    assert rows(table.read(source)) == [("u1", 1, None), ("u2", 1, None), ("u2", 2, None)]
    swapped = locate_files([str(tmp_path / "b.csv"), str(tmp_path / "a.csv.gz")], None, None, tmp_path)
    assert [row[1] for row in rows(table.read(swapped))] == [2, 1, 1]
    assert source.sha256(table.files(source)) != swapped.sha256(table.files(swapped))


def test_recbole_s_atomic_files(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t07\t881250949.0\nu\t8\t1e9\n")
    (tmp_path / "x.item").write_text('item_id:token\ttitle:token_seq\tclass:token_seq\n07\t"Oh" my\tDrama War\n')
    table = Table(
        "user_id",
        "item_id",
        time="timestamp",
        items_item="item_id",
        items_title="title",
        items_category="class",
        category_separator=" ",
        separator="tab",
        typed=True,
    )
    found = table.read(locate_files([str(tmp_path / "x.inter")], None, ".item", tmp_path))
    assert rows(found) == [("u", "07", 881250949), ("u", "8", 10**9)]
    assert found.titles[TITLE].tolist() == ['"Oh" my'] and found.categories[CATEGORY].tolist() == ["Drama", "War"]
    plain = Table("user_id", "item_id", separator="tab", typed=True)
    notes = plain.read(locate_files([str(tmp_path / "x.inter")], None, ".item", tmp_path)).notes
    assert any(
        "x.item describes the items (item_id, title, class), but none of its columns is chosen" in n for n in notes
    )


def test_unrated_rows_and_an_order_that_is_drawn(tmp_path: Path) -> None:
    content = "user_id,anime_id,rating\n" + "".join(f"1,{item},{-1 if item % 3 == 0 else 7}\n" for item in range(30))
    kept = read(tmp_path, content, Table("user_id", "anime_id", rating="rating", unrated=-1))
    assert len(kept) == 30 and "10 of 30 rows, with the rating -1 for not rated, are kept" in kept.notes[-1]
    options: dict[str, Any] = {"rating": "rating", "unrated": -1, "keep_unrated": "drop", "order": "shuffled"}
    dropped, again = (read(tmp_path, content, Table("user_id", "anime_id", **options)) for _ in range(2))
    other = read(tmp_path, content, Table("user_id", "anime_id", **options, order_seed=2))
    orders = [[row[1] for row in rows(table)] for table in (dropped, again, other)]
    assert len(dropped) == 20 and "10 of 30 rows" in dropped.dropped[0]
    assert orders[0] == orders[1] != sorted(orders[0]) and orders[0] != orders[2]
    with pytest.raises(UserError, match="order=shuffled, but 'rating' gives the times"):
        read(tmp_path, content, Table("user_id", "anime_id", time="rating", order="shuffled"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"missing": "perhaps"}, "missing=perhaps: choose one of error, drop"),
        ({"time_unit": "h"}, "time_unit=h: choose one of auto, s, ms, us, ns"),
        ({"separator": "::"}, "separator=::: choose one of auto"),
        ({"order": "random"}, "order=random: choose one of file, shuffled"),
        ({"keep_unrated": "no"}, "unrated=no"),
        ({"item": "user"}, "columns.user=user: the items are in the same column"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Table(**{"user": "user", "item": "item", **settings})


def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path, says in (
        ("no.csv", "there is no such file"),
        ("*.no", "no file matches it"),
        (str(tmp_path), "a folder"),
    ):
        with pytest.raises(UserError, match=says):
            locate_files([path], None, None, tmp_path / "root")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "moved.csv").write_text("")
    found = locate_files(["/nowhere/moved.csv"], None, None, tmp_path / "root").given
    assert found[given_module.ACTIONS] == [str(tmp_path / "root" / "moved.csv")]


FIELDS = st.text(st.sampled_from('a0 7,"\té;\u2028é本'), max_size=9) | st.sampled_from(
    ["007", "12", "x" * 140, "NULL", "1.0"]
)


@given(
    st.lists(st.tuples(FIELDS, FIELDS, FIELDS), min_size=1, max_size=30),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from([8, 64, 1 << 20]),
)
def test_every_field_is_as_a_plain_reader_reads_it(
    table: list[tuple[str, str, str]], end: str, quoting: Any, block: int
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=quoting)
    writer.writerows([("user", "when", "item"), *table])
    plain = list(csv.DictReader(io.StringIO(text.getvalue(), newline="")))
    found: list[dict[str, str]] = []
    wanted = {name: name for name in ("user", "item", "when")}
    stream = io.BytesIO(text.getvalue().encode())
    for chunk in text_chunks(stream, "my.csv", wanted, TextFormat("comma"), block):
        columns = {name: [values.texts[code] for code in values.codes] for name, values in chunk.columns.items()}  # type: ignore[union-attr]
        found += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert found == plain


IDS = st.sampled_from(["1", "20", "07", "a", "abcdefgh", "abcdefghi", "é", 'x"y', "x" * 140, ""])


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=30), st.sampled_from([8, 64, 1 << 20]))
def test_ids_of_many_chunks_are_merged(table: list[tuple[str, str]], block: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("user", "item"), *table])
    wanted = {USER: "user", ITEM: "item"}
    assembly = Assembly(wanted, Rules(missing="drop"))
    for chunk in text_chunks(io.BytesIO(text.getvalue().encode()), "my.csv", wanted, TextFormat(), block):
        assembly.add(chunk)
    full = [row for row in table if all(row)]
    if full:
        found = [(str(user), str(item)) for user, item, _ in rows(assembly.finish("my.csv"))]
        assert found == full


@given(st.lists(st.datetimes(), min_size=1, max_size=20), st.sampled_from([1, 1000, 10**6]), st.sampled_from(["", "Z"]))
def test_dates_equal_python_s_reading(moments: list[datetime], finest: int, zone: str) -> None:
    cut = [moment.replace(microsecond=moment.microsecond // finest * finest % 10**6) for moment in moments]
    micro = [(moment - datetime(1970, 1, 1)) // timedelta(microseconds=1) for moment in cut]
    text = "when\tx\n" + "".join(f"{moment.isoformat()}{zone}\t\n" for moment in cut)
    column = TimeColumn("when", "auto")
    for chunk in text_chunks(io.BytesIO(text.encode()), "x", {TIMESTAMP: "when"}, TextFormat(), 64):
        column.add(chunk.columns[TIMESTAMP], chunk.place)
    divisor = next(size for size in (10**6, 1000, 1) if all(value % size == 0 for value in micro))
    assert column.finish()[0].tolist() == [value // divisor for value in micro]


def test_parquet_equals_the_csv_of_the_same_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    moments = [datetime(2024, 1, day, tzinfo=timezone.utc) for day in (3, 1, 2)]
    columns = {"user": ["b", "a", "b"], "item": [7, 8, 9], "when": moments}
    parquet.write_table(pyarrow.table(columns), tmp_path / "my.parquet")
    found = TIMED.read(locate_files([str(tmp_path / "my.parquet")], None, None, tmp_path))
    lines = "".join(f"{u},{i},{w.isoformat()}\n" for u, i, w in zip(*columns.values(), strict=True))
    same: Dataset = index(read(tmp_path, "user,item,when\n" + lines))
    assert index(found).sha256() == same.sha256() and rows(found)[1] == ("a", 8, 1704067200)
    parquet.write_table(pyarrow.table({**columns, "item": [7, None, 9]}), tmp_path / "my.parquet")
    with pytest.raises(UserError, match=r"my\.parquet, row 2: no item"):
        TIMED.read(locate_files([str(tmp_path / "my.parquet")], None, None, tmp_path))
    (tmp_path / "my.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"my\.parquet: not a complete parquet file"):
        TIMED.read(locate_files([str(tmp_path / "my.parquet")], None, None, tmp_path))
