"""``python -m sairlib.resume run=DIR``: resume an interrupted run, or train a finished one for longer.

The run keeps the settings it was started with. Words after run=DIR change those that may change: training.epochs,
training.patience, training.eval_every, training.save_every, evaluation.batch_size, device, threads, data.root,
data.cache.
"""

import re
import shlex
import sys
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from sairlib import build
from sairlib.commands import run_command
from sairlib.errors import UserError
from sairlib.run import changes, distributed
from sairlib.run.directory import CONFIG, RunDirectory
from sairlib.run.study import Result


def resume(directory: Path, words: list[str]) -> Result:
    """Resume the run in ``directory``. ``words`` of the command line may change some of its settings.

    UserError if there is no run to resume, or if ``words`` change settings that it must keep.
    """
    distributed.join()
    with RunDirectory(directory, resume=True) as place:
        config, words = _settings(place, [word for word in words if _key(word) not in ("run_dir", "resume")])
        quoted = QuotedString(_literal(directory), Quote.single).with_quotes()
        command = shlex.join(["python", "-m", "sairlib.train", *words, f"run_dir={quoted}", "resume=true"])
        return build.study(config, command, build.words_document(words)).run_in(place)


def _settings(place: RunDirectory, new_words: list[str]) -> tuple[DictConfig, list[str]]:
    """The configuration to go on with, and the words that give it. UserError if it must not differ so."""
    old_words = [word for word in build.words_of(place.path) if _key(word) not in ("run_dir", "resume")]
    changed = {_key(word) for word in new_words}
    words = [*(word for word in old_words if _key(word) not in changed), *new_words]
    config = _composed(words, place.path)
    if (place.path / CONFIG).is_file():
        stored, given = changes.read(place.path / CONFIG), _flat(config)
        differing = changes.differences(stored, given)
        if differing:
            before = _flat(_composed(old_words, place.path))
            asked = {name for name, (_, new) in differing.items() if new != before.get(name, changes.ABSENT)}
            _keep({name: pair for name, pair in differing.items() if name not in asked}, config, place.path)
            refused = {n: pair for n, pair in differing.items() if n in asked and changes.is_refused(n, *pair)}
            changes.refuse(refused, place.path)
        old, new = differing.get("training.epochs", (0, 0))
        if old != new and place.has_state and config.training.schedule != "constant":
            print(
                f"training.schedule={config.training.schedule} ends at the last epoch: with training.epochs={new}, not"
                f" {old}, the learning rates are other ones from here on",
                flush=True,
            )
    return config, words


def _keep(differing: changes.Pairs, config: DictConfig, directory: Path) -> None:
    """Put the stored values into ``config`` where a default has changed since the run began.

    UserError if a setting or a class is no longer there: then this version cannot continue the run as it began.
    """
    kept = {name: pair for name, pair in differing.items() if pair[0] is not changes.ABSENT}
    gone = {name: pair for name, pair in kept.items() if pair[1] is changes.ABSENT or name.endswith("_target_")}
    if gone:
        listed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in list(gone.items())[:6])
        raise UserError(f"the run in {directory} is of another version of sairlib: {listed}; resume it with that one")
    for name, (old, _) in kept.items():
        OmegaConf.update(config, name, old, merge=False)
    if kept:
        listed = ", ".join(f"{name}={old} (now {new})" for name, (old, new) in kept.items())
        print(f"the run keeps what was the default when it began: {listed}", flush=True)


def _composed(words: list[str], directory: Path) -> DictConfig:
    config = build.compose(words)
    config.run_dir = _literal(directory)
    return config


def _literal(path: Path) -> str:
    """The path for a configuration, where ``${`` would begin an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", str(path))


def _flat(config: DictConfig) -> dict[str, object]:
    return changes.flat(OmegaConf.to_yaml(config, resolve=True), CONFIG)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _unquoted(text: str) -> str:
    """A directory as it was typed; or as a quoted value for Hydra, which ends with the quote it begins with."""
    quote = text[:1]
    if len(text) < 2 or quote not in ("'", '"') or text[-1] != quote:
        return text
    return re.sub(rf"(\\+)(?={quote}|$)", lambda match: match[1][: len(match[1]) // 2], text[1:-1])


def main() -> None:
    """The console script ``sairlib-resume``."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    run_command(lambda: _resume(words))


def _resume(words: list[str]) -> Result:
    runs = [word.partition("=")[2] for word in words if _key(word) == "run"]
    changed = [word for word in words if _key(word) != "run"]
    wrong = [word for word in changed if "=" not in word]
    if wrong or not runs or not runs[-1]:
        what = f"'{wrong[0]}' is not NAME=VALUE." if wrong else "which run?"
        raise UserError(f"{what} Give its directory: python -m sairlib.resume run=DIR [training.epochs=N ...]")
    return resume(Path(_unquoted(runs[-1])), changed)


if __name__ == "__main__":
    main()
