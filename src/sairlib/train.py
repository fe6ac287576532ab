"""Train and test a model, and write everything into one run directory.

    python -m sairlib.train [GROUP=OPTION ...] [SETTING=VALUE ...]     (or: sairlib-train)

Examples:
    python -m sairlib.train experiment=quickstart
    python -m sairlib.train model=sasrec dataset=ml-1m training.lr=5e-4 seed=3
    python -m sairlib.train -m seed=1,2,3 interests.top_k=3,8     every combination, one after the other

A run is written to outputs/DATE/TIME, those of -m to multirun/DATE/TIME/NUMBER; run_dir=DIR chooses another directory.
"""

from typing import TYPE_CHECKING

from sairlib.commands import options, run_command, whole_start

if TYPE_CHECKING:
    from omegaconf import DictConfig

AFTER = """
Flags:
    --cfg job       print all settings, with these words applied, and end; --resolve replaces references by their values
    -m              run all combinations of values that are separated by commas
    --hydra-help    further flags

Resume a run: python -m sairlib.resume DIR. Evaluate it again: python -m sairlib.evaluate DIR."""


def _job(config: "DictConfig") -> float | None:
    with whole_start():  # here, not above: --help and --cfg must not wait for torch
        from sairlib import job
    return job.run(config)


def _command(words: list[str]) -> None:
    with whole_start():
        from sairlib import grid
        from sairlib.configuration import run_job
    grid.conduct(lambda: run_job(_job, "train"))


def main() -> None:
    """The console script ``sairlib-train``."""
    run_command(_command, lambda: f"{__doc__}\n{options()}\n{AFTER}")


if __name__ == "__main__":
    main()
