"""The description of a data set as text."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

BAR = 40
"""Characters of the longest bar."""
_ROWS = {
    "users": ("users", ",.0f"),
    "items": ("items", ",.0f"),
    "actions": ("actions", ",.0f"),
    "categories": ("categories", ",.0f"),
    "average_length": ("average length", ",.2f"),
    "sparsity": ("sparsity, %", ".2f"),
}


def text(described: dict[str, Any]) -> str:
    """What ``sairlib.describe.describe`` returns, for people."""
    blocks = [_sizes(described), _lengths(described["lengths"]), _split(described["split"])]
    blocks += [_popularity(described["popularity"]), _ties(described["ties"]), _filters(described)]
    blocks.append("\n".join(f"note: {note}" for note in described["notes"]))
    return "\n\n".join(block for block in blocks if block)


def _sizes(described: dict[str, Any]) -> str:
    published = described["published"] or {}
    lines = [f"{described['dataset']:<16}{'here':>14}{published.get('source', ''):>22}"]
    for name, (label, form) in _ROWS.items():
        other = format(published[name], form) if name in published else ""
        lines.append(f"{label:<16}{format(described['sizes'][name], form):>14}{other:>22}".rstrip())
    return "\n".join(line.rstrip() for line in lines)


def _lengths(lengths: dict[str, Any]) -> str:
    bins = lengths["histogram"]
    most, total = max(row["users"] for row in bins), sum(row["users"] for row in bins)
    lines = ["actions of a user" + f"{'users':>15}"]
    for row in bins:
        name = f"{row['from']:,}" if row["from"] == row["to"] else f"{row['from']:,} - {row['to']:,}"
        bar = "#" * -(-BAR * row["users"] // most)  # rounded up: who is there is seen
        lines.append(f"{name:>17}{row['users']:>15,} {row['users'] / total:>6.1%} {bar}".rstrip())
    of = ", ".join(f"{share} {value:,}" for share, value in lengths["quantiles"].items())
    return "\n".join([*lines, f"quantiles: {of}"])


def _split(split: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"split {split['name']}: {split['evaluated']:,} users are evaluated",
            f"  {split['too_few_actions']:,} users have too few actions for that: all their actions train",
            f"  {split['single_training_action']:,} of the evaluated have a single training action: nothing to predict",
            f"  {split['longer_than_max_len']:,} users have more than max_len={split['max_len']} training actions",
        ]
    )


def _popularity(popularity: dict[str, Any]) -> str:
    curve = ", ".join(f"{share} {part:.1%}" for share, part in popularity["top"].items())
    return (
        f"share of the actions by the most popular items: {curve}; Gini {popularity['gini']:.3f}\n"
        f"  {popularity['items_under_5']:,} items have fewer than 5 actions, {popularity['items_once']:,} a single one"
    )


def _ties(ties: dict[str, Any] | None) -> str:
    if ties is None:
        return "no times: a user's actions are in the order of the file"
    return (
        f"ties in time: {ties['actions']:,} actions have the time of another one of the same user\n"
        f"  among them {held_out_ties(ties)},\n"
        f"  of {ties['users']:,} users: the order in the file decided, another one may hold out other items"
    )


def held_out_ties(ties: dict[str, Any]) -> str:
    """How many held-out items the order of ties decided; ``ties`` as from ``statistics.ties``."""
    return " and ".join(
        f"{ties[part]['tied']:,} of {ties[part]['targets']:,} {part} items ({_share(**ties[part])})"
        for part in ("validation", "test")
    )


def _share(tied: int, targets: int) -> str:
    return f"{tied / targets:.1%}" if targets else "-"


def _filters(described: dict[str, Any]) -> str:
    steps = described["filters"]
    lines = [_row("configured filters", *("users", "items", "actions")), *_counts(steps)]
    for before, after in pairwise(steps):
        lost = ", ".join(f"{before[name] - after[name]:,} {name}" for name in ("users", "items", "actions"))
        lines.append(f"  {after['filter']} drops {lost}")
    return "\n".join(
        [*lines, _row("others would leave", *("users", "items", "actions")), *_counts(described["possible"])]
    )


def _counts(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield _row(f"  {row['filter']}", *(f"{row[name]:,}" for name in ("users", "items", "actions")))


def _row(name: str, *cells: str) -> str:
    return f"{name:<28}" + "".join(f"{cell:>14}" for cell in cells)
