"""The results of a run, as files and as a table."""

import io
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from sairlib.data.ids import Ids
from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.metrics import Ints
from sairlib.evaluation.rankings import Ranks
from sairlib.files import not_written, whole_file
from sairlib.models.recommender import Recommender

SMALL = 2**26
"""Bytes of unpacked ranks that need no thought: of 2 million users with 2 rankings."""


def results(
    evaluator: Evaluator, model: Recommender, ranks: dict[str, Ranks], split: Split, best_epoch: int
) -> dict[str, Any]:
    """The content of ``test.json``: metrics of each ranking, their 95 % intervals, the share of ties, and hashes.

    With ``evaluation.lists`` also ``lists``: their length ``k``, and metrics of the lists that the model recommends.
    """
    ks, k = evaluator.settings.ks, evaluator.settings.lists
    lists = {"lists": {"k": k, **evaluator.list_metrics(model)}} if k else {}
    return {
        **{name: ranked.means(ks) for name, ranked in ranks.items()},
        "ci95": {name: ranked.intervals(ks, split.test.users_E) for name, ranked in ranks.items()},
        "tie_share": {name: ranked.tie_share for name, ranked in ranks.items()},
        **lists,
        "n_users": len(np.unique(split.test.users_E)),
        "n_targets": len(split.test),
        "best_epoch": best_epoch,
        "split_sha256": split.sha256(),
        "candidates_sha256": evaluator.drawn.sha256() if evaluator.drawn else None,
    }


def table(test: dict[str, Any]) -> str:
    """The content of ``test.json`` as text: a row for each metric, a column for each ranking, with intervals; then the
    metrics of lists, if there are any."""
    rankings = list(test["ci95"])
    lines = ["test".ljust(10) + "".join(f"{name:<28}" for name in rankings)]
    for metric in test[rankings[0]]:
        cells = (
            f"{test[name][metric]:.4f} [{test['ci95'][name][metric][0]:.4f}, {test['ci95'][name][metric][1]:.4f}]"
            for name in rankings
        )
        lines.append(metric.ljust(10) + "".join(f"{cell:<28}" for cell in cells))
    if "lists" in test:
        lines += ["", f"lists of {test['lists']['k']}"]
        lines += [f"{name:<15}{value:.4f}" for name, value in test["lists"].items() if name != "k"]
    return "\n".join(line.rstrip() for line in lines)


def save_ranks(path: Path, ranks: dict[str, Ranks], split: Split) -> None:
    """Write the ranks of all test targets, with the file's user ids, so that two runs can be compared user by user.

    Arrays: ``user`` (E) and, for each ranking, ``NAME_better`` and ``NAME_tied`` (E), as in ``Ranks``.
    ``read_ranks`` reads them, and ``Ranks.means`` gives the reported figures. UserError if the file cannot be written.
    """
    users = split.dataset.user_ids[split.test.users_E]
    arrays = {"user": users.astype(str) if users.dtype == object else users}  # fixed width: objects would be pickled
    for name, ranked in ranks.items():
        arrays |= {f"{name}_better": ranked.better_E, f"{name}_tied": ranked.tied_E}
    try:
        with whole_file(path) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # the stub mistakes the arrays for allow_pickle
    except OSError as error:
        raise UserError(not_written(path, error)) from error


def read_ranks(path: str | Path) -> tuple[Ids, dict[str, Ranks]]:
    """Read the ``ranks.npz`` of a run: the file's user ids (E), and the ranks by the name of the ranking.

    UserError if the file is missing, damaged, or not a run's ranks.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} holds no ranks of a run ({'it is not a file' if path.exists() else 'no such file'})")
    try:
        with open(path, "rb") as file:
            _check_size(file)
            with np.load(file, allow_pickle=False) as arrays:
                names = [name.removesuffix("_better") for name in arrays.files if name.endswith("_better")]
                expected = {"user", *(f"{name}_{part}" for name in names for part in ("better", "tied"))}
                if set(arrays.files) != expected:  # a damaged name must not hide a ranking
                    raise ValueError(f"it holds {', '.join(sorted(arrays.files))}")
                users = _ids(arrays["user"])
                ranks = {
                    name: [_whole_numbers(arrays[f"{name}_{part}"]) for part in ("better", "tied")] for name in names
                }
        numbers = [array for pair in ranks.values() for array in pair]
        if not ranks or any(len(array) != len(users) or (array < 0).any() for array in numbers):
            raise ValueError("its arrays do not fit together, or have negative ranks")
    except Exception as error:  # a damaged zip may raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} holds no ranks of a run ({reason[:160]})") from error
    return users, {name: Ranks(better, tied) for name, (better, tied) in ranks.items()}


def _check_size(file: IO[bytes]) -> None:
    """ValueError for a small file that unpacks to much. Ranks take at least a tenth of their size."""
    n_bytes = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > max(SMALL, 100 * n_bytes):
            raise ValueError(f"{n_bytes:,} bytes that unpack to over {SMALL:,}")
    file.seek(0)


def _ids(array: Any) -> Ids:
    return array.astype(object) if array.ndim == 1 and array.dtype.kind == "U" else _whole_numbers(array)


def _whole_numbers(array: Any) -> Ints:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"an array is {array.dtype} {array.shape}")
    return np.asarray(array, np.int64)
