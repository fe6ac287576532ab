"""The configuration of a run that is resumed: its own, but for what its user changes."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from sairlib import configuration, stored
from sairlib.errors import UserError
from sairlib.run import changes
from sairlib.run.directory import CONFIG, WORDS, RunDirectory

_OF_THE_START = ("run_dir", "resume")
"""Words that say where and how a process was started: never taken over."""
_SEARCHPATH = "hydra.searchpath"
"""The folders of one's own settings. They are never stored, for a stranger's run may name any: give them again."""


def settings(place: RunDirectory, new_words: list[str], trust: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """The configuration to go on with, and the words that give it. ``new_words`` may change some of the stored ones.

    UserError if they change settings that a run must keep, or if the run would make objects of packages other than
    sairlib and those in ``trust``.
    """
    where = [word for word in new_words if key(word) == _SEARCHPATH]
    new_words = [word for word in new_words if key(word) not in (*_OF_THE_START, _SEARCHPATH)]
    old_words = stored.words_of(place.path, (*_OF_THE_START, *map(key, where)))
    changed = {key(word) for word in new_words}
    words = [*(word for word in old_words if key(word) not in changed), *new_words]
    config = _composed([*where, *words], place.path)
    stored.check(config, place.path / WORDS, trust)
    if (place.path / CONFIG).is_file():
        before, given = changes.read(place.path / CONFIG), _flat(config)
        differing = changes.differences(before, given)
        if differing:
            unchanged = _flat(_composed([*where, *old_words], place.path))
            asked = {name for name, (_, new) in differing.items() if new != unchanged.get(name, changes.ABSENT)}
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
    config = configuration.compose(words)
    config.run_dir = configuration.literal(str(directory))
    return config


def command(words: Sequence[str], directory: Path) -> str:
    """The command that resumes the run in ``directory`` with these words, to be pasted into a shell."""
    quoted = QuotedString(configuration.literal(str(directory)), Quote.single).with_quotes()
    return shlex.join(["python", "-m", "sairlib.train", *words, f"run_dir={quoted}", "resume=true"])


def _flat(config: DictConfig) -> dict[str, object]:
    return changes.flat(OmegaConf.to_yaml(config, resolve=True), CONFIG)


def key(word: str) -> str:
    """The setting that a word of the command line gives."""
    return word.partition("=")[0].lstrip("+~")
