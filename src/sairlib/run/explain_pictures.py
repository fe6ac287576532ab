"""What ``explained`` finds, as PNG pictures, by matplotlib (the optional extra ``plots``)."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from sairlib.data.statistics_picture import require as require
from sairlib.evaluation.metrics import Floats
from sairlib.run.explain_text import cut
from sairlib.run.explained import AttentionFigures, InterestFigures, Person
from sairlib.run.list_files import shown

_BLUE, _GREY, _RED = "#2b6ca3", "#8a8a8a", "#b5452c"
_SHADES = "viridis"
_TITLE, _LABEL = 34, 18
"""Letters of an item's title beside a picture, and of an interest's name below one; longer ones are cut."""
_LEAST, _MOST = 0.02, 8
"""Share of the weight that an interest needs for a place in a legend, and how many get one."""


def person(one: Person, labels_L: Sequence[str] = (), newest: int = 30) -> bytes:
    """One person's newest steps: relevance before and after the interaction, and the weights of what is kept.

    ``labels_L`` names the interests; without it, their numbers do. A model without interests: what the newest step
    attends to.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    start = max(0, len(one.names) - newest)
    n_steps, size = len(one.names) - start, one.before_NL.shape[1]
    height = 1.5 + 0.21 * n_steps + (0.9 if labels_L else 0.3)
    head = f"user {shown(one.id)}: the newest {n_steps} of {one.n_actions:,} actions, oldest first"
    if not size:
        figure = Figure(figsize=(5 + 0.8 * len(one.attention), height), layout="constrained")
        panel = figure.subplots()
        image = _heat(panel, np.stack(list(one.attention.values()), 1)[start:], list(one.attention))
        panel.set_title("attention of the newest step", fontsize=10)
        _steps(panel, one.names[start:])
        figure.colorbar(image, ax=panel, ticks=MaxNLocator(5)).ax.tick_params(labelsize=8)
        figure.suptitle(head, fontsize=11)
        return _png(figure)
    width = 0.9 + 0.28 * min(size, 10) + 0.18 * min(max(0, size - 10), 30)
    figure = Figure(figsize=(4.6 + 2 * width + 3.2, height), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True, width_ratios=[width, width, 3.2])
    before_NL, after_NL = one.before_NL[start:], one.after_NL[start:]
    kept_NK, weights_NK = one.kept_NK[start:], one.weights_NK[start:]
    names = [cut(label, _LABEL) for label in labels_L] or [str(number) for number in range(size)]
    highest = float(max(before_NL.max(), after_NL.max()))
    for panel, values_NL, title in zip(
        panels, (before_NL, after_NL), ("before the interaction", "after it (o: kept)"), strict=False
    ):
        image = _heat(panel, values_NL, names, highest)
        panel.set_title(title, fontsize=10)
    if kept_NK.shape[1] < size:
        steps_N1 = np.broadcast_to(np.arange(n_steps)[:, None], kept_NK.shape)
        panels[1].plot(kept_NK.ravel(), steps_N1.ravel(), "o", color="white", mec="black", mew=0.6, ms=4.5)
    _steps(panels[0], one.names[start:])
    bar = figure.colorbar(image, ax=panels[:2].tolist(), location="bottom", shrink=0.5, aspect=40, ticks=MaxNLocator(5))
    bar.ax.tick_params(labelsize=8)
    bar.set_label("relevance, softmax (shades by its square root)", fontsize=8)
    _weights(panels[2], kept_NK, weights_NK, names)
    figure.suptitle(head, fontsize=11)
    return _png(figure)


def along(figures: InterestFigures, labels_L: Sequence[str]) -> bytes:
    """Over all people, step by step from the oldest item of the window: entropy, changes, and shares of the weight."""
    from matplotlib.figure import Figure

    steps = figures.along
    few = steps.people_N < max(2, 0.02 * figures.n_people)  # of so few, a mean is noise
    end = int(few.argmax()) if few.any() else len(few)
    at = np.arange(end)
    size = len(labels_L)
    figure = Figure(figsize=(14, max(4.2, 1.6 + 0.2 * size)), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=[1, 1, 1.5])
    panels[0].plot(at, steps.before_N[:end], color=_GREY, label="before the interaction")
    panels[0].plot(at, steps.after_N[:end], color=_BLUE, label="after it")
    panels[0].set(ylim=(0, 1.02), ylabel="entropy of the relevance (1: all alike)", title="Concentration")
    panels[0].legend(fontsize=8)
    panels[1].plot(at[1:], 100 * steps.changes_N[1:end], color=_RED)
    panels[1].set(ylabel="% of people", title="The strongest interest changes")
    panels[1].set_ylim(bottom=0)
    share_LN = 100 * steps.share_NL[:end].T
    image = panels[2].imshow(share_LN, aspect="auto", cmap=_SHADES, vmin=0, interpolation="nearest")
    panels[2].set_title("Share of the weight, %")
    panels[2].set_yticks(range(size), [cut(label, 26) for label in labels_L], fontsize=8, parse_math=False)
    figure.colorbar(image, ax=panels[2])
    for panel in panels:
        panel.set_xlabel("step, from the oldest item that the model sees")
    for panel in panels[:2]:
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{figures.n_people:,} people, {figures.n_steps:,} steps", fontsize=11)
    return _png(figure)


def attention(figures: AttentionFigures) -> bytes:
    """Mean attention by relative position, a panel for each head: the newest steps down, steps back to the left."""
    from matplotlib.figure import Figure

    n_heads, size = figures.mean_HQR.shape[:2]
    columns = min(4, n_heads)
    rows = -(-n_heads // columns)
    figure = Figure(figsize=(1 + 4.4 * columns, 0.8 + 3.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    highest = float(np.nanmax(figures.mean_HQR))
    for head, panel in enumerate(panels):
        if head >= n_heads:
            panel.set_axis_off()
            continue
        image = panel.imshow(figures.mean_HQR[head, :, ::-1], cmap=_SHADES, vmin=0, vmax=highest)
        ticks = range(size - 1, -1, -2)
        panel.set_xticks(ticks, [str(size - 1 - tick) for tick in ticks])
        panel.set_yticks(range(0, size, 2))
        panel.tick_params(labelsize=8)
        panel.set(xlabel="looks so many steps back", ylabel="step (0: the newest)")
        if n_heads > 1:
            panel.set_title(f"head {head + 1}", fontsize=10)
    figure.colorbar(image, ax=panels.tolist(), shrink=0.8)
    figure.suptitle(f"{figures.name}: mean attention of {figures.n_people:,} people", fontsize=11)
    return _png(figure)


def _heat(panel: Any, values_NX: Floats, names_X: Sequence[str], highest: float | None = None) -> Any:
    from matplotlib.colors import PowerNorm

    # Square roots: of a softmax, most values are small, and on an even scale they all look alike.
    norm = PowerNorm(0.5, 0, highest or float(values_NX.max()))
    image = panel.imshow(values_NX, aspect="auto", cmap=_SHADES, norm=norm, interpolation="nearest")
    turned = {"rotation": 90} if len(names_X) > 4 and max(map(len, names_X)) > 2 else {}
    panel.set_xticks(range(len(names_X)), names_X, fontsize=8, parse_math=False, **turned)
    return image


def _steps(panel: Any, names: Sequence[str]) -> None:
    panel.set_yticks(range(len(names)), [cut(name, _TITLE) for name in names], fontsize=8, parse_math=False)


def _weights(panel: Any, kept_NK: Any, weights_NK: Floats, names_L: Sequence[str]) -> None:
    """Bars of the weights of the kept interests, step by step, in the order of the interests."""
    from matplotlib import colormaps

    size = len(names_L)
    colours = colormaps["tab10" if size <= 10 else "tab20"] if size <= 20 else colormaps["turbo"].resampled(size)
    weights_NL = np.zeros((len(kept_NK), size))
    np.put_along_axis(weights_NL, kept_NK, weights_NK, 1)
    left_N, mean_L = np.zeros(len(kept_NK)), weights_NL.mean(0)
    in_legend = set(np.argsort(-mean_L, kind="stable")[:_MOST].tolist()) & set(
        np.flatnonzero(mean_L >= _LEAST).tolist()
    )
    for number in np.flatnonzero(weights_NL.any(0)).tolist():
        label = names_L[number] if number in in_legend else None
        panel.barh(
            range(len(kept_NK)), weights_NL[:, number], left=left_N, color=colours(number), height=1, label=label
        )
        left_N += weights_NL[:, number]
    panel.set(xlim=(0, 1))
    panel.set_title("weights of the kept interests", fontsize=10)
    panel.tick_params(axis="y", left=False)
    panel.tick_params(axis="x", labelsize=8)
    legend = panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), fontsize=8, ncols=2, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _png(figure: Any) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a title may be in any language
        figure.savefig(content, format="png", dpi=130, metadata={"Software": None})
    return content.getvalue()
