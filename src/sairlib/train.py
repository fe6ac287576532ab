"""``python -m sairlib.train``: trains and tests a model, and writes everything into one run directory."""

import shlex
import sys
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sairlib import build
from sairlib.commands import plain_errors, run_command
from sairlib.resume import resume
from sairlib.run.study import state_to_resume


def train(config: DictConfig, directory: Path) -> float:
    """Train and test one model. The test split is evaluated once, after training, with the weights validation chose.

    Returns the best VALIDATION figure of ``training.monitor``: a search over settings must not see test figures.
    """
    state_to_resume(directory, resume=False)  # before data is read: the directory may hold another run
    job = HydraConfig.get()
    documents = {
        ".hydra/config.yaml": OmegaConf.to_yaml(config),
        ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": job})),
        ".hydra/overrides.yaml": OmegaConf.to_yaml(job.overrides.task),
    }
    study = build.study(config, shlex.join(["python", "-m", "sairlib.train", *sys.argv[1:]]), documents)
    if job.mode == RunMode.MULTIRUN:
        print(f"\njob {job.job.num}: {' '.join(job.overrides.task)}", flush=True)
    return study.run(directory).validation[config.training.monitor]


@hydra.main(version_base="1.3", config_path=build.CONFIG_PATH, config_name="train")
def _hydra_main(config: DictConfig) -> float:
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        with plain_errors():
            return train(config, directory)
    except BaseException:
        # Hydra creates the directory before anything is checked: remove it if it is empty.
        here = Path.cwd()
        for folder in (directory, *directory.parents[:2]):
            if folder not in (here, *here.parents):
                with suppress(OSError):
                    folder.rmdir()
        raise


def main() -> None:
    """The console script ``sairlib-train``. With resume=true it does what ``sairlib-resume`` does."""
    settings = {name.lstrip("+~"): value for name, _, value in (word.partition("=") for word in sys.argv[1:])}
    if settings.get("resume", "").lower() != "true":
        run_command(_hydra_main)
        return
    changes = [word for word in sys.argv[1:] if word.partition("=")[0] not in ("resume", "run_dir")]
    run_command(lambda: resume(settings.get("run_dir"), changes))


if __name__ == "__main__":
    main()
