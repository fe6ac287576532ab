"""``python -m sairlib.resume run=DIR``: resume an interrupted run, or train a finished one for longer.

The run keeps the settings it was started with; words after run=DIR, such as training.epochs=400, change them.
"""

import shlex
import sys
from pathlib import Path

from sairlib import build
from sairlib.commands import run_command
from sairlib.errors import UserError
from sairlib.run.study import Result, state_to_resume


def resume(run_dir: str | None, changes: list[str]) -> Result:
    """Resume the run in ``run_dir``. ``changes`` are words of the command line that override those that started it.

    UserError if there is no run to resume, or if its state does not fit the changed settings.
    """
    if not run_dir:
        raise UserError("which run? Give its directory: python -m sairlib.resume run=DIR [training.epochs=N ...]")
    directory = Path(run_dir.strip("'\""))
    state_to_resume(directory, resume=True)  # before data is read
    changed_keys = {_key(word) for word in changes}
    dropped_keys = changed_keys | {"run_dir", "resume"}
    words = [*(word for word in build.words_of(directory) if _key(word) not in dropped_keys), *changes]
    config = build.compose([*words, f"run_dir={_quoted(str(directory))}"])
    command = shlex.join(["python", "-m", "sairlib.train", *words, f"run_dir={directory}", "resume=true"])
    return build.study(config, command, build.words_document(words)).run(directory, resume=True)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _quoted(text: str) -> str:
    """The text as a quoted value for Hydra's command line."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def main() -> None:
    """The console script ``sairlib-resume``."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    directories = [word.partition("=")[2] for word in words if _key(word) == "run"]
    run_command(
        lambda: resume(directories[-1] if directories else None, [word for word in words if _key(word) != "run"])
    )


if __name__ == "__main__":
    main()
