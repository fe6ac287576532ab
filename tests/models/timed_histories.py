"""Small histories with times, and a check of models that look at them against their plain reading."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from model_helpers import arrays, padded, plain_score
from reference import Vector, Weights

from sairlib.batch import History
from sairlib.models.heads import ByCosines
from sairlib.models.recommender import StepModel, one_tensor

M, MAX_LEN, D = 11, 6, 8
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8], [10, 11]]
TIMES = [[10, 10, 11, 50, 10**6], [7], [0, 0, 3, 90, 4000, 10**9], [5, 10**17]]

Plain = Callable[[list[int], list[int], Weights, dict[str, Any]], list[Vector]]
"""The states of a user's items and times, by the equations."""


def shown(times: list[list[int]] | None = TIMES) -> History:
    items_BN = padded(HISTORIES)
    return History(torch.arange(len(items_BN)), items_BN, None if times is None else padded(times))


def silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def bucket(time: int) -> int:
    return min(int(np.log(max(time, 1)) / 0.301), 128)


@torch.no_grad()
def check_against_plain(model: StepModel, plain: Plain, options: dict[str, Any]) -> None:
    """Scores at every step, and those of the newest state, by cosines where ``options`` have no head."""
    weights = arrays(model)
    states_BND, newest_BM = one_tensor(model.encode(shown())), model.head.score_all(model.newest(shown()))
    for user, items in enumerate(HISTORIES):
        for t, state in enumerate(plain(items, TIMES[user], weights, options)):
            vectors = weights["encoder.item_embedding.weight"][1:]
            expected = [plain_score(options.get("head", ByCosines()), state, vector) for vector in vectors]
            actual_M = model.head.score_all(states_BND[user, t : t + 1])[0, 1:]
            np.testing.assert_allclose(actual_M.numpy(), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(newest_BM[user, 1:].numpy(), expected, rtol=1e-9, atol=1e-9)
