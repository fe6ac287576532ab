""" "User item" lines: their order is kept, their map gives categories, their faults are named."""

from pathlib import Path

import pytest

from sairlib.data.interactions import CATEGORY, ITEM, RATING, TIMESTAMP, USER
from sairlib.data.readers.user_item import UserItemText
from sairlib.data.source import Source
from sairlib.errors import UserError

READER = UserItemText("set.txt", "item_map.csv")


def test_lines_in_order_with_and_without_a_map(tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_bytes(b"1 5\r\n2\t3\n 1  4 \n\n")
    plain = READER.read(Source(tmp_path))
    assert plain.frame[[USER, ITEM]].to_numpy().tolist() == [[1, 5], [2, 3], [1, 4]]
    assert not {TIMESTAMP, RATING} & set(plain.frame)
    assert len(plain.categories) == 0
    assert READER.files(Source(tmp_path)) == ["set.txt"]

    (tmp_path / "item_map.csv").write_text('sasrec_item_id,title,genres\r\n5,"a, b",Action|War\r\n3,x,\r\n')
    mapped = READER.read(Source(tmp_path))
    assert mapped.categories[[ITEM, CATEGORY]].to_numpy().tolist() == [[5, "Action"], [5, "War"]]
    assert READER.files(Source(tmp_path)) == ["set.txt", "item_map.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"set\.txt: the file is empty"),
        (b"1 2\n3\n", r"set\.txt, line 2: 1 fields where 2 separated by spaces were expected: '3'"),
        (b"1 2 3\n4 5 6\n", r"line 1: 3 fields where 2"),
        (b"1 2\n4 5 6\n", r"line 2: 3 fields where 2"),
        (b"1 2\n3 x\n", r"line 2: item is 'x'"),
        (b"1,2\n", r"line 1: 1 fields where 2"),
        (b"1 2\n-1 2\n", r"line 2: user is '-1'"),
        (b"PK\3\4\0\0", r"set\.txt: not a text file"),
    ],
)
def test_a_bad_file_gets_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "set.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        READER.read(Source(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file 'set\.txt' in it \(found: nothing\)"):
        READER.read(Source(tmp_path))
