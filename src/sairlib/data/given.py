"""The files that a person names: one, several, or all that match a pattern."""

import glob
from collections.abc import Sequence
from pathlib import Path

from sairlib.data.source import ACTIONS, ITEMS, Source, one_line
from sairlib.errors import UserError


def locate_files(paths: Sequence[str], items: str | None, beside: str | None, root: Path) -> Source:
    """The source of these files, in this order; those that match a pattern by name.

    ``items``: the file that describes the items. Without it, one beside the first file that has its name but the ending
    ``beside`` is taken, if it is there. A file that is not there may lie in ``root`` under its bare name: data may have
    moved since a run was written.

    UserError for a file that is missing or a folder, and for a pattern that nothing matches.
    """
    if not paths:
        raise UserError("dataset.path=[]: give one file at least")
    actions = [file for pattern in paths for file in _files(pattern, root, "dataset.path")]
    if items is None and beside is not None and actions[0].with_suffix(beside).is_file():
        items = str(actions[0].with_suffix(beside))
    given = {ACTIONS: actions}
    if items is not None:
        given[ITEMS] = _files(items, root, "dataset.items.path")[:1]
    return Source.of_files(given)


def _files(pattern: str, root: Path, setting: str) -> list[Path]:
    if not pattern or "\0" in pattern:
        raise UserError(f"{setting}={pattern!r}: give the path of a file")
    for place in (Path(pattern).expanduser(), root / Path(pattern).name):
        if place.is_dir():
            raise UserError(
                f"{setting}={one_line(pattern)}: a folder; name its files, such as '{one_line(pattern)}/*.csv'"
            )
        if place.exists():
            return [place.absolute()]
        found = sorted(glob.glob(str(place), recursive=True)) if glob.has_magic(pattern) else []
        files = [Path(name).absolute() for name in found if Path(name).is_file()]
        if files:
            return files
    problem = "no file matches it" if glob.has_magic(pattern) else "there is no such file"
    raise UserError(f"{setting}={one_line(pattern)}: {problem}, neither from {Path.cwd()} nor in data.root={root}")
