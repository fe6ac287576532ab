"""``python -m sairlib.resume run=DIR``: go on with an interrupted run, or train a finished one for longer.

Everything is as the run was started; words behind run=DIR, such as training.epochs=400, change it.
"""

import shlex
import sys
from pathlib import Path

from sairlib import build
from sairlib.commands import run_command
from sairlib.errors import UserError
from sairlib.run.study import Result, state_to_resume


def resume(run_dir: str | None, changes: list[str]) -> Result:
    """Go on with the run in ``run_dir``. ``changes`` replace the words it was started with, where both say something.

    UserError if there is no run to go on with, or the changed settings do not fit its state.
    """
    if not run_dir:
        raise UserError("which run? Give its directory: python -m sairlib.resume run=DIR [training.epochs=N ...]")
    directory = Path(run_dir.strip("'\""))
    state_to_resume(directory, resume=True)  # before anything is read
    changed = {_key(word) for word in changes}
    begun = [word for word in build.words_of(directory) if _key(word) not in changed | {"run_dir", "resume"}]
    words = [*begun, *changes]
    config = build.compose([*words, f"run_dir={_quoted(str(directory))}"])
    command = shlex.join(["python", "-m", "sairlib.train", *words, f"run_dir={directory}", "resume=true"])
    return build.study(config, command, build.kept_words(words)).run(directory, resume=True)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _quoted(text: str) -> str:
    """As a value on Hydra's command line."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def main() -> None:
    """The console script ``sairlib-resume``."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    named = [word.partition("=")[2] for word in words if _key(word) == "run"]
    run_command(lambda: resume(named[-1] if named else None, [word for word in words if _key(word) != "run"]))


if __name__ == "__main__":
    main()
