"""Repeat the final evaluation of a run, with its settings or others. The run's files do not change.

    python -m sairlib.evaluate DIR [SETTING=VALUE ...]      (or: sairlib-evaluate)

Examples:
    python -m sairlib.evaluate outputs/2026-11-20/21-24-36 evaluation.n_candidates=500
    python -m sairlib.evaluate DIR output=again.json data.root=/data device=cpu

Settings: output (a JSON file), device, data.root, data.cache, evaluation.ks, .n_candidates, .candidates,
.candidates_seed, .full, .full_with_history, .batch_size, .passes (users: one pass for all targets of a user),
.histories (shuffled: in a random order), .histories_seed, .lists (10: also coverage, novelty, ... of lists of 10
items); what is not given is as in the run. A run may name classes of a package of yours: trust=[my_models] allows it,
for making objects of a run's choice may run any code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sairlib.commands import whole_start
from sairlib.configured import run_configured
from sairlib.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class EvaluateSettings:
    """The settings at the top level of ``evaluate.yaml``."""

    run: str
    device: str
    output: str | None
    trust: tuple[str, ...]


def evaluate(config: "DictConfig") -> dict[str, Any]:
    """Rank the test targets with the run's best weights, and print the table. The run's files do not change.

    Returns the content of a ``test.json``. UserError as in ``load_run``.
    """
    if not config.run:
        raise UserError("which run? Give its directory: python -m sairlib.evaluate DIR [evaluation.n_candidates=N ...]")
    with whole_start():  # here, not above: --help must not wait for torch
        from sairlib import build, make
        from sairlib.files import write_json
        from sairlib.run import report

    settings = make.settings(make.only(config, EvaluateSettings.__dataclass_fields__), "", EvaluateSettings)
    test = build.load_run(Path(settings.run), config, settings.device, settings.trust).test()
    if settings.output is not None:
        write_json(Path(settings.output), test)
    print(report.table(test))
    return test


def main() -> None:
    """The console script ``sairlib-evaluate``."""
    run_configured(evaluate, "evaluate", lambda: str(__doc__))


if __name__ == "__main__":
    main()
