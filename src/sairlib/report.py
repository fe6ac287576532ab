"""The results of a run as the person at the terminal and the files get them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.evaluator import Evaluator, Ranks


def results(evaluator: Evaluator, ranks: dict[str, Ranks], split: Split, best_epoch: int) -> dict[str, Any]:
    """The content of ``test.json``: a group of metrics for each ranking, 95 % intervals beside, and the hashes."""
    ks = evaluator.settings.ks
    return {
        **{name: ranked.means(ks) for name, ranked in ranks.items()},
        "ci95": {name: ranked.intervals(ks) for name, ranked in ranks.items()},
        "tie_share": {name: ranked.tie_share for name, ranked in ranks.items()},
        "n_users": len(split.eval_users),
        "best_epoch": best_epoch,
        "split_sha256": split.sha256(),
        "candidates_sha256": evaluator.drawn.sha256() if evaluator.drawn else None,
    }


def table(found: dict[str, Any]) -> str:
    """Metrics down, rankings across, each figure with its interval."""
    rankings = list(found["ci95"])
    lines = ["test".ljust(10) + "".join(f"{name:<28}" for name in rankings)]
    for metric in found[rankings[0]]:
        cells = (
            f"{found[r][metric]:.4f} [{found['ci95'][r][metric][0]:.4f}, {found['ci95'][r][metric][1]:.4f}]"
            for r in rankings
        )
        lines.append(metric.ljust(10) + "".join(f"{cell:<28}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def save_ranks(path: Path, ranks: dict[str, Ranks], split: Split) -> None:
    """Every user's ranks, with the ids of the file, so that two runs can be compared user by user.

    Arrays: ``user`` (U) and, for each ranking, ``NAME_better`` and ``NAME_tied`` (U): rank = 1 + better + tied / 2.
    """
    arrays = {"user": split.dataset.user_ids[split.eval_users]}
    for name, ranked in ranks.items():
        arrays |= {f"{name}_better": ranked.better_U, f"{name}_tied": ranked.tied_U}
    partial = path.with_name(path.name + ".tmp")
    try:
        with open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes arrays for allow_pickle
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"could not write {path} ({error.strerror or error})") from error
    finally:  # there after a failure only
        with suppress(OSError):
            partial.unlink()
