"""Metrics of lists of recommendations: what a model recommends, whether it is right or not.

``items_BK`` are lists of item numbers 1..M, best first. A list may be shorter than K: PAD fills it up.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sairlib.batch import PAD
from sairlib.data.statistics import gini

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

POPULAR = 0.2
"""Share of the items that count as popular."""
_AT_ONCE = 2**23
"""Numbers held at once when the categories of lists are compared."""


def list_metrics(items_BK: Ints, users_M: Ints, n_users: int, item_categories: Ints) -> dict[str, float]:
    """All metrics of the lists, by name; ``diversity`` only if the items have categories.

    ``users_M`` (M + 1): how many of the ``n_users`` users have had each item in the training part. ``item_categories``
    (M + 1, G): category ids of each item, padded with PAD.
    """
    counts_M = np.bincount(items_BK.ravel(), minlength=len(users_M))[1:]
    metrics = {
        "coverage": coverage(counts_M),
        "gini": gini(counts_M),
        "novelty": novelty(counts_M, users_M[1:], n_users),
        "popular_share": popular_share(counts_M, users_M[1:]),
    }
    return metrics | ({"diversity": diversity(items_BK, item_categories)} if item_categories.shape[1] else {})


def coverage(counts_M: Ints) -> float:
    """Share of the M items that are recommended to anybody; ``counts_M`` (M): how often each is."""
    return float((counts_M > 0).mean())


def novelty(counts_M: Ints, users_M: Ints, n_users: int) -> float:
    """Mean over all recommendations of -log2(share of the users who have had the item), in bits; 0 without any.

    An item that nobody has had counts as if one user had.
    """
    bits_M = -np.log2(np.maximum(users_M, 1) / n_users)
    return float(counts_M @ bits_M / max(1, counts_M.sum()))


def popular_share(counts_M: Ints, users_M: Ints) -> float:
    """Share of the recommendations that are among the fifth of the items (``POPULAR``, rounded up) that most users have
    had; of equals the lower number counts as more popular. 0 without recommendations."""
    n_popular = math.ceil(round(POPULAR * len(users_M), 9))
    popular = np.argsort(-users_M, kind="stable")[:n_popular]
    return float(counts_M[popular].sum() / max(1, counts_M.sum()))


def diversity(items_BK: Ints, item_categories: Ints) -> float:
    """Intra-list diversity: the mean over lists of the mean over pairs of their items of 1 - Jaccard index.

    The Jaccard index of two items is the number of categories that both have, over the number that either has. Two
    items without categories are alike. Lists of fewer than two items do not count; 0 if there are only such lists.
    """
    n_lists, total = 0, 0.0
    width = items_BK.shape[1]
    n_categories = int(item_categories.max(initial=0))
    at_once = max(1, _AT_ONCE // max(1, width * (n_categories + width)))
    for start in range(0, len(items_BK), at_once):
        some_BK = items_BK[start : start + at_once]
        has_BKT = np.zeros((*some_BK.shape, n_categories + 1), np.float32)
        np.put_along_axis(has_BKT, item_categories[some_BK], 1.0, 2)
        has_BKT[..., PAD] = 0.0
        both_BKK = has_BKT @ has_BKT.transpose(0, 2, 1)
        sizes_BK = has_BKT.sum(2)
        either_BKK = sizes_BK[:, :, None] + sizes_BK[:, None, :] - both_BKK
        differ_BKK = 1 - np.divide(both_BKK, either_BKK, out=np.ones_like(both_BKK), where=either_BKK > 0)
        real_BK = some_BK != PAD
        differ_BKK *= real_BK[:, :, None] & real_BK[:, None, :]  # an item differs from itself by 0
        lengths_B = real_BK.sum(1)
        pairs_B = lengths_B * (lengths_B - 1)
        counts_B = pairs_B > 0
        total += float((differ_BKK.sum((1, 2), dtype=np.float64)[counts_B] / pairs_B[counts_B]).sum())
        n_lists += int(counts_B.sum())
    return total / max(1, n_lists)
