"""A metric of one's own."""

from sairlib.evaluation.metrics import Floats
from sairlib.evaluation.rankings import Ranks


def rank_biased(ranks: Ranks, p: float = 0.8) -> Floats:
    """Rank-biased precision of each target (E): (1 - p) p^(rank - 1), p being the patience of who reads the list.

    All orders of tied items are equally likely: the mean over the ranks better + 1 to better + tied + 1.
    """
    possible_E = ranks.tied_E + 1
    values_E: Floats = p**ranks.better_E * (1 - p**possible_E) / possible_E
    return values_E
