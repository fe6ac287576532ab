"""The commands and snippets of the README and of docs/*.md, and how they run on small settings.

What runs: blocks marked ``console`` (lines that begin with "$ ", a backslash continues one) and blocks marked
``python``. All other kinds of blocks are only shown; ``bash``, ``sh`` and ``pycon`` are mistakes. The blocks of a page
run in its order, in one directory and one Python namespace, so that a later one may use what an earlier one has made.

A comment on the line before a block, with or without a blank line between, changes that:

    <!-- not run: REASON -->      it is not run; a skipped test says why
    <!-- needs: MODULE ... -->    it is run if these can be imported; else a skipped test says so
    <!-- long -->                 it is run by `pytest -m long` only
    <!-- file: PATH -->           it shows this file, and must equal it; it is not run
    <!-- writes: NAME -->         its text is written to this file, for the blocks after it; of any kind
    <!-- in: FOLDER -->           anywhere in the page: all of it runs in a copy of this folder

What ends with the one line that an extra of sairlib is missing (pip install 'sairlib[...]') counts as not run.

To make commands short, their words are changed by the rules in ``small`` (of the settings) and ``Page._provide`` (of
the directories that a command expects): add new ones there. ``sairlib.study`` and ``sairlib.load`` follow them, too.
"""

import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- (not run|needs|long|file|writes)(?:: ([^>]*?))? -->\s*\Z")
FOLDER = re.compile(r"<!-- in: (\S+) -->")
EVASIONS = {"bash", "sh", "shell", "zsh", "pycon", "py"}

NEVER = re.compile(
    r"(pip|make|curl|git|rm|sudo|sbatch|torchrun|tensorboard|eval)\b|(python -m sairlib\.|sairlib-)serve\b"
)
"""Commands that a test must not run: they install, remove, fetch, or serve until they are stopped."""

TINY = {"training.epochs": "1", "max_len": "8", "device": "cpu", "threads": "1", "training.batch_size": "128"}
"""Settings of every training, in place of the given ones."""
WIDTH = "model.d"
AT_MOST = {"evaluation.n_candidates": 200, "hydra.sweeper.n_trials": 2, "model.d": 8, "model.d_hidden": 8}
SHIPS = "ml-latest-small"


@dataclass(frozen=True)
class Block:
    """``line``: of its fence, from 1. ``about``: the comment before it, as (kind, text)."""

    page: Path
    line: int
    kind: str
    text: str
    about: tuple[str, str]

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.about[0] == "writes" or (self.kind in ("console", "python") and self.about[0] != "file")

    @property
    def why_not(self) -> str | None:
        """Why this block is not run here; None if it is."""
        kind, text = self.about
        if kind == "not run":
            return text
        missing = [module for module in text.split() if kind == "needs" and not importable(module)]
        return f"needs {', '.join(missing)}" if missing else None

    @property
    def long(self) -> bool:
        return self.about[0] == "long"

    def commands(self) -> list[str]:
        """The lines that begin with "$ ", without it, each with those that continue it."""
        joined = re.sub(r"\\\n", " ", self.text)
        return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        comment = COMMENT.search(text[: fence.start()])
        about = (comment[1], (comment[2] or "").strip()) if comment else ("", "")
        yield Block(page, text[: fence.start()].count("\n") + 1, fence[1], fence[2], about)


def folder(page: Path) -> Path | None:
    """The folder in whose copy a page runs."""
    found = FOLDER.search(page.read_text(encoding="utf-8"))
    return ROOT / found[1] if found else None


def downloaded(name: str) -> bool:
    """Whether this data set has to be fetched."""
    path = CONF / "dataset" / f"{name}.yaml"
    about = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return name != SHIPS and bool(about.get("homepage"))


def small(words: Sequence[str], trains: bool) -> list[str]:
    """The words of a command, or of ``sairlib.study``, for something small on data that ships."""
    values = {name: value for name, equals, value in (word.partition("=") for word in words) if equals}
    of_grid = 0
    changed = []
    for word in words:
        name, equals, value = word.partition("=")
        if name == "dataset" and downloaded(value) and "dataset.path" not in values:
            value = SHIPS
        elif name in TINY and (trains or name == "training.epochs"):
            value = TINY[name] if trains else "2"
        elif name in AT_MOST and value.isdecimal():
            value = str(min(int(value), AT_MOST[name]))
        elif value.startswith("glob(*"):
            value = "glob(sasre*)"
        elif "-m" in words and "," in value and not value.startswith(("[", "tag(", "choice(")):
            of_grid += 1
            value = ",".join(value.split(",")[: 2 if of_grid == 1 else 1])
        changed.append(f"{name}{equals}{value}")
    if trains and not {"--cfg", "--help", "-h"} & set(words):
        if "experiment" in values and "dataset" not in values:
            changed.append(f"dataset={SHIPS}")
        changed += [f"{name}={value}" for name, value in TINY.items() if name not in values]
        if WIDTH not in values and values.get("model", "sair") not in ("poprec", "gru4rec", "gru4rec-plus"):
            changed.append(f"{WIDTH}=8")
    return changed


def split_command(command: str) -> list[str]:
    """The words of a command, without its comment."""
    return shlex.split(command, comments=True)
