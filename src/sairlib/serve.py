"""Serve the recommendations of a run by HTTP, with a page to try it on. Needs pip install 'sairlib[serve]'.

    python -m sairlib.serve run=DIR [SETTING=VALUE ...]      (or: sairlib-serve)

Examples:
    python -m sairlib.serve run=outputs/2026-11-20/21-24-36
    python -m sairlib.serve run=DIR port=0 threads=2 data.root=/data

    curl 'http://127.0.0.1:8000/recommend?user=42&k=10'
    curl http://127.0.0.1:8000/recommend -d '{"history": [1, 260], "k": 10}'

Settings: port (8000; 0: any that is free), host (127.0.0.1: nobody else's machine), threads (of the model: 1), device,
data.root, data.cache. A run may name classes of a package of yours: trust=[my_models] allows it, for making objects of
a run's choice may run any code. Ctrl-C or SIGTERM ends it. docs/serve.md has all routes.
"""

import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sairlib.commands import plain_errors, run_command, whole_start
from sairlib.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

WAIT = 5
"""Seconds for the answers under way when the server ends."""


@dataclass(frozen=True)
class ServeSettings:
    """The settings at the top level of ``serve.yaml``."""

    run: str
    host: str
    port: int
    threads: int
    device: str
    trust: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise UserError(f"port={self.port}: must be from 0 to 65535")
        if not 1 <= self.threads <= 1024:
            raise UserError(f"threads={self.threads}: must be from 1 to 1024")


def serve(config: "DictConfig") -> None:
    """Serve until a signal ends it. UserError as in ``load_run``, if the port is taken, or if uvicorn is missing."""
    if not config.run:
        raise UserError("which run? Give its directory: python -m sairlib.serve run=DIR [port=8000 ...]")
    with whole_start():  # here, not above: --help must not wait for torch
        try:
            import uvicorn
        except ImportError as error:
            raise UserError("serving needs uvicorn: pip install 'sairlib[serve]'") from error
        import torch

        from sairlib import build, make
        from sairlib.serving.answers import Answers
        from sairlib.serving.app import App
        from sairlib.serving.questions import Question

    settings = make.settings(make.only(config, ServeSettings.__dataclass_fields__), "", ServeSettings)
    with _bound(settings.host, settings.port) as listener:  # first, for loading takes seconds
        torch.set_num_threads(settings.threads)
        answers = Answers(build.load_run(Path(settings.run), config, settings.device, settings.trust))
        answers.answer([answers.prepare(Question(history=tuple(answers.ids[:1])))])  # the first pass is slow
        server = uvicorn.Server(
            uvicorn.Config(
                App(answers),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=WAIT,
            )
        )
        _until_a_signal(server, listener)
    print("stopped", flush=True)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, but does not listen yet."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a restart may have to wait for minutes
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise _taken(host, port, error) from error
    return listener


def _taken(host: str, port: int, error: OSError) -> UserError:
    return UserError(f"host={host} port={port}: cannot listen there ({error.strerror}); give another port=N, or port=0")


def _until_a_signal(server: Any, listener: socket.socket) -> None:
    """Run the server. It would end by the signal once more, after it has ended in good order."""

    def stop(number: int, frame: object) -> None:
        server.should_exit = True

    host, port = listener.getsockname()[:2]
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            listener.listen(2048)
        except OSError as error:
            raise _taken(host, port, error) from error
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _job(config: "DictConfig") -> None:
    from sairlib.configuration import user_errors

    with plain_errors(), user_errors():
        serve(config)


def _command(words: list[str]) -> None:
    with whole_start():
        from sairlib.configuration import run_job
    run_job(_job, "serve")


def main() -> None:
    """The console script ``sairlib-serve``."""
    run_command(_command, lambda: str(__doc__))


if __name__ == "__main__":
    main()
