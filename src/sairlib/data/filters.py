"""Filters for actions: a minimum rating, then the k-core."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sairlib.data.interactions import ITEM, RATING, USER, Interactions
from sairlib.errors import UserError


@dataclass(frozen=True)
class Filters:
    """Keeps actions rated ``min_rating`` or more; of these, the largest subset in which every user has at least
    ``user_core`` actions and every item at least ``item_core``. The defaults keep everything.

    Raises UserError for a value out of range.
    """

    min_rating: float | None = None
    user_core: int = 0
    item_core: int = 0

    def __post_init__(self) -> None:
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise UserError(f"filters.min_rating={self.min_rating}: must be a finite number, or null for no filter")
        for name, value in (("user_core", self.user_core), ("item_core", self.item_core)):
            if value < 0:
                raise UserError(f"filters.{name}={value}: must be 0 (no filter) or more")

    def apply(self, interactions: Interactions) -> Interactions:
        """The actions that pass, in the same order; UserError if none does, or if ratings are needed and missing."""
        frame = interactions.frame
        if self.min_rating is not None:
            if RATING not in frame:
                raise UserError(f"filters.min_rating={self.min_rating}: {interactions.source} has no ratings")
            frame = self._keep(interactions, frame, (frame[RATING] >= self.min_rating).to_numpy(), "min_rating")
        if max(self.user_core, self.item_core) > 1:
            core = k_core(frame[USER].to_numpy(), frame[ITEM].to_numpy(), self.user_core, self.item_core)
            frame = self._keep(interactions, frame, core, "user_core and item_core")
        if frame is interactions.frame:
            return interactions
        return replace(interactions, frame=frame)

    def _keep(
        self, interactions: Interactions, frame: pd.DataFrame, keep: NDArray[np.bool_], cause: str
    ) -> pd.DataFrame:
        if not keep.any():
            raise UserError(
                f"{interactions.source}: nothing is left of {len(interactions):,} interactions after {cause}; lower"
                f" filters.min_rating={self.min_rating}, user_core={self.user_core} or item_core={self.item_core}"
            )
        return frame if keep.all() else frame[keep].reset_index(drop=True)


def k_core(users: NDArray[np.int64], items: NDArray[np.int64], user_core: int, item_core: int) -> NDArray[np.bool_]:
    """Mask (one boolean for each action) of the largest subset in which every user has ``user_core`` actions and every
    item ``item_core``. Repeated actions count."""
    return core_of_codes(pd.factorize(users)[0], pd.factorize(items)[0], user_core, item_core)


def core_of_codes(
    user_codes: NDArray[np.intp], item_codes: NDArray[np.intp], user_core: int, item_core: int
) -> NDArray[np.bool_]:
    """``k_core`` of users and items that are numbered from 0; numbers may be missing."""
    mask = np.ones(len(user_codes), bool)
    while True:
        enough = np.ones(len(user_codes), bool)
        for codes, core in ((user_codes, user_core), (item_codes, item_core)):
            counts = np.bincount(codes) if core > 1 else np.zeros(1, np.intp)
            too_rare = (counts > 0) & (counts < core)
            if too_rare.any():  # looking every action up takes longer than counting
                enough &= ~too_rare[codes]
        if enough.all():
            return mask
        # Dropping a user may make an item too rare, and the other way round: repeat on what remains.
        mask[mask] = enough
        user_codes, item_codes = user_codes[enough], item_codes[enough]
