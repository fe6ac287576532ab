"""Pictures of finished runs, by matplotlib (the optional extra ``plots``)."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sairlib.errors import UserError
from sairlib.files import not_written, whole_file
from sairlib.run.collected import System

POOL, KEPT = "model.n_interests", "model.top_k"


def curves(path: Path, systems: Sequence[System], figure: str) -> None:
    """Write a PNG of ``figure`` (ranking/metric) on validation by epoch: a line for each run, a colour for each system.

    UserError if no run has the figure.
    """
    plot = _pyplot()
    picture, axes = plot.subplots(figsize=(8, 5), layout="constrained")
    drawn = False
    for number, system in enumerate(systems):
        for first, run in enumerate(system.runs):
            points = [(epoch, figures[figure]) for epoch, figures in run.curve if figure in figures]
            drawn = drawn or bool(points)
            label = system.name if first == 0 else None
            axes.plot(*zip(*points, strict=True), color=f"C{number % 10}", label=label, linewidth=1.2, alpha=0.8)
    if not drawn:
        raise UserError(f"no run has the validation figure {figure}")
    datasets = sorted({system.runs[0].dataset for system in systems})
    axes.set(xlabel="epoch", ylabel=f"validation {figure}", title=", ".join(datasets))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    _save(path, plot, picture)


def heat_map(path: Path, systems: Sequence[System], ranking: str, metric: str) -> None:
    """Write a PNG of the mean figure over seeds by L (rows) and K (columns), of systems that differ in these alone.

    UserError if there are not several L or K, or several systems with the same.
    """
    cells: dict[tuple[int, int], float] = {}
    for system in systems:
        settings = system.runs[0].settings
        if POOL not in settings or KEPT not in settings:
            continue
        at = (int(settings[POOL]), int(settings[KEPT]))
        if at in cells:
            raise UserError(f"two systems have L = {at[0]} and K = {at[1]}: give runs that differ in L and K alone")
        cells[at] = float(np.mean(system.figures(ranking, metric)))
    pools, kept = sorted({pool for pool, _ in cells}), sorted({k for _, k in cells})
    if len(cells) < 2:
        raise UserError("a heat map needs runs of SAIR with several L or K")
    values = np.array([[cells.get((pool, k), np.nan) for k in kept] for pool in pools])
    plot = _pyplot()
    picture, axes = plot.subplots(figsize=(1.6 + 0.9 * len(kept), 1.6 + 0.7 * len(pools)), layout="constrained")
    image = axes.imshow(values, cmap="viridis", aspect="auto", origin="lower")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value < middle else "black"
            axes.text(column, row, f"{value:.4f}", ha="center", va="center", color=colour, fontsize="small")
    axes.set(xticks=range(len(kept)), xticklabels=kept, yticks=range(len(pools)), yticklabels=pools)
    axes.set(xlabel="K, interests kept", ylabel="L, interests of the pool", title=f"{ranking} {metric}")
    picture.colorbar(image)
    _save(path, plot, picture)


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install 'sairlib[plots]'") from error
    return pyplot


def _save(path: Path, plot: Any, picture: Any) -> None:
    content = io.BytesIO()
    picture.savefig(content, format="png", dpi=130, metadata={"Software": None})
    plot.close(picture)
    try:
        with whole_file(path) as file:
            file.write(content.getvalue())
    except OSError as error:
        raise UserError(not_written(path, error)) from error
