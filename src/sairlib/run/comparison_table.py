"""The table of a comparison: systems on one data set, their figures over seeds, and tests against a baseline."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sairlib.data.ids import Ids
from sairlib.errors import UserError
from sairlib.evaluation.comparison import Comparison, compare, holm
from sairlib.evaluation.metrics import Floats
from sairlib.evaluation.statistics import bootstrap_interval
from sairlib.run.collected import System

HEADER = (
    *("data", "system", "seeds", "epochs", "published", "measured", "95 % interval"),
    *("difference", "its interval", "p", "p (Holm)", "d", "smallest"),
)


@dataclass(frozen=True)
class Row:
    """A system's line of the table."""

    system: System
    published: float | None
    mean: float
    deviation: float | None
    """Standard deviation (n - 1) over seeds; None for one seed."""
    low: float
    high: float
    """95 % bootstrap interval over people, of their means over seeds."""
    compared: Comparison | None
    """With the baseline; None for the baseline itself, or without one."""
    corrected_p: float | None = None
    """``compared.p`` after Holm's correction over the table (``corrected``)."""

    def cells(self) -> tuple[str, ...]:
        runs = self.system.runs
        epochs = ", ".join(f"{run.test['best_epoch']}{'*' if run.rises else ''}" for run in runs)
        deviation = "" if self.deviation is None else f" ± {self.deviation:.4f}"
        own = (
            *(runs[0].dataset, self.system.name, str(len(runs)), epochs),
            *("" if self.published is None else f"{self.published:.4f}", f"{self.mean:.4f}{deviation}"),
            f"[{self.low:.4f}, {self.high:.4f}]",
        )
        c = self.compared
        if c is None:
            return (*own, *("",) * 6)
        return (
            *own,
            *(f"{c.difference:+.4f}", f"[{c.low:+.4f}, {c.high:+.4f}]", _p(c.p), _p(self.corrected_p or c.p)),
            *(f"{c.effect:+.3f}", f"{c.smallest:.4f}"),
        )


def rows(
    systems: Sequence[System], ranking: str, metric: str, baseline: System | None, published: Mapping[str, float]
) -> list[Row]:
    """The table of systems on one data set. ``published``: figures by the name of a system.

    UserError if the systems' splits or candidates are not the same, or a run lacks the figure.
    """
    _check_comparable(systems, ranking)
    figures = {system.name: _figures(system, ranking, metric) for system in systems}
    people = {system.name: figures[system.name][0] for system in systems}
    first = systems[0].name
    for system in systems:
        if not np.array_equal(people[system.name], people[first]):
            raise UserError(f"{first} and {system.name} were not tested on the same people")
    compared = {
        system.name: compare(figures[system.name][1], figures[baseline.name][1])
        for system in systems
        if baseline is not None and system is not baseline
    }
    made = []
    for system in systems:
        values_US = figures[system.name][1]
        low, high = bootstrap_interval(values_US.mean(1, keepdims=True))
        means = system.figures(ranking, metric)
        made.append(
            Row(
                system,
                published.get(system.name),
                statistics.fmean(means),
                statistics.stdev(means) if len(means) > 1 else None,
                float(low[0]),
                float(high[0]),
                compared.get(system.name),
            )
        )
    return made


def corrected(table: Sequence[Row]) -> list[Row]:
    """The same rows with p values after Holm's correction over all of them."""
    tested = [number for number, row in enumerate(table) if row.compared is not None]
    p_values = dict(zip(tested, holm([row.compared.p for row in table if row.compared is not None]), strict=True))
    return [replace(row, corrected_p=p_values.get(number)) for number, row in enumerate(table)]


def _figures(system: System, ranking: str, metric: str) -> tuple[Ids, Floats]:
    """People (U), and their figures with every seed (U, S)."""
    found = [run.by_person(ranking, metric) for run in system.runs]
    people = found[0][0]
    for run, (others, _) in zip(system.runs, found, strict=True):
        if not np.array_equal(people, others):
            raise UserError(f"{system.runs[0].directory} and {run.directory} were not tested on the same people")
    return people, np.stack([values for _, values in found], 1)


def _check_comparable(systems: Sequence[System], ranking: str) -> None:
    runs = [run for system in systems for run in system.runs]
    first = runs[0].measured(ranking)
    for run in runs:
        own = run.measured(ranking)
        if own == first:
            continue
        what = next(name for name in own if own[name] != first[name])
        raise UserError(
            f"{runs[0].directory} and {run.directory} have other {what} of {run.dataset}, so their figures cannot be"
            " compared: give runs of one of them"
        )


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def markdown(table: Sequence[Row]) -> str:
    """The table for GitHub and documents."""
    lines = [HEADER, tuple("---" for _ in HEADER), *(row.cells() for row in table)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_csv(table: Sequence[Row]) -> str:
    """The table with all digits, a column for each number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ("difference", "difference_low", "difference_high", "p", "p_holm", "d", "smallest")
    writer.writerow(["data", "system", "seeds", "published", "mean", "sd", "low", "high", *numbers])
    for row in table:
        c = row.compared
        tested = ("",) * 7 if c is None else (c.difference, c.low, c.high, c.p, row.corrected_p, c.effect, c.smallest)
        runs, shown = row.system.runs, (row.published, row.mean, row.deviation, row.low, row.high)
        writer.writerow([runs[0].dataset, row.system.name, len(runs), *shown, *tested])
    return text.getvalue()


def latex(table: Sequence[Row]) -> str:
    """The table for a paper, with the package booktabs."""
    lines = [" & ".join(_tex(cell) for cell in row.cells()) + r" \\" for row in table]
    head = " & ".join(_tex(name) for name in HEADER) + r" \\"
    columns = "ll" + "r" * (len(HEADER) - 2)
    begin = (rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule")
    return "\n".join([*begin, *lines, r"\bottomrule", r"\end{tabular}"])


def _tex(cell: str) -> str:
    escaped = "".join("\\" + letter if letter in "&%$#_{}" else letter for letter in cell)
    return escaped.replace("±", r"$\pm$").replace("<", "$<$").replace("*", "$^{*}$")
