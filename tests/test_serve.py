"""The command: it serves a run until a signal, and says in one line what is wrong."""

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from command_helpers import call, refused
from train_helpers import Command

from sairlib import serve


@pytest.fixture
def served(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs ``serve`` in this process: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = call(serve.main, monkeypatch, "device=cpu", *words)
        return code, *capfd.readouterr()

    return run


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_until_a_signal_ends_it(command: Command, served: Command, number: signal.Signals) -> None:
    pytest.importorskip("uvicorn")
    assert command("model=sasrec", "training.epochs=1")[0] == 0
    port, answers = free_port(), []
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def client() -> None:
        address, end = f"http://127.0.0.1:{port}/recommend?user=3&k=2", time.monotonic() + 60
        while not answers and time.monotonic() < end:
            try:
                with urllib.request.urlopen(address, timeout=30) as reply:
                    answers.append(json.load(reply))
            except OSError:
                time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=client)
    thread.start()
    code, out, err = served("run=run", f"port={port}")
    thread.join()
    assert len(answers[0]["items"]) == 2
    assert (code, out, err) == (0, f"listening on http://127.0.0.1:{port}\nstopped\n", "")
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_mistakes_get_one_line(served: Command) -> None:
    pytest.importorskip("uvicorn")
    assert refused(served(), "which run?", "run=DIR")
    assert refused(served("run=nowhere", "port=0"), "nowhere holds no run")
    assert refused(served("run=run", "port=70000"), "port=70000: must be from 0 to 65535")
    assert refused(served("run=run", "port=http"), "port", "http")
    assert refused(served("run=run", "threads=0"), "threads=0")
    assert refused(served("run=run", "host=no.such.host.invalid"), "host=no.such.host.invalid", "cannot listen")
    assert refused(served("run=run", "colour=red"), "colour")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(served("run=run", f"port={port}"), f"port={port}: cannot listen", "Address already in use")


def test_without_uvicorn_it_says_what_to_install(served: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refused(served("run=run"), "pip install 'sairlib[serve]'")
