"""Medians, spreads and ratios of what was measured, and the table of all results."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from harness import Answer, Bench


def summary(values: list[float]) -> list[float]:
    """Median, lowest, highest."""
    return [round(value, 3) for value in (statistics.median(values), min(values), max(values))]


def spread(timed: dict[str, list[Answer]]) -> dict[str, list[float]]:
    return {name: summary([answer["seconds"] for answer in answers]) for name, answers in timed.items()}


def ratio(timed: dict[str, list[Answer]], above: str, below: str, key: str = "seconds") -> list[float]:
    """Ratios of the times in the same round: median, lowest, highest."""
    pairs = zip(timed[above], timed[below], strict=True)
    return [round(value, 2) for value in summary([a[key] / b[key] for a, b in pairs])]


def markdown(results: Answer, rows: dict[str, Callable[[Bench], Answer]]) -> str:
    """The text of RESULTS.md: a section for each of the benchmark's ``rows`` that has been measured."""
    parts = ["# The benchmark's figures\n", "Written by `bench.py`; every figure is in `results.json`. Seconds are"]
    parts[1] += " [median, lowest, highest]; ratios are of the times within one round.\n"
    for name, measure in rows.items():
        if name not in results:
            continue
        figures = dict(results[name])
        host = figures.pop("machine")
        description = (measure.func if isinstance(measure, partial) else measure).__doc__ or ""
        parts.append(f"## {name}\n\n{' '.join(description.split())}\n")
        table = figures.pop("systems") if _is_table(figures.get("systems")) else None
        parts += [f"* {key.replace('_', ' ')}: {_plain(value)}" for key, value in figures.items()]
        git = host["git"] or {"commit": "unknown", "dirty": False}
        where = f"{host['machine']['cpu']}, {host['threads']} threads, torch {host['versions']['torch']}"
        commit = git["commit"][:7] + (" with changes" if git["dirty"] else "")
        parts.append(f"* {host['date']}, commit {commit}, {where}, load before {host['load_before']:.1f}\n")
        if table:
            columns = list(next(iter(table.values())))
            parts.append(f"| | {' | '.join(columns).replace('_', ' ')} |\n|{'---|' * (1 + len(columns))}")
            parts += [f"| {key} | {' | '.join(_plain(row[c]) for c in columns)} |" for key, row in table.items()]
            parts[-1] += "\n"
    return "\n".join(parts) + "\n"


def _is_table(value: Any) -> bool:
    rows = [list(row) for row in value.values() if isinstance(row, dict)] if isinstance(value, dict) else []
    return len(rows) > 1 and len(rows) == len(value) and all(row == rows[0] for row in rows)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    return str(value)
