"""``python -m sairlib.evaluate run=DIR``: repeats the final evaluation of a run, with its settings or others."""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from sairlib import build
from sairlib.commands import plain_errors, run_command
from sairlib.files import write_json
from sairlib.run import report


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Rank the test targets with the run's best weights, and print the table. The run's files do not change.

    Returns the content of a ``test.json``. UserError as in ``load_run``.
    """
    test = build.load_run(Path(config.run), config, config.device).test()
    if config.output is not None:
        write_json(Path(config.output), test)
    print(report.table(test))
    return test


@hydra.main(version_base="1.3", config_path=build.CONFIG_PATH, config_name="evaluate")
def _hydra_main(config: DictConfig) -> None:
    with plain_errors():
        evaluate(config)


def main() -> None:
    """The console script ``sairlib-evaluate``."""
    run_command(_hydra_main)


if __name__ == "__main__":
    main()
