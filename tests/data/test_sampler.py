"""Where training's negatives come from: what is drawn, how often, and what is said of it."""

import math

import pytest
import torch

from sairlib.batch import PAD
from sairlib.data.negatives import Sampler, Unseen
from sairlib.errors import UserError

USERS, ITEMS = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 2, 2, 2, 5])
COUNTS = torch.tensor([0, 1, 3, 0, 0, 1, 0])  # of items 0 (PAD) to 6


def drawn(kind: str, n: int, popularity: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    sampler = Sampler(kind, n, popularity, Unseen(USERS, ITEMS, 2, 6), COUNTS)
    return sampler.draw(torch.tensor([1, 0]), (3, 2), torch.Generator().manual_seed(0))


def test_uniform_is_of_each_user_s_own() -> None:
    items, log_expected = drawn("uniform", 500)
    assert items.shape == (2, 3, 2, 500)
    assert set(items[0].flatten().tolist()) == {1, 3, 4, 6} and set(items[1].flatten().tolist()) == {3, 4, 5, 6}
    assert log_expected.expand(items.shape)[0, 0, 0, 0].item() == pytest.approx(math.log(500 / 4))


@pytest.mark.parametrize(
    ("kind", "popularity", "weights"),
    [
        ("shared", 1.0, [0, 1, 1, 1, 1, 1, 1]),
        ("popular", 1.0, COUNTS.tolist()),
        ("popular", 0.5, [0, 1, 3**0.5, 0, 0, 1, 0]),
        ("popular", 0.0, [0, 1, 1, 0, 0, 1, 0]),
    ],
)
def test_shared_ones_come_in_proportion_and_say_so(kind: str, popularity: float, weights: list[float]) -> None:
    n = 60_000
    items, log_expected = drawn(kind, n, popularity)
    assert items.shape == log_expected.shape == (n,)
    for item, weight in enumerate(weights):
        chance = weight / sum(weights)
        found = (items == item).float().mean().item()
        assert abs(found - chance) <= 5 * math.sqrt(chance * (1 - chance) / n), item
        if weight:
            assert log_expected[items == item].exp().mean().item() == pytest.approx(n * chance, rel=1e-4)
    assert not (items == PAD).any()


def test_a_way_to_draw_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"training\.negatives=often: choose one of uniform, shared, popular"):
        drawn("often", 1)
