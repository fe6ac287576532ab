"""From words of the command line to one configuration. It knows Hydra but not torch, so that it is quick."""

import functools
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sairlib.commands import CONF, whole_start
from sairlib.errors import UserError, one_line

CONFIG_PATH = str(CONF) if CONF.parent != Path(__file__).parent else "pkg://sairlib.conf"
"""The folder of all settings, as Hydra wants it: a path, or a package if sairlib is installed."""


def _unique() -> str:
    """Six random characters, for names that do not collide. They leave the random generators alone."""
    return "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(6))


def _stem(path: Any) -> str:
    """The name of a data set from the path of its first file: ``logs`` for ``logs.csv.gz``."""
    first = next(iter(path), None) if isinstance(path, Sequence) and not isinstance(path, str) else path
    name = re.sub(r"[*?\[\]]+", "", Path(str(first)).name) if first else ""
    return Path(name.removesuffix(".gz")).stem.strip(".-_ ") or "table"


OmegaConf.register_new_resolver("stem", _stem, replace=True)
OmegaConf.register_new_resolver("unique", _unique, use_cache=True, replace=True)


def compose(words: Sequence[str]) -> DictConfig:
    """Compose the configuration from words of the command line, inside or outside a Hydra job.

    UserError for words that Hydra cannot read.
    """
    with _hydra_of_its_own():
        if CONFIG_PATH.startswith("pkg://"):
            context: Any = initialize_config_module(CONFIG_PATH.removeprefix("pkg://"), version_base="1.3")
        else:
            context = initialize_config_dir(CONFIG_PATH, version_base="1.3")
        with context, _words_read(words):
            return hydra_compose("train", list(words))


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn Hydra's errors about bad words into UserErrors, and show unprintable characters of these as ``?``."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, UserError) as error:
        if isinstance(error, UserError) and str(error) == one_line(error):
            raise
        raise UserError(one_line(error)) from error


def run_job(job: Callable[[DictConfig], object], config_name: str) -> None:
    """Run ``job`` by Hydra, with the words of the command line: once, for a grid often, or not at all (``--cfg job``).

    UserError for words that Hydra cannot read.
    """
    if {"-sc", "--shell_completion"} & set(sys.argv) and sys.argv[0].endswith(".py"):
        raise UserError("tab completion is for the script: sairlib-train instead of python -m sairlib.train")
    with _words_read(sys.argv[1:]) as read:

        @functools.wraps(job)
        def read_and_run(config: DictConfig) -> object:
            read.append(config)
            return job(config)

        main = hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=config_name)(read_and_run)
        with whole_start():  # until the job's own, for it knows what to clean up
            main()


@contextmanager
def _words_read(words: Sequence[str]) -> Iterator[list[DictConfig]]:
    """Until a configuration is appended to the list, errors are about the words: Hydra raises many kinds."""
    read: list[DictConfig] = []
    try:
        with user_errors():
            yield read
    except Exception as error:
        if read or isinstance(error, UserError | BrokenPipeError):
            raise
        raise UserError(f"{_suspect(words)}: {one_line(error)}") from error


def _suspect(words: Sequence[str]) -> str:
    """The word that chooses no option of a group, with the options there are; else all words."""
    for word in words:
        name, _, option = word.lstrip("+~").partition("=")
        options = sorted(path.stem for path in (CONF / name).glob("*.yaml")) if name.isidentifier() else []
        if options and option not in options:
            return f"{_shown(word)}: choose one of {', '.join(options)}"
    return "cannot read " + " ".join(_shown(word) for word in words)


def _shown(word: str) -> str:
    return word if len(word) < 60 else f"{word[:50]}..."


def literal(text: str) -> str:
    """The text for a configuration, where ``${`` would begin a reference."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def words_document(words: Sequence[str]) -> dict[str, str]:
    """The document of a run directory, by its file name, from which ``stored.words_of`` reads the words."""
    return {".hydra/overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(words)))}


@contextmanager
def _hydra_of_its_own() -> Iterator[None]:
    """Hydra allows one instance in a process: set aside that of a job or notebook, and restore it."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before
