"""Files with histories: what is wrong in them is said with the line."""

from pathlib import Path

import pytest

from sairlib.errors import UserError
from sairlib.run.history_files import read_histories, read_ids


@pytest.mark.parametrize(
    ("content", "layout", "says"),
    [
        (b"\n \n", "auto", "no history in it"),
        (b"1 2\n\xff 3\n", "auto", "line 2: not text in UTF-8"),
        (b"a: 1\n\na: 2\n", "auto", "line 3: a stands on line 1, too"),
        (b"user,film\n1,2\n", "csv", r"no column 'item' \(found: user, film\)"),
        (b"user,item\n1,2\n,3\n", "auto", "line 3: no user"),
        (b"user,item\n1,2\n3\n", "auto", "line 3: no item"),
        (b"user,item\n", "auto", "only a header"),
        (b"item,timestamp\n1,2020-01-01\n2,soon\n", "auto", "'soon' is neither a number nor an ISO date"),
        (b'{"items": [1]}\n{"items": 3}\n', "auto", "line 2: give"),
        (b'{"items": [1.5]}\n', "auto", "line 1: give"),
        (b'{"user": null, "items": [1]}\n', "auto", "line 1: give"),
        (b"[1]\n[2\n", "auto", "line 2: not JSON"),
        (b"1 2\n", "xml", "history_format=xml: choose one of"),
    ],
)
def test_a_bad_file_gets_one_line(tmp_path: Path, content: bytes, layout: str, says: str) -> None:
    path = tmp_path / "people"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_histories(str(path), layout)
    assert "\n" not in str(error.value)


def test_ids_of_people_are_integers_only_if_all_are_written_so(tmp_path: Path) -> None:
    path = tmp_path / "people"
    path.write_text("\ufeff7: x y\r\n12: z\r\n", encoding="utf-8")
    assert read_histories(str(path)) == {7: ["x", "y"], 12: ["z"]}
    path.write_text("007: x\n12: z\n")
    assert read_histories(str(path)) == {"007": ["x"], "12": ["z"]}


def test_a_list_of_ids_is_not_empty_and_is_there(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text(" 1\n\nB0 5\n")
    assert read_ids(str(tmp_path / "ids"), "candidates") == ["1", "B0 5"]
    (tmp_path / "ids").write_text("\n")
    with pytest.raises(UserError, match="no id in it"):
        read_ids(str(tmp_path / "ids"), "candidates")
    with pytest.raises(UserError, match="cannot be read"):
        read_ids(str(tmp_path), "candidates")
