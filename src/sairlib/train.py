"""Train and test a model, and write everything into one run directory.

    python -m sairlib.train [GROUP=OPTION ...] [SETTING=VALUE ...]     (or: sairlib-train)

Examples:
    python -m sairlib.train experiment=quickstart
    python -m sairlib.train model=sasrec dataset=ml-1m training.lr=5e-4 seed=3
    python -m sairlib.train -m seed=1,2,3 interests.top_k=3,8     every combination, one after the other

A run is written to outputs/DATE/TIME, those of -m to multirun/DATE/TIME/NUMBER; run_dir=DIR chooses another directory.
"""

import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sairlib.commands import options, plain_errors, run_command, whole_start
from sairlib.errors import UserError
from sairlib.resume import resume

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sairlib.run.median import MedianRule

AFTER = """
Flags:
    --cfg job       print all settings, with these words applied, and end; --resolve replaces references by their values
    -m              run all combinations of values that are separated by commas
    --hydra-help    further flags

Resume a run: python -m sairlib.resume DIR. Evaluate it again: python -m sairlib.evaluate DIR."""


def train(config: "DictConfig", directory: Path, rule: "MedianRule | None" = None) -> float:
    """Train and test one model. The test split is evaluated once, after training, with the weights validation chose.

    ``rule`` may end the training of a job of a grid early. Returns the best VALIDATION figure of ``training.monitor``:
    a search over settings must not see test figures.
    """
    with whole_start():  # here, not above: --help and --cfg must not wait for torch
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from sairlib import build, grid, processes, stored
        from sairlib.run import distributed
        from sairlib.run.directory import CONFIG, RunDirectory, holds_run

    distributed.join()
    directory = processes.first_s(directory)  # its default name is drawn at random
    job = HydraConfig.get()
    in_grid, words = job.mode == RunMode.MULTIRUN, grid.words_of_job()
    mode = "auto" if in_grid else build.resume_mode(config)  # a grid goes on where it was ended
    if mode == "true" or (mode == "auto" and holds_run(directory)):
        return resume(directory, words, stored.packages(config), rule).validation[config.training.monitor]
    command = shlex.join(["python", "-m", "sairlib.train", *(words if in_grid else sys.argv[1:])])
    documents = {
        ".hydra/overrides.yaml": OmegaConf.to_yaml(words),
        ".hydra/config.yaml": OmegaConf.to_yaml(config),
        ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": job})),
    }
    with RunDirectory(directory) as place:
        # Before the data is read: a run that is killed while it reads can be resumed.
        place.write({**documents, CONFIG: OmegaConf.to_yaml(config, resolve=True)})
        study = build.study(config, command, documents)
        if rule is not None:
            study.trainer.hopeless = rule.stops
        return study.run_in(place).validation[config.training.monitor]


def _directory(config: "DictConfig") -> Path:
    """The directory of this run or job. UserError for a new name where the run in it is to be resumed."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from sairlib import build

    job = HydraConfig.get()
    many = job.mode == RunMode.MULTIRUN
    mode = build.resume_mode(config)
    name, raw = "run_dir", OmegaConf.to_yaml(OmegaConf.masked_copy(config, "run_dir"))
    if many:
        name, raw = "hydra.sweep.dir", OmegaConf.to_yaml(job.sweep)
    if mode != "false" and "${unique:" in raw:
        raise UserError(f"resume={mode} needs {name}=DIR: the default name is a new one at every start")
    if not many and job.run.dir != ".":
        with suppress(OSError):  # Hydra has created it
            Path(job.runtime.output_dir).rmdir()
        raise UserError("hydra.run.dir is not used: give run_dir=DIR")
    return Path(job.runtime.output_dir if many else str(config.run_dir))


def _job(config: "DictConfig") -> float | None:
    with whole_start():
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from sairlib import build, grid
        from sairlib.configuration import user_errors

    with plain_errors(), user_errors():
        build.check_run(config)
        directory = _directory(config)
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            return train(config, directory)
        try:
            return grid.run_job(train, config, directory)
        finally:
            with suppress(OSError):  # Hydra created it: it stays if there is something in it
                directory.rmdir()


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
