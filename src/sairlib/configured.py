"""Commands whose settings Hydra composes. Hydra itself is loaded when a command runs, so that ``--help`` is quick."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from sairlib.commands import plain_errors, run_command, whole_start
from sairlib.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_configured(
    job: "Callable[[DictConfig], object]", config_name: str, explain: Callable[[], str], directory: str | None = "run"
) -> None:
    """Run ``job`` with the configuration of ``config_name`` and the words of the command line.

    A word that is no setting is a directory. The setting ``directory`` gets the first one, or all of them if it is a
    list; None: the command takes no such word. ``--help`` prints what ``explain`` returns.
    """

    def command(words: list[str]) -> None:
        with whole_start():
            from sairlib.configuration import run_job, user_errors
        places = _take_places(words) if directory else []

        def run(config: "DictConfig") -> None:
            with plain_errors(), user_errors():
                if directory and places:
                    if isinstance(config[directory], str | None):
                        if len(places) > 1:
                            raise UserError(f"'{places[1]}' is not NAME=VALUE, and {directory}={places[0]} is given")
                        config[directory] = places[0]
                    else:
                        config[directory] = places
                job(config)

        run_job(run, config_name)

    run_command(command, explain)


def _take_places(words: list[str]) -> list[str]:
    """Take the words that are neither settings nor flags, nor a flag's value, from the command line."""
    places = []
    for before, word in zip(["", *words], words, strict=False):
        if "=" not in word and not word.startswith(("-", "~", "+")) and not before.startswith("-"):
            places.append(word)
            sys.argv.remove(word)
    return places
