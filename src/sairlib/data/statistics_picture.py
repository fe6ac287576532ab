"""The description of a data set as a picture. It needs matplotlib, the extra ``plots``."""

from pathlib import Path
from typing import Any

import numpy as np

from sairlib.data.dataset import Dataset, Times
from sairlib.data.ids import Ints
from sairlib.data.statistics import gini, histogram, top_share
from sairlib.errors import UserError
from sairlib.files import not_written, whole_file

_BLUE, _GREY, _RED = "#2b6ca3", "#8a8a8a", "#b5452c"
_POINTS = 1000
"""Of a curve: more cannot be seen."""
_SECONDS = (300_000_000, 10**10)
_MILLISECONDS = (300_000_000_000, 10**13)
"""What counts as a time since 1970 in these units: from 1979 to 2286. Other numbers are shown as they are."""


def require(needs: str = "picture= needs matplotlib", otherwise: str = "") -> None:
    """UserError if matplotlib is not installed: what ``needs`` it, how to get it, and what to do ``otherwise``."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(f"{needs} ({error}): pip install 'sairlib[plots]'{otherwise}") from error


def draw(data: Dataset, name: str, path: Path) -> None:
    """Write a PNG with the lengths of sequences, the popularity curve, and (if there are times) the actions over time.

    UserError if the file cannot be written, or as in ``require``.
    """
    require()
    from matplotlib.figure import Figure

    n_panels = 2 if data.times is None else 3
    figure = Figure(figsize=(5.2 * n_panels, 4.2), layout="constrained")
    panels = figure.subplots(1, n_panels)
    figure.suptitle(f"{name}: {data.n_users:,} users, {data.n_items:,} items, {len(data.items):,} actions")
    _lengths(panels[0], np.diff(data.offsets))
    _popularity(panels[1], np.bincount(data.items, minlength=data.n_items + 1)[1:])
    if data.times is not None:
        _over_time(panels[2], data.times)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    try:
        with whole_file(path) as file:
            figure.savefig(file, format="png", dpi=150)
    except OSError as error:
        raise UserError(not_written(path, error)) from error


def _lengths(panel: Any, lengths: Ints) -> None:
    bins = histogram(lengths)
    users = [row["users"] for row in bins]
    bars = panel.bar(range(len(bins)), users, width=0.9, color=_BLUE)
    panel.bar_label(bars, [f"{n:,}" for n in users], fontsize=7, color=_GREY, padding=1)
    names = [f"{row['from']:,}" if row["from"] == row["to"] else f"{row['from']:,}-{row['to']:,}" for row in bins]
    panel.set_xticks(range(len(bins)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    middle = float(np.median(lengths))
    panel.set(title=f"Length of sequences (median {middle:,.0f})", xlabel="actions of a user", ylabel="users")
    _thousands(panel.yaxis)


def _popularity(panel: Any, counts: Ints) -> None:
    shares = np.concatenate([[0.0], np.cumsum(np.sort(counts)[::-1]) / counts.sum()])
    at = np.unique(np.linspace(0, len(counts), _POINTS).round().astype(np.int64))
    panel.plot(100 * at / len(counts), 100 * shares[at], color=_BLUE, linewidth=2)
    panel.plot([0, 100], [0, 100], color=_GREY, linewidth=1, linestyle="--")
    panel.text(76, 70, "all items alike", color=_GREY, fontsize=8, va="top")
    for share in (0.01, 0.2):
        part = top_share(counts, share)
        panel.plot(100 * share, 100 * part, "o", color=_RED)
        label = panel.text(100 * share + 3, 100 * part - 1, f"{share:.0%} of the items: {part:.0%} of the actions")
        label.set(fontsize=8, va="top", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    panel.set(xlim=(0, 100), ylim=(0, 101), xlabel="items, most popular first, %", ylabel="actions, %")
    panel.set_title(f"Popularity (Gini {gini(counts):.2f})")


def _over_time(panel: Any, times: Times) -> None:
    first, last = times.min(), times.max()
    counts, edges = np.histogram(times, 60, (float(first), float(max(last, first + 1))))
    dates = _dates(edges, float(first), float(last))
    panel.stairs(counts, edges if dates is None else dates, fill=True, color=_BLUE)
    panel.set(title="Actions over time", ylabel="actions")
    panel.set_xlabel("time, in the data's unit" if dates is None else "date (UTC)")
    if dates is not None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=3, maxticks=7)
        panel.xaxis.set_major_locator(locator)
        panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    _thousands(panel.yaxis)


def _dates(edges: Any, first: float, last: float) -> Any:
    """The times as dates; None if they are neither seconds nor milliseconds since 1970."""
    for (low, high), per_second in ((_SECONDS, 1), (_MILLISECONDS, 1000)):
        if low <= first <= last < high:
            return (edges * 1000 / per_second).astype("datetime64[ms]")
    return None


def _thousands(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
