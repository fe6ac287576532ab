"""What filters leave of a data set: those that are configured, step by step, and others that one might choose."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sairlib.data.filters import Filters, core_of_codes
from sairlib.data.interactions import ITEM, RATING, USER, Interactions

CORES = (5, 10, 20)
MIN_RATING = 4.0

Left = dict[str, Any]
"""What a filter leaves: its name as ``filter``, and the number of ``users``, ``items`` and ``actions``."""


def apply_in_steps(interactions: Interactions, filters: Filters) -> tuple[Interactions, list[Left]]:
    """The actions that pass ``filters``, and what each step left: all that was read, then the minimum rating, then the
    core. Steps that ``filters`` do not ask for are left out. UserError as in ``Filters.apply``."""
    steps = [_counted("none", interactions)]
    if filters.min_rating is not None:
        interactions = replace(filters, user_core=0, item_core=0).apply(interactions)
        steps.append(_counted(f"min_rating={filters.min_rating:g}", interactions))
    if max(filters.user_core, filters.item_core) > 1:
        interactions = replace(filters, min_rating=None).apply(interactions)
        steps.append(_counted(_core_name(filters.user_core, filters.item_core), interactions))
    return interactions, steps


def possible_filters(interactions: Interactions) -> list[Left]:
    """What each of these filters alone would leave: a minimum rating of 4 (if there are ratings); every user, every
    item, and both with at least 5, 10 or 20 actions."""
    frame = interactions.frame
    users, items = (pd.factorize(frame[column].to_numpy())[0] for column in (USER, ITEM))
    found = []
    if RATING in frame:
        keep = (frame[RATING] >= MIN_RATING).to_numpy()
        found.append(_left(f"min_rating={MIN_RATING:g}", users[keep], items[keep]))
    everything = _left("", users, items)
    for of_users, of_items in ((1, 0), (0, 1), (1, 1)):
        kept_users, kept_items, left = users, items, everything
        for core in CORES:  # a larger core lies in the smaller one
            name = _core_name(of_users * core, of_items * core)
            keep = core_of_codes(kept_users, kept_items, of_users * core, of_items * core)
            if not keep.all():
                kept_users, kept_items = kept_users[keep], kept_items[keep]
                left = _left(name, kept_users, kept_items)
            found.append({**left, "filter": name})
    return found


def _core_name(user_core: int, item_core: int) -> str:
    return " ".join(f"{name}={core}" for name, core in (("user_core", user_core), ("item_core", item_core)) if core > 1)


def _counted(name: str, interactions: Interactions) -> Left:
    users, items = (interactions.frame[column].to_numpy() for column in (USER, ITEM))
    return {"filter": name, "users": len(pd.unique(users)), "items": len(pd.unique(items)), "actions": len(users)}


def _left(name: str, users: NDArray[np.intp], items: NDArray[np.intp]) -> Left:
    n_users, n_items = (int(np.count_nonzero(np.bincount(codes))) for codes in (users, items))
    return {"filter": name, "users": n_users, "items": n_items, "actions": len(users)}
