"""The results of a run, as files and as a table."""

from pathlib import Path
from typing import Any

import numpy as np

from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.metrics import Ints
from sairlib.evaluation.rankings import Ranks
from sairlib.files import whole_file


def results(evaluator: Evaluator, ranks: dict[str, Ranks], split: Split, best_epoch: int) -> dict[str, Any]:
    """The content of ``test.json``: metrics of each ranking, their 95 % intervals, the share of ties, and hashes."""
    ks = evaluator.settings.ks
    return {
        **{name: ranked.means(ks) for name, ranked in ranks.items()},
        "ci95": {name: ranked.intervals(ks) for name, ranked in ranks.items()},
        "tie_share": {name: ranked.tie_share for name, ranked in ranks.items()},
        "n_users": len(split.test),
        "best_epoch": best_epoch,
        "split_sha256": split.sha256(),
        "candidates_sha256": evaluator.drawn.sha256() if evaluator.drawn else None,
    }


def table(test: dict[str, Any]) -> str:
    """The content of ``test.json`` as text: a row for each metric, a column for each ranking, with intervals."""
    rankings = list(test["ci95"])
    lines = ["test".ljust(10) + "".join(f"{name:<28}" for name in rankings)]
    for metric in test[rankings[0]]:
        cells = (
            f"{test[name][metric]:.4f} [{test['ci95'][name][metric][0]:.4f}, {test['ci95'][name][metric][1]:.4f}]"
            for name in rankings
        )
        lines.append(metric.ljust(10) + "".join(f"{cell:<28}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def save_ranks(path: Path, ranks: dict[str, Ranks], split: Split) -> None:
    """Write the ranks of all test targets, with the file's user ids, so that two runs can be compared user by user.

    Arrays: ``user`` (E) and, for each ranking, ``NAME_better`` and ``NAME_tied`` (E), as in ``Ranks``.
    ``read_ranks`` reads them, and ``Ranks.means`` gives the reported figures. UserError if the file cannot be written.
    """
    arrays = {"user": split.dataset.user_ids[split.test.users_E]}
    for name, ranked in ranks.items():
        arrays |= {f"{name}_better": ranked.better_E, f"{name}_tied": ranked.tied_E}
    try:
        with whole_file(path) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # the stub mistakes the arrays for allow_pickle
    except OSError as error:
        raise UserError(f"could not write {path} ({error.strerror or error})") from error


def read_ranks(path: Path) -> tuple[Ints, dict[str, Ranks]]:
    """Read the ``ranks.npz`` of a run: the file's user ids (E), and the ranks by the name of the ranking.

    UserError if the file is missing, damaged, or not a run's ranks.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = [name.removesuffix("_better") for name in arrays.files if name.endswith("_better")]
            return arrays["user"], {name: Ranks(arrays[f"{name}_better"], arrays[f"{name}_tied"]) for name in names}
    except Exception as error:  # a damaged zip may raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} holds no ranks of a run ({reason})") from error
