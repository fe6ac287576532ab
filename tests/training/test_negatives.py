"""Where training's negatives come from: which items are drawn, how often, and their expected counts."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_data import make_split

from sairlib.batch import PAD, Negatives
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.training.negatives import Sampler, Uniform
from sairlib.training.shared_negatives import Popular, Shared

STORE = SequenceStore(make_split([[1, 2, 2, 3, 3], [2, 5, 4, 4]], 6), 5, torch.device("cpu"))
COUNTS = [0, 1, 3, 0, 0, 1, 0]  # of items 0 (PAD) to 6 in the training part
USERS = torch.tensor([1, 0])


def draw_negatives(sampler: Sampler) -> Negatives:
    return sampler.begin(torch.Generator().manual_seed(0))(USERS, (3, 2))


def test_uniform_draws_for_each_user_among_unseen_items() -> None:
    negatives = draw_negatives(Uniform(STORE, 500))
    assert negatives.items_BNSC.shape == (2, 3, 2, 500) and not negatives.shared
    of_first, of_second = (set(items.flatten().tolist()) for items in negatives.items_BNSC)
    assert of_first == {1, 3, 4, 6} and of_second == {3, 4, 5, 6}
    log_expected = negatives.log_expected.expand(negatives.items_BNSC.shape)
    assert log_expected[0, 0, 0, 0].item() == pytest.approx(math.log(500 / 4))


@pytest.mark.parametrize(
    ("make", "weights"),
    [
        (lambda n: Shared(STORE, n), [0, 1, 1, 1, 1, 1, 1]),
        (lambda n: Popular(STORE, n, 1.0), COUNTS),
        (lambda n: Popular(STORE, n, 0.5), [0, 1, 3**0.5, 0, 0, 1, 0]),
        (lambda n: Popular(STORE, n, 0.0), [0, 1, 1, 0, 0, 1, 0]),
        (lambda n: Popular(STORE, n), [0, 1, 3**0.75, 0, 0, 1, 0]),
    ],
)
def test_shared_negatives_follow_their_weights(make: Callable[[int], Sampler], weights: list[float]) -> None:
    n = 60_000
    negatives = draw_negatives(make(n))
    assert negatives.items_BNSC.shape == (1, 1, 1, n) and negatives.shared
    items, log_expected = negatives.items_BNSC.flatten(), negatives.log_expected.expand(1, 1, 1, n).flatten()
    for item, weight in enumerate(weights):
        chance = weight / sum(weights)
        share = (items == item).float().mean().item()
        assert abs(share - chance) <= 5 * math.sqrt(chance * (1 - chance) / n), item
        if weight:
            assert log_expected[items == item].exp().mean().item() == pytest.approx(n * chance, rel=1e-4)
    assert not (items == PAD).any()
    assert STORE.counts_M.tolist() == COUNTS, "the store's own counts were changed"


@pytest.mark.parametrize("kind", [Shared, Popular])
def test_shared_negatives_are_drawn_once_for_a_batch_and_anew_for_the_next(kind: Callable[..., Sampler]) -> None:
    sampler, generator = kind(STORE, 50), torch.Generator().manual_seed(0)
    draw = sampler.begin(generator)
    first, again = draw(USERS[:1], (3, 2)), draw(USERS[1:], (1, 1))
    assert torch.equal(first.items_BNSC, again.items_BNSC)
    other = sampler.begin(generator)(USERS[:1], (3, 2))
    assert not torch.equal(first.items_BNSC, other.items_BNSC)


def test_uniform_negatives_are_drawn_anew_for_every_piece_of_a_batch() -> None:
    draw = Uniform(STORE, 50).begin(torch.Generator().manual_seed(0))
    assert not torch.equal(draw(USERS, (3, 2)).items_BNSC, draw(USERS, (3, 2)).items_BNSC)


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("kind", [Uniform, Shared, Popular])
def test_fewer_than_one_is_refused(kind: Callable[..., Sampler], n: int) -> None:
    with pytest.raises(UserError, match=rf"^n={n}: must be 1 or more$"):
        kind(STORE, n)


@pytest.mark.parametrize("power", [-0.5, math.nan])
def test_a_power_that_has_no_meaning_is_refused(power: float) -> None:
    with pytest.raises(UserError, match=r"^power=.*: must be 0 or more$"):
        Popular(STORE, 5, power)


@pytest.mark.parametrize("kind", [Uniform, Shared, Popular])
def test_the_generator_alone_decides_the_draw(kind: Callable[..., Sampler]) -> None:
    sampler, draws = kind(STORE, 50), []
    for seed in (1, 1, 2):
        torch.manual_seed(len(draws))  # has no effect
        draws.append(sampler.begin(torch.Generator().manual_seed(seed))(USERS, (3, 2)).items_BNSC)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_what_is_expected_of_a_single_unseen_item_and_of_none() -> None:
    """Users who have had all but one item, and all: the one is drawn every time, and there is nothing to draw."""
    store = SequenceStore(make_split([[1, 2, 3, 1, 1], [1, 2, 3, 4, 1, 1]], 4), 5, torch.device("cpu"))
    negatives = Uniform(store, 6).begin(torch.Generator().manual_seed(0))(torch.tensor([0, 1]), (1, 1))
    assert negatives.items_BNSC.flatten(1).tolist() == [[4] * 6, [PAD] * 6]
    assert negatives.log_expected.flatten().tolist() == pytest.approx([math.log(6), math.log(6)])


@pytest.mark.parametrize("kind", [Uniform, Shared, Popular])
def test_a_single_one_is_enough(kind: Callable[..., Sampler]) -> None:
    assert draw_negatives(kind(STORE, 1)).items_BNSC.shape[-1] == 1


@pytest.mark.parametrize("kind", [Shared, Popular])
def test_chances_that_round_to_less_than_1_draw_the_last_item_and_none_beyond(kind: Callable[..., Any]) -> None:
    sampler = kind(STORE, 500)
    sampler.cumulative_M = sampler.cumulative_M * 0.5  # as rounding might, but more
    items = draw_negatives(sampler).items_BNSC
    assert items.max() == 6 and (items == 6).float().mean() > 0.4
