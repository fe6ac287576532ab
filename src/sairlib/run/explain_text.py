"""What ``explained`` finds, as lines for people, and as plain values for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sairlib.run.explained import AttentionFigures, InterestFigures, Interval, Person
from sairlib.run.interest_names import Clicked, InterestName, Near
from sairlib.run.list_files import shown

LEAST_SHARE = 0.005
"""Of the weight: interests with less are in figures.json alone."""
_NAME = 36
"""Letters of a name among others."""


def person(one: Person, newest: int = 30) -> str:
    """One person's newest steps, oldest first, a line each: the title, and the weights of the kept interests.

    A model without interests: with what weight the newest step attends to each.
    """
    n_shown = min(newest, len(one.names))
    seen = "" if len(one.names) == one.n_actions else f", of which the model sees the newest {len(one.names):,}"
    lines = [f"user {shown(one.id)}, after {one.n_actions:,} action{'s' * (one.n_actions != 1)}{seen}:"]
    width = max(len(shown(name)) for name in one.names[-n_shown:])
    has_interests = one.kept_NK.shape[1] > 0
    told = "kept interests and their weights" if has_interests else "  ".join(one.attention)
    lines.append(f"{'step':>5}  {'item':<{width}}  {told}")
    for step in range(len(one.names) - n_shown, len(one.names)):
        if has_interests:
            pairs = sorted(zip(one.weights_NK[step], one.kept_NK[step], strict=True), reverse=True)
            told = " ".join(f"{interest}:{weight:.2f}" for weight, interest in pairs if weight >= 0.005)
        else:
            told = "  ".join(f"{weights[step]:{len(name)}.3f}" for name, weights in one.attention.items())
        lines.append(f"{step - len(one.names) + 1:>5}  {shown(one.names[step]):<{width}}  {told}")
    return "\n".join(lines)


def interests(figures: InterestFigures, names: Sequence[InterestName]) -> str:
    """How interests are used over all people, and what each of them seems to be about."""
    lines = [f"interests over {figures.n_people:,} people, {figures.n_steps:,} steps (95 % intervals over people)"]
    rows = [
        ("entropy of the relevance before the interaction", figures.before, 1.0, ""),
        ("the same after it", figures.after, 1.0, ""),
        ("difference, person by person", figures.difference, 1.0, ""),
        ("the same with every step's spread made equal", figures.standardised, 1.0, ""),
        ("effective number of interests of one person", figures.effective_of_one, 1.0, ""),
    ]
    if figures.changes is not None:
        rows.append(("steps at which the strongest interest changes", figures.changes, 100.0, " %"))
    lines += [f"  {name:<48} {_interval(value, times)}{unit}" for name, value, times, unit in rows]
    lines.append(f"  {'effective number of interests over all':<48} {figures.effective:.2f} of {len(figures.share_L)}")
    if figures.difference == Interval(0.0, 0.0, 0.0):
        lines.append("  (the model has no interaction: before and after are the same)")
    order = np.argsort(-figures.share_L, kind="stable")
    told = order[figures.share_L[order] >= LEAST_SHARE].tolist()
    for number in told:
        share, strongest = 100 * figures.share_L[number], 100 * figures.strongest_L[number]
        lines.append(f"interest {number}: {share:.1f} % of the weight, strongest at {strongest:.1f} % of the steps")
        name = names[number]
        near = [_nears(named) for named in (name.near_categories, name.near_items) if named]
        clicked = [_clicks(named) for named in (name.next_categories, name.next_items) if named]
        lines += [f"  near          {text}" for text in near]
        lines += [f"  clicked next  {text}" for text in clicked]
    if len(told) < len(order):
        rest = 100 * (1 - figures.share_L[told].sum())
        lines.append(f"the other {len(order) - len(told)}: {rest:.1f} % of the weight together")
    return "\n".join(lines)


def attention(figures: Sequence[AttentionFigures]) -> str:
    """Where the newest step of each attention looks, a line for each, mean over heads and people."""
    lines = [f"attention of the newest step, mean over {figures[0].n_people:,} people and the heads"]
    for one in figures:
        itself, near, far = (
            100 * one.newest_HR.mean(0)[rows].sum() for rows in (slice(1), slice(1, 5), slice(5, None))
        )
        older = max(0.0, 100 - itself - near - far)
        lines.append(
            f"  {one.name:<12} {itself:5.1f} % on itself, {near:5.1f} % on the 4 before, {far:5.1f} % on the"
            f" {one.newest_HR.shape[1] - 5} before these, {older:5.1f} % on older ones"
        )
    return "\n".join(lines)


def plain(
    interests: InterestFigures | None, names: Sequence[InterestName], attentions: Sequence[AttentionFigures]
) -> dict[str, Any]:
    """All figures as values that JSON can hold: the content of ``figures.json``. NaN is null."""
    found: dict[str, Any] = {"interests": None}
    if interests is not None:
        found["interests"] = {key: value for key, value in asdict(interests).items() if key != "next_LM"}
        found["interests"]["names"] = [asdict(name) for name in names]
    found["attention"] = [asdict(one) for one in attentions]
    values: dict[str, Any] = _jsonable(found)
    return values


def cut(text: str, letters: int) -> str:
    """A name in one line of printable characters, and of at most so many."""
    text = shown(text)
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(inner) for key, inner in value.items()}
    if hasattr(value, "_asdict"):
        return _jsonable(value._asdict())
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


def _interval(value: Interval, times: float = 1.0) -> str:
    digits = 1 if times == 100 else 4
    mean, low, high = (f"{times * number:.{digits}f}" for number in value)
    return f"{mean} [{low}, {high}]"


def _nears(named: Sequence[Near]) -> str:
    return ", ".join(f"{cut(name, _NAME)} ({cosine:+.2f})" for name, cosine in named)


def _clicks(named: Sequence[Clicked]) -> str:
    return ", ".join(f"{cut(name, _NAME)} {100 * share:.1f} % (x{lift:.2f})" for name, share, lift in named)
