"""Resume an interrupted run, or train a finished one for longer.

    python -m sairlib.resume DIR [SETTING=VALUE ...]      (or: sairlib-resume)

The run keeps the settings it was started with. Words after DIR change those that may change: training.epochs,
training.patience, training.eval_every, training.save_every, evaluation.batch_size, device, threads, data.root,
data.cache. A run may name classes of a package of yours: trust=[my_models] allows it, for making objects of a run's
choice may run any code.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sairlib.commands import run_command, whole_start
from sairlib.errors import UserError

if TYPE_CHECKING:
    from sairlib.run.median import MedianRule
    from sairlib.run.study import Result


def resume(
    directory: Path, words: Sequence[str], trust: Sequence[str] = (), rule: "MedianRule | None" = None
) -> "Result":
    """Resume the run in ``directory``. ``words`` of the command line may change some of its settings.

    ``trust``: packages whose classes the run may make, beside sairlib's. ``rule`` may end its training early. UserError
    if there is no run to resume, if it names other classes, or if ``words`` change settings that it must keep.
    """
    with whole_start():  # here, not above: --help must not wait for torch
        from sairlib import build, configuration, resuming
        from sairlib.run import distributed
        from sairlib.run.directory import RunDirectory

    distributed.join()
    with RunDirectory(directory, resume=True) as place, configuration.user_errors():
        config, all_words = resuming.settings(place, list(words), trust)
        study = build.study(config, resuming.command(all_words, directory), configuration.words_document(all_words))
        return study.run_in(place, rule)


def words_to_resume(words: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """From the words of the command line: the run's directory, the words that change settings, the trusted packages.

    UserError if there is no directory among them.
    """
    directory, changes, trust = "", [], []
    for word in words:
        name, equals, value = word.partition("=")
        if name == "run" and equals:
            directory = value
        elif name == "trust" and equals:
            trust = [package for package in re.split(r"[\[\],\s]+", value) if package]
        elif not equals and not directory and not word.startswith(("-", "~")):
            directory = word
        else:
            changes.append(word)
    wrong = [word for word in changes if "=" not in word]
    if wrong or not directory:
        what = f"'{wrong[0]}' is not NAME=VALUE." if wrong else "which run?"
        raise UserError(f"{what} Give its directory: python -m sairlib.resume DIR [training.epochs=N ...]")
    return Path(_unquoted(directory)), changes, trust


def _unquoted(text: str) -> str:
    """A directory as it was typed; or as a quoted value for Hydra, which ends with the quote it begins with."""
    quote = text[:1]
    if len(text) < 2 or quote not in ("'", '"') or text[-1] != quote:
        return text
    return re.sub(rf"(\\+)(?={quote}|$)", lambda match: match[1][: len(match[1]) // 2], text[1:-1])


def main() -> None:
    """The console script ``sairlib-resume``."""
    run_command(lambda words: resume(*words_to_resume(words)), lambda: str(__doc__))


if __name__ == "__main__":
    main()
