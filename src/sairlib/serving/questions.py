"""What a client asks, read from a query or a body. Whatever is wrong in it is a UserError that names it."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl

from sairlib.errors import UserError

Id: TypeAlias = int | str

LARGEST_K = 1000
"""How many items an answer has at most."""


class Question(NamedTuple):
    """Recommend ``k`` items to a user of the data, or to somebody with this history (ids of items, oldest first).

    The other fields are the options of ``Run.recommend``.
    """

    user: Id | None = None
    history: tuple[Id, ...] = ()
    k: int = 10
    exclude_seen: bool = True
    candidates: tuple[Id, ...] | None = None
    category: str | None = None
    interests: bool = False


def of_query(query: str) -> Question:
    """``user=42&k=10&category=Comedy&exclude_seen=false&interests=true``; all but the user may be left out."""
    given = words(query, ("user", "k", "category", "exclude_seen", "interests"))
    if "user" not in given:
        raise UserError("which user? Give user=ID, or POST a history")
    return Question(
        user=given["user"],
        k=number("k", given.get("k", "10")),
        exclude_seen=_switch(given, "exclude_seen", "true"),
        category=given.get("category"),
        interests=_switch(given, "interests", "false"),
    )


def of_body(body: bytes) -> Question:
    """A JSON object that has ``history`` and may have the other fields of a question, but for ``user``."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"the body is not JSON: {reason}") from error
    if not isinstance(given, dict):
        raise UserError(f"the body is {_kind(given)}, not a JSON object such as {{'history': [1, 2], 'k': 10}}")
    known = [name for name in Question._fields if name != "user"]
    if set(given) - set(known):
        raise UserError(f"unknown key {shown(min(set(given) - set(known)))}: choose among {', '.join(known)}")
    if "history" not in given:
        raise UserError("no history: give a list of ids of items, oldest first; it may be empty")
    category = given.get("category")
    if category is not None and not isinstance(category, str):
        raise UserError(f"category is {_kind(category)}, not the name of one")
    return Question(
        history=_ids(given, "history"),
        k=number("k", given.get("k", 10)),
        exclude_seen=_flag(given, "exclude_seen", True),
        candidates=None if given.get("candidates") is None else _ids(given, "candidates"),
        category=category,
        interests=_flag(given, "interests", False),
    )


def words(query: str, known: tuple[str, ...]) -> dict[str, str]:
    """The words of a query by their names; UserError for one that is unknown or there twice."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise UserError(f"the query cannot be read: {error}") from error
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise UserError(f"unknown key {shown(name)}: choose among {', '.join(known)}")
        if name in found:
            raise UserError(f"{name} is given twice")
        found[name] = value
    return found


def number(name: str, value: object, largest: int = LARGEST_K) -> int:
    """A whole number from 1 to ``largest``."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise UserError(f"{name}={shown(value)}: must be a whole number from 1 to {largest}")
    return value


def shown(value: object) -> str:
    """A value for a message: not all of a long one."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _switch(given: Mapping[str, str], name: str, default: str) -> bool:
    value = given.get(name, default)
    if value not in ("true", "false"):
        raise UserError(f"{name}={shown(value)}: must be true or false")
    return value == "true"


def _flag(given: Mapping[str, Any], name: str, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise UserError(f"{name} is {_kind(value)}: must be true or false")
    return value


def _ids(given: Mapping[str, Any], name: str) -> tuple[Id, ...]:
    values = given[name]
    if not isinstance(values, list):
        raise UserError(f"{name} is {_kind(values)}, not a list of ids of items")
    for place, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise UserError(f"{name}[{place}] is {_kind(value)}, not the id of an item (a whole number, or a text)")
    return tuple(values)


def _kind(value: object) -> str:
    """What a value of JSON is, in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names[type(value)]
