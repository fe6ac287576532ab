"""Every command and snippet of the documents runs. ``snippets.py`` says which, and by which rules."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from command_helpers import call
from snippets import EVASIONS, NEVER, ROOT, Block, blocks, folder, pages, small, split_command

import sairlib

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs a checkout: the wheel has no docs/")
ALL = [block for page in pages() if page.is_file() for block in blocks(page)]
MISSING = "pip install 'sairlib["
"""In the one line that says which extra a command needs."""
OURS = re.compile(r"(?:python3? -m sairlib\.|sairlib-)(\w+)")
SHELL = re.compile(r"[|<>;&]|\$\(")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SAIR on the data that ships, and beside it the cache of that data."""
    home = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAIRLIB_CACHE", str(home / "cache"))
        sairlib.study(*small(["model=sair"], trains=True)).run(home / "run")
    return home / "run"


class Page:
    """One page's blocks, run in order in a directory of their own."""

    def __init__(
        self, home: Path, finished: Path, patch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]
    ) -> None:
        self.home, self.finished, self.patch, self.output = home, finished, patch, output
        self.names: dict[str, Any] = {"__name__": "page"}
        patch.setattr(sairlib, "study", self._smaller(sairlib.study))
        patch.setattr(sairlib, "load", self._provided(sairlib.load))

    def run(self, block: Block) -> None:
        if block.about[0] == "writes":
            (self.home / block.about[1]).write_text(block.text, encoding="utf-8")
            return
        if block.kind == "python":
            try:
                exec(compile(block.text, block.name, "exec"), self.names)
            except sairlib.UserError as error:
                if MISSING not in str(error):
                    raise
            return
        for command in block.commands():
            self._command(block, command)

    def _command(self, block: Block, command: str) -> None:
        assert not NEVER.match(command), f"{block.name}: {command}: say why it is not run"
        ours = OURS.match(command)
        if ours is None or SHELL.search(command.partition("  #")[0]):
            self._in_shell(block, command)
            return
        name, words = ours[1], split_command(command[ours.end() :])
        self._provide(name, words)
        module = importlib.import_module(f"sairlib.{name}")
        if not hasattr(module, "main"):  # a folder: python -m sairlib.data
            module = importlib.import_module(f"sairlib.{name}.__main__")
        self.output.readouterr()
        code = call(module.main, self.patch, *small(words, name == "train"))
        error = self.output.readouterr().err
        assert code == 0 or MISSING in error, f"{block.name}: {command}\n{error}"

    def _in_shell(self, block: Block, command: str) -> None:
        for ours in OURS.finditer(command):
            self._provide(ours[1], split_command(re.split(r"[|<>;&]", command[ours.end() :])[0]))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(["bash", "-ec", command], env=environment, timeout=100, capture_output=True, text=True)
        assert done.returncode == 0 or MISSING in done.stderr, f"{block.name}: {command}\n{done.stderr}"

    def _provide(self, name: str, words: list[str]) -> None:
        """Put a finished run where a command other than ``train`` expects one, and a grid where ``grid`` does."""
        for word in words:
            key, equals, value = word.partition("=")
            if name == "grid" and not equals:
                self._put(Path(word) / "0")
            elif name not in ("train", "data") and (key == "run" or not equals) and not word.startswith("-"):
                self._put(Path(value if equals else word))

    def _put(self, place: Path) -> None:
        if not place.exists():
            shutil.copytree(self.finished, place)

    def _smaller(self, study: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *words, **more: study(*small(words, trains=True), **more)

    def _provided(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def load_it(directory: str | Path, *options: Any, **more: Any) -> Any:
            self._put(Path(directory))
            return load(directory, *options, **more)

        return load_it


def in_pages(long: bool) -> list[Any]:
    """Pages with the blocks of them that are run, those that take long or the others."""
    found: dict[Path, list[Block]] = {}
    for block in ALL:
        if block.runs and not block.why_not and block.long == long:
            found.setdefault(block.page, []).append(block)
    marks = [pytest.mark.long] if long else []
    return [pytest.param(page, own, id=page.name, marks=marks) for page, own in found.items()]


def run_page(
    page: Path,
    own: list[Block],
    home: Path,
    finished: Path,
    patch: pytest.MonkeyPatch,
    output: pytest.CaptureFixture[str],
) -> None:
    copied = folder(page)
    if copied is not None:
        shutil.copytree(copied, home, dirs_exist_ok=True)
        patch.syspath_prepend(home)
    patch.setenv("SAIRLIB_CACHE", str(finished.parent / "cache"))
    patch.setenv("HYDRA_FULL_ERROR", "0")  # put back after the test: a command sets it
    patch.chdir(home)
    running = Page(home, finished, patch, output)
    for block in own:
        running.run(block)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("page", "own"), [*in_pages(long=False), *in_pages(long=True)])
def test_page(
    page: Path,
    own: list[Block],
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if own[0].long and "long" not in request.config.option.markexpr:
        pytest.skip("it takes long: pytest -m long")
    run_page(page, own, tmp_path, finished, monkeypatch, capfd)


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.runs and block.why_not], ids=lambda block: block.name
)
def test_not_run(block: Block) -> None:
    """Lists them, with their reasons."""
    pytest.skip(f"{block.name}: {block.why_not}")


def test_every_block_is_of_a_kind_that_runs_or_is_only_shown() -> None:
    evading = [block.name for block in ALL if block.kind in EVASIONS]
    assert not evading, f"mark these console (with '$ ' before each command) or python: {evading}"
    empty = [block.name for block in ALL if block.kind == "console" and not block.commands()]
    assert not empty, f"no line begins with '$ ' in {empty}"
    silent = [block.name for block in ALL if block.about == ("not run", "")]
    assert not silent, f"no reason is given for {silent}"
    wild = [block.name for block in ALL if not block.why_not and any(map(NEVER.match, block.commands()))]
    assert not wild, f"say why these are not run, <!-- not run: REASON --> before the block: {wild}"
    n_run = sum(block.runs and not block.why_not for block in ALL)
    assert n_run > 15, "the documents lost their snippets"


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.about[0] == "file"], ids=lambda block: block.about[1]
)
def test_a_shown_file_is_the_file(block: Block) -> None:
    assert block.text.rstrip() == (ROOT / block.about[1]).read_text(encoding="utf-8").rstrip()
