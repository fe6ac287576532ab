"""A data set is located, downloaded whole, or requested in a one-line message; no partial file is left."""

import hashlib
import io
import multiprocessing
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sairlib.data import download
from sairlib.data.download import locate
from sairlib.errors import UserError


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("ratings.csv", (2020, 1, 1, 0, 0, 0)), content)  # the same in every process
    return buffer.getvalue()


BODY = zipped(b"published")
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Misbehaves as the path says, and counts requests."""

    n_requests = 0

    def do_GET(self) -> None:
        Handler.n_requests += 1
        what = Path(self.path).stem
        if what == "gone":
            self.send_error(404)
            return
        if what == "moved":
            self.send_response(302)
            self.send_header("Location", "/page.zip")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if what == "slow":
            time.sleep(0.5)
        body = b"<html>log in first</html>" if what == "page" else BODY
        self.send_response(200)
        if what != "unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:-20] if what in ("truncated", "unsized-truncated") else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        Handler.n_requests = 0
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def fetch(root: Path, url: str | None, checksum: str | None = None) -> bytes:
    source = locate(name="set", root=root, archive="set.zip", url=url, checksum=checksum, homepage="https://set.org")
    with source.open("ratings.csv") as stream:
        return stream.read()


@pytest.mark.parametrize("what", ["plain", "unsized"])
@pytest.mark.parametrize("checksum", [None, MD5, SHA256])
def test_downloads_once(tmp_path: Path, server: str, what: str, checksum: str | None) -> None:
    root = tmp_path / "new" / "data"
    for _ in range(2):
        assert fetch(root, f"{server}/{what}.zip", checksum) == b"published"
    assert Handler.n_requests == 1
    assert [path.name for path in root.iterdir()] == ["set.zip"]


@pytest.mark.parametrize(
    ("what", "checksum", "message"),
    [
        ("gone", None, "404"),
        ("page", None, "web page instead of the file"),
        ("moved", MD5, "web page instead of the file"),
        ("truncated", MD5, "the connection broke after|IncompleteRead"),
        ("plain", "md5:0123", r"checksum of the downloaded file is [0-9a-f]{32}, not 0123"),
        ("plain", "crc:0123", "must begin with 'md5:' or 'sha256:'"),
    ],
)
def test_a_failed_download_leaves_nothing(
    tmp_path: Path, server: str, what: str, checksum: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        fetch(tmp_path / "data", f"{server}/{what}.zip", checksum)
    assert f"get it from https://set.org and put its files into {tmp_path / 'data' / 'set'}" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_truncated_without_a_length_is_no_zip(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.BODY", BODY[:-20])
    with pytest.raises(UserError, match="not a complete zip file"):
        fetch(tmp_path, f"{server}/unsized.zip")


def test_a_silent_server_is_given_up(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    with pytest.raises(UserError, match="timed out"):
        fetch(tmp_path, f"{server}/slow.zip")


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9/set.zip", "file:///etc/passwd"])
def test_without_network_one_line_says_what_to_put_where(tmp_path: Path, url: str | None) -> None:
    with pytest.raises(
        UserError, match=r"data set 'set' is missing .*: get it from https://set\.org and put .*set\.zip$"
    ):
        fetch(tmp_path / "data", url)
    assert list(tmp_path.iterdir()) == []


def test_half_a_file_of_a_killed_process_is_not_used(tmp_path: Path, server: str) -> None:
    (tmp_path / "set.zip.123.tmp").write_bytes(b"half" * 1000)
    (tmp_path / ".set.zip.lock").touch()
    assert fetch(tmp_path, f"{server}/plain.zip", MD5) == b"published"
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_of_processes_at_once_one_downloads_and_all_have_it(tmp_path: Path, server: str) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        results = [pool.apply_async(fetch, (tmp_path, f"{server}/slow.zip", MD5)) for _ in range(3)]
        assert [one.get(timeout=30) for one in results] == [b"published"] * 3
        pool.close()
        pool.join()
    assert Handler.n_requests == 1
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_folder_before_zip_before_shipped(tmp_path: Path) -> None:
    archive = "ml-latest-small.zip"

    def located() -> Path:
        return locate(name="ml-latest-small", root=tmp_path, archive=archive).path

    (tmp_path / "ml-latest-small").mkdir()  # an empty folder is not a data set
    assert located().name == archive and tmp_path not in located().parents
    (tmp_path / archive).write_bytes(BODY)
    assert located() == tmp_path / archive
    (tmp_path / "ml-latest-small" / "ratings.csv").touch()
    assert located() == tmp_path / "ml-latest-small"


def test_a_root_that_cannot_be_looked_into_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot look into .* \(File name too long\)"):
        locate(name="a" * 300, root=tmp_path, archive="set.zip")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_in_the_place_of_the_zip_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(UserError, match=r"set\.zip: not a regular file"):
        fetch(tmp_path, None)


@pytest.mark.parametrize("bad", ["", "..", "../set", "a/b"])
def test_names_stay_inside_the_root(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UserError, match="plain file names"):
        locate(name=bad, root=tmp_path, archive="set.zip")
