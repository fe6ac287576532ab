"""One job of ``python -m sairlib.train``: a run, or one of the runs of a grid."""

import shlex
import sys
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sairlib import build, grid, processes, stored
from sairlib.commands import plain_errors
from sairlib.configuration import user_errors
from sairlib.errors import UserError
from sairlib.resume import resume
from sairlib.run import distributed
from sairlib.run.directory import CONFIG, RunDirectory, holds_run
from sairlib.run.median import MedianRule


def run(config: DictConfig) -> float | None:
    """Train as the words of the command line say. In a grid None, if the job failed. Otherwise as ``train``."""
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


def train(config: DictConfig, directory: Path, rule: MedianRule | None = None) -> float:
    """Train and test one model. The test split is evaluated once, after training, with the weights validation chose.

    ``rule`` may end the training of a job of a grid early. Returns the best VALIDATION figure of ``training.monitor``:
    a search over settings must not see test figures.
    """
    distributed.join()
    directory = processes.first_s(directory)  # its default name is drawn at random
    job = HydraConfig.get()
    in_grid, words = job.mode == RunMode.MULTIRUN, grid.words_of_job()
    mode = "auto" if in_grid else build.resume_mode(config)  # a grid goes on where it was ended
    if mode == "true" or (mode == "auto" and holds_run(directory)):
        where = [word for word in job.overrides.hydra if word.startswith("hydra.searchpath=")]
        return resume(directory, [*where, *words], stored.packages(config), rule).validation[config.training.monitor]
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
        return study.run_in(place, rule).validation[config.training.monitor]


def _directory(config: DictConfig) -> Path:
    """The directory of this run or job. UserError for a new name where the run in it is to be resumed."""
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
