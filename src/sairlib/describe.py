"""Describe a data set: nothing is trained.

    python -m sairlib.data dataset=NAME [SETTING=VALUE ...]      (or: sairlib-data)

Examples:
    python -m sairlib.data dataset=ml-1m
    python -m sairlib.data dataset=ml-100k dataset.filters.user_core=5 dataset.filters.item_core=5 picture=ml-100k.png

It prints the sizes, the lengths of sequences, how popular the items are, how many held-out items depend on the order of
actions with the same time, what the filters drop, and what others would leave.

Settings: dataset, split, data.root and max_len, as for sairlib.train; output (a JSON file for the figures), picture (a
PNG file; needs matplotlib: pip install 'sairlib[plots]').
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sairlib.commands import options, plain_errors, run_command, whole_start
from sairlib.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class DescribeSettings:
    """The settings at the top level of ``describe.yaml``. UserError for a value out of range."""

    max_len: int
    output: str | None
    picture: str | None

    def __post_init__(self) -> None:
        if not 1 <= self.max_len < 2**31:
            raise UserError(f"max_len={self.max_len}: must be 1 or more, and less than 2^31")
        for name, value in (("output", self.output), ("picture", self.picture)):
            if value is not None and not Path(value).absolute().parent.is_dir():  # now, not after the data was read
                raise UserError(f"{name}={value}: there is no directory {Path(value).parent}")


def describe(config: "DictConfig") -> dict[str, Any]:
    """Read the data, print its figures, and write them and the picture where ``output`` and ``picture`` say.

    The data is read from its files, not from the cache, which has only what the filters left. Returns the content of
    the JSON file. UserError if the data or a setting is bad, or a file cannot be written.
    """
    with whole_start():  # here, not above: --help must not wait for torch
        from sairlib import build, make
        from sairlib.data import statistics, statistics_filters, statistics_picture, statistics_text
        from sairlib.data.dataset import index
        from sairlib.files import write_json

    settings = make.settings(make.only(config, DescribeSettings.__dataclass_fields__), "", DescribeSettings)
    if settings.picture is not None:
        statistics_picture.require()
    parts = build.data_parts(config)
    read = parts.reader.read(parts.source)
    possible = statistics_filters.possible_filters(read)
    kept, steps = statistics_filters.apply_in_steps(read, parts.filters)
    del read  # it may be large
    split = parts.rule(index(kept))
    name = str(config.dataset.name)
    source, published = statistics.PUBLISHED.get(name, (None, {}))
    described = {
        "dataset": name,
        **statistics.describe(split, settings.max_len),
        "published": {"source": source, **published} if published else None,
        "filters": steps,
        "possible": possible,
        "notes": list(split.dataset.notes),
    }
    print(statistics_text.text(described))
    if settings.picture is not None:
        statistics_picture.draw(split.dataset, name, Path(settings.picture))
    if settings.output is not None:
        write_json(Path(settings.output), described)
    return described


def _job(config: "DictConfig") -> None:
    from sairlib.configuration import user_errors

    with plain_errors(), user_errors():
        describe(config)


def _command(words: list[str]) -> None:
    with whole_start():
        from sairlib.configuration import run_job
    run_job(_job, "describe")


def main() -> None:
    """The console script ``sairlib-data``."""
    run_command(_command, lambda: f"{__doc__}\n{options('dataset', 'split')}")


if __name__ == "__main__":
    main()
