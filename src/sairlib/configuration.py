"""From words of the command line to one configuration. It knows Hydra but not torch, so that it is quick."""

import functools
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

from sairlib.commands import CONF
from sairlib.errors import UserError, one_line

CONFIG_PATH = str(CONF) if CONF.parent != Path(__file__).parent else "pkg://sairlib.conf"
"""The folder of all settings, as Hydra wants it: a path, or a package if sairlib is installed."""


def _unique() -> str:
    """Six random characters, for names that do not collide. They leave the random generators alone."""
    return "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(6))


OmegaConf.register_new_resolver("unique", _unique, use_cache=True, replace=True)


def compose(words: Sequence[str]) -> DictConfig:
    """Compose the configuration from words of the command line, inside or outside a Hydra job."""
    with _hydra_of_its_own():
        if CONFIG_PATH.startswith("pkg://"):
            context: Any = initialize_config_module(CONFIG_PATH.removeprefix("pkg://"), version_base="1.3")
        else:
            context = initialize_config_dir(CONFIG_PATH, version_base="1.3")
        with context:
            return hydra_compose("train", list(words))


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn Hydra's errors about bad words into UserErrors."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error


def run_job(job: Callable[[DictConfig], object], config_name: str) -> None:
    """Run ``job`` by Hydra, with the words of the command line: once, for a grid often, or not at all (``--cfg job``).

    UserError for words that Hydra cannot read.
    """
    if {"-sc", "--shell_completion"} & set(sys.argv) and sys.argv[0].endswith(".py"):
        raise UserError("tab completion is for the script: sairlib-train instead of python -m sairlib.train")
    started = False

    @functools.wraps(job)
    def noted(config: DictConfig) -> object:
        nonlocal started
        started = True
        return job(config)

    try:
        with user_errors():
            hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=config_name)(noted)()
    except (ValueError, RecursionError) as error:
        if started or isinstance(error, UserError):
            raise
        raise UserError(f"these words do not go together: {one_line(error)}") from error


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
