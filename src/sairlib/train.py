"""``python -m sairlib.train``: trains and tests a model, and writes everything into one run directory."""

import shlex
import sys
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sairlib import build, processes
from sairlib.commands import plain_errors, run_command
from sairlib.errors import UserError
from sairlib.resume import resume
from sairlib.run import distributed
from sairlib.run.directory import CONFIG, RunDirectory, holds_run


def train(config: DictConfig, directory: Path) -> float:
    """Train and test one model. The test split is evaluated once, after training, with the weights validation chose.

    Returns the best VALIDATION figure of ``training.monitor``: a search over settings must not see test figures.
    """
    distributed.join()
    directory = processes.first_s(directory)  # its default name is drawn at random
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        print(f"\njob {job.job.num}: {' '.join(job.overrides.task)}", flush=True)
    mode = build.resume_mode(config)
    if mode == "true" or (mode == "auto" and holds_run(directory)):
        return resume(directory, list(job.overrides.task)).validation[config.training.monitor]
    command = shlex.join(["python", "-m", "sairlib.train", *sys.argv[1:]])
    documents = {
        ".hydra/overrides.yaml": OmegaConf.to_yaml(job.overrides.task),
        ".hydra/config.yaml": OmegaConf.to_yaml(config),
        ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": job})),
    }
    with RunDirectory(directory) as place:
        # Before the data is read: a run that is killed while it reads can be resumed.
        place.write({**documents, CONFIG: OmegaConf.to_yaml(config, resolve=True)})
        return build.study(config, command, documents).run_in(place).validation[config.training.monitor]


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


@hydra.main(version_base="1.3", config_path=build.CONFIG_PATH, config_name="train")
def _hydra_main(config: DictConfig) -> float:
    with plain_errors():
        build.check_run(config)
        directory = _directory(config)
        try:
            return train(config, directory)
        finally:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                with suppress(OSError):  # Hydra created it: it stays if there is something in it
                    directory.rmdir()


def main() -> None:
    """The console script ``sairlib-train``."""
    run_command(_hydra_main)


if __name__ == "__main__":
    main()
