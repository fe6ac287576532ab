"""The hash of a large file is remembered, and forgotten as soon as the file looks otherwise."""

import os
from pathlib import Path

import pytest

from sairlib.data import hashes
from sairlib.data.source import Source


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    file, cache = tmp_path / "data" / "big.csv", tmp_path / "cache"
    hashed: list[object] = []
    monkeypatch.setattr(hashes, "LARGE", 3)
    sha256 = Source.sha256
    monkeypatch.setattr(Source, "sha256", lambda source, names: hashed.append(names) or sha256(source, names))

    def remembered(age: int) -> bool:
        """Whether the right hash is found without hashing."""
        os.utime(file, ns=(1, file.stat().st_mtime_ns - age * 10**9))
        before, source = len(hashed), Source(tmp_path / "data")
        assert hashes.remembered(source, ["big.csv"], cache) == sha256(source, ["big.csv"])
        return len(hashed) == before

    file.write_text("content")
    assert not remembered(0) and not cache.exists()  # it has just changed, and may once more
    assert not remembered(100) and remembered(0)
    file.write_text("CONTENT")
    assert not remembered(100) and remembered(0)
    for memory in cache.iterdir():
        memory.write_text("damaged")
    assert not remembered(0) and remembered(0)
