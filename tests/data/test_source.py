"""Files of a data set are located in folders and archives; damaged archives are refused in one line."""

import itertools
import os
import zipfile
from pathlib import Path

import pytest

from sairlib.data import source as source_module
from sairlib.data.source import Source
from sairlib.errors import UserError


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_folder(path: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("prefix", ["", "set/", "a/b c/ü/"])
def test_folder_and_zip_hold_the_same_data(tmp_path: Path, prefix: str) -> None:
    members = {f"{prefix}ratings.csv": b"1,2\n" * 1000, f"{prefix}README.txt": b"hello"}
    sources = [Source(make_zip(tmp_path / "set.zip", members)), Source(make_folder(tmp_path / "set", members))]
    for source in sources:
        assert source.has("ratings.csv")
        assert not source.has("movies.csv")
        with source.open("ratings.csv") as stream:
            assert stream.read() == b"1,2\n" * 1000
    assert sources[0].sha256(["ratings.csv", "README.txt"]) == sources[1].sha256(["README.txt", "ratings.csv"])
    assert sources[0].sha256(["ratings.csv"]) != sources[0].sha256(["README.txt"])


def test_absent_and_ambiguous_files_are_named(tmp_path: Path) -> None:
    source = Source(make_zip(tmp_path / "set.zip", {"a/ratings.csv": b"1", "b/ratings.csv": b"2", "README": b""}))
    with pytest.raises(UserError, match=r"set\.zip: no file 'movies\.csv' in it \(found: README, ratings\.csv\)"):
        source.sha256(["movies.csv"])
    with pytest.raises(UserError, match=r"several files 'ratings\.csv' in it \(a/ratings\.csv, b/ratings\.csv\)"):
        source.where("ratings.csv")


def test_nothing_is_written_by_a_malicious_archive(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    source = Source(make_zip(inside / "set.zip", {"../../evil.csv": b"1", "/etc/evil.dat": b"2"}))
    with source.open("evil.csv") as stream:
        assert stream.read() == b"1"
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "set.zip"]


@pytest.mark.parametrize("keep", [0, 1, 100, -10])
def test_truncated_zip_is_refused(tmp_path: Path, keep: int) -> None:
    path = make_zip(tmp_path / "set.zip", {"ratings.csv": bytes(range(256)) * 9})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"set\.zip: not a complete zip file"):
        Source(path)


def test_damaged_member_is_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.csv", b"1,2,3,4\n")
    path.write_bytes(path.read_bytes().replace(b"1,2,3,4", b"1,2,3,5"))
    source = Source(path)
    with pytest.raises(UserError, match=r"ratings\.csv: cannot be read"), source.open("ratings.csv") as stream:
        stream.read()


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    size = 17 << 20
    path = make_zip(tmp_path / "set.zip", {"bomb.csv": bytes(size), "fine.csv": b"1,2\n"})
    with Source(path).open("fine.csv") as stream:
        assert stream.read() == b"1,2\n"
    whole = path.read_bytes()
    at = whole.index(b"PK\1\2") + 20  # the compressed size: nothing checks it
    for content in (whole, whole[:at] + size.to_bytes(4, "little") + whole[at + 4 :]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bomb\.csv: would unpack [0-9,]+ bytes to 17,825,792, too many"):
            Source(path).sha256(["bomb.csv"])


def test_an_archive_of_very_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_MAX_MEMBERS", 2)
    with pytest.raises(UserError, match=r"set\.zip: 3 files in it, too many for a data set"):
        Source(make_zip(tmp_path / "set.zip", dict.fromkeys("abc", b"")))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_damaged_byte_gives_a_traceback_or_other_contents(tmp_path: Path, method: int) -> None:
    path = tmp_path / "set.zip"
    content = b"".join(b"%d,%d\n" % (number, number**2) for number in range(9))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("ratings.csv", content)
    whole = path.read_bytes()
    refused = []
    for at, flip in itertools.product(range(len(whole)), (1, 0x40, 0xFF)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        try:
            with Source(path).open("ratings.csv") as stream:
                assert stream.read() == content
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > len(whole) / 2
    assert all("\n" not in message for message in refused)


def test_a_damaged_name_does_not_hide_a_file(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"ratings.csv": b"1", "é/movies.csv": b"2"})
    whole = path.read_bytes()
    at = whole.rindex(b"movies.csv")
    path.write_bytes(whole[:at] + b"n" + whole[at + 1 :])
    with pytest.raises(UserError, match=r"'é/novies\.csv' has another name in its own header"):
        Source(path)


def test_a_damaged_entry_does_not_hide_the_others(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"ratings.csv": b"1", "movies.csv": b"2"})
    whole = path.read_bytes()
    at = whole.index(b"PK\1\2") + 33  # the length of a comment between the first entry and the second
    path.write_bytes(whole[:at] + b"," + whole[at + 1 :])
    with pytest.raises(UserError, match="1 files in it, not 2 as it says"):
        Source(path)


def test_a_member_that_ends_early_is_refused(tmp_path: Path) -> None:
    """Of a directory that is zeroed here and there, zipfile takes no bytes with a checksum of 0 for right."""
    path = make_zip(tmp_path / "set.zip", {"ratings.csv": b"1,2\n" * 1000})
    whole = path.read_bytes()
    at = whole.index(b"PK\1\2")
    path.write_bytes(whole[: at + 16] + bytes(8) + whole[at + 24 :])
    for size in (-1, 100):
        with (
            Source(path).open("ratings.csv") as stream,
            pytest.raises(UserError, match=r"\(it ends 4,000 bytes early\)"),
        ):
            stream.read(size)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "device", "dead link"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "set").mkdir()
    for path in (tmp_path / "set" / "ratings.csv", tmp_path / "set.zip"):
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"ratings\.csv: not a regular file"):
        Source(tmp_path / "set").sha256(["ratings.csv"])
    if kind != "dead link":
        with pytest.raises(UserError, match=r"set\.zip: not a regular file"):
            Source(tmp_path / "set.zip")


def test_names_with_line_breaks_stay_on_one_line(tmp_path: Path) -> None:
    source = Source(make_zip(tmp_path / "set.zip", {"a\nb/ratings.csv": b"1", "c\x1b/ratings.csv": b"2", "x\ny": b"3"}))
    assert "\n" not in source.where("x\ny")
    for name in ("ratings.csv", "movies.csv"):
        with pytest.raises(UserError) as error:
            source.sha256([name])
        assert str(error.value).isprintable()


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        Source(tmp_path / "nowhere.zip")
