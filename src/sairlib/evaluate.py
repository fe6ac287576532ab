"""``python -m sairlib.evaluate run=DIR``: a finished run's final evaluation again, as it was or with other settings."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from sairlib import build, report
from sairlib.commands import CONFIG_PATH, plain_errors, run_command
from sairlib.data.split import Part
from sairlib.runlog import write_json


def evaluate(config: DictConfig) -> dict[str, object]:
    """Rank the test items with the run's best weights. The run's own files stay as they are."""
    run = build.load_run(Path(config.run), config, config.device)
    found = report.results(run.evaluator, run.evaluator.rank(run.model, Part.TEST), run.split, run.best_epoch)
    if config.output is not None:
        write_json(Path(config.output), found)
    print(report.table(found))
    return found


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="evaluate")
def _hydra_main(config: DictConfig) -> None:
    with plain_errors():
        evaluate(config)


def main() -> None:
    """The console script ``sairlib-evaluate``."""
    run_command(_hydra_main)


if __name__ == "__main__":
    main()
