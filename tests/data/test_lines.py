"""One line a user: order, ids of any kind, attributes; and its faults."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sairlib.data.dataset import index
from sairlib.data.given import locate_files
from sairlib.data.readers.lines import Lines
from sairlib.data.source import Source
from sairlib.errors import UserError


def test_users_items_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("ann a b  a\r\n\nbob b\tc\n")
    (tmp_path / "attributes.json").write_text('{"a": [3, "x"], "b": 3, "z": []}')
    files = locate_files([str(tmp_path / "my.txt")], str(tmp_path / "attributes.json"), None, tmp_path)
    data = index(Lines().read(files))
    assert data.user_ids.tolist() == ["ann", "bob"] and data.item_ids.tolist() == ["a", "b", "c"]
    assert data.items.tolist() == [1, 2, 1, 2, 3] and data.times is None
    assert data.category_names == ("3", "x", "[UNK]") and data.item_categories[1].tolist() == [1, 2]
    (tmp_path / "my.csv").write_text("1,7,8\n2,7\n")
    commas = index(Lines("my.csv", separator="comma").read(Source(tmp_path)))
    assert commas.user_ids.tolist() == [1, 2] and commas.item_ids.tolist() == [7, 8]


@pytest.mark.parametrize(
    ("content", "attributes", "message"),
    [
        (b"", b"{}", r"my\.txt: no rows in it"),
        (b"u a\nv\n", b"{}", r"my\.txt, line 2: 'v' alone; expected a user and items"),
        (b"u a\nv \xff\n", b"{}", r"my\.txt, line 2: not UTF-8"),
        (b"u a\n", b"[1]", r"attributes\.json: expected one JSON object"),
        (b"u a\n", b"{", r"attributes\.json: not JSON"),
        (b"u a\n", b'{"a": {}}', r"attributes\.json: item 'a' has no list of names or numbers"),
    ],
)
def test_a_bad_file_gets_one_line(tmp_path: Path, content: bytes, attributes: bytes, message: str) -> None:
    (tmp_path / "my.txt").write_bytes(content)
    (tmp_path / "attributes.json").write_bytes(attributes)
    with pytest.raises(UserError, match=message):
        Lines("my.txt", "attributes.json").read(Source(tmp_path))
    with pytest.raises(UserError, match="separator=;: choose one of blank, comma, tab"):
        Lines(separator=";")


def test_s3_rec_s_beauty(real_data: Callable[[str], Path]) -> None:
    source = Source(real_data("amazon-beauty-s3rec.zip"))
    data = index(Lines("Beauty.txt", "Beauty_item2attributes.json").read(source))
    assert (data.n_users, data.n_items, len(data.items)) == (22_363, 12_101, 198_502)
    assert data.items[:6].tolist() == [1, 2, 3, 4, 5, 6] and data.user_ids[1] == 2
    assert [data.category_names[code - 1] for code in data.item_categories[4] if code] == ["1", "2", "3"]
