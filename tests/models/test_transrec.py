"""TransRec against s(u, l, j) = beta_j - d(gamma_l + t + t_u, gamma_j), one step at a time."""

from functools import partial

import numpy as np
import pytest
import torch
from model_helpers import USERS, D, M, arrays, assert_scores_are, padded, randomised, read_by_rows
from small_data import history
from torch.nn.functional import cross_entropy

from sairlib.batch import History
from sairlib.errors import UserError
from sairlib.models.transrec import DISTANCES, TransRec

either = pytest.mark.parametrize("distance", DISTANCES)


def make_model(distance: str = "squared_l2") -> TransRec:
    model = TransRec(M, USERS, d=D, distance=distance)
    randomised(model)
    return model


def plain(weights: dict[str, np.ndarray], user: int, last: int, item: int, distance: str) -> float:
    points, total = weights["item_points.weight"], 0.0
    for k in range(D):
        off = points[last][k] + weights["translation_D"][k] + weights["user_translations.weight"][user][k]
        off -= points[item][k]
        total += off * off if distance == "squared_l2" else abs(off)
    return weights["item_bias.weight"][item][0] - total


@either
def test_equals_the_plain_equation(distance: str) -> None:
    model = make_model(distance)
    # All distances at once are in single precision.
    assert_scores_are(model, partial(plain, arrays(model), distance=distance), tolerance=1e-4)


@either
def test_moving_all_points_alike_changes_no_score(distance: str) -> None:
    model = make_model(distance)
    items_BC = torch.arange(1, M + 1).expand(USERS, -1)

    def scores() -> torch.Tensor:
        return model.head.score(model.newest(history(padded())), items_BC)

    with torch.no_grad():
        before_BC = scores()
        model.item_points.weight += torch.randn(D, dtype=torch.float64)
        torch.testing.assert_close(scores(), before_BC)


def test_starts_with_unit_vectors_and_zeros() -> None:
    model = TransRec(M, USERS, d=D)
    for unit in (model.item_points.weight[1:].norm(dim=1), model.translation_D.norm()):
        torch.testing.assert_close(unit, torch.ones_like(unit))
    assert len(model.item_points.weight.unique(dim=0)) == M + 1
    for zeros in (model.item_points.weight[0], model.item_bias.weight, model.user_translations.weight):
        assert not zeros.any()


def test_after_a_step_points_outside_the_unit_ball_are_back_on_it_and_others_where_they_were() -> None:
    model = make_model()
    with torch.no_grad():
        model.item_points.weight[1] *= 0.01
        model.item_points.weight[2] *= 100
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.after_step()
    after = model.state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == ["item_points.weight"]
    for old, new in zip(before["item_points.weight"], after["item_points.weight"], strict=True):
        torch.testing.assert_close(new, old / max(1.0, float(old.norm())))
    assert torch.equal(after["item_points.weight"][0], torch.zeros(D, dtype=torch.float64))
    assert torch.equal(after["item_points.weight"][1], before["item_points.weight"][1])


@either
def test_learns_users_who_walk_a_line_up_and_down(distance: str) -> None:
    """Even users go from item to item + 1, odd ones to item - 1: nothing but t_u can tell. Longer lines do not fit."""
    torch.manual_seed(0)
    model = TransRec(5, USERS, d=8, distance=distance)
    walks = [(user, item, item + (1, -1)[user % 2]) for user in range(USERS) for item in (2, 3, 4)]
    users_B, items_B, targets_B = (torch.tensor(column) for column in zip(*walks, strict=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        scores_BM = model.head.score_all(model.newest(History(users_B, items_B[:, None])))
        optimizer.zero_grad()
        cross_entropy(scores_BM[:, 1:], targets_B - 1).backward()
        optimizer.step()
        model.after_step()
    assert torch.equal(scores_BM[:, 1:].argmax(1) + 1, targets_B)
    assert model.item_points.weight.norm(dim=1).max() <= 1 + 1e-6


def test_unknown_users_are_refused() -> None:
    for encode in (make_model().encode, make_model().newest):
        with pytest.raises(UserError, match=r"user number .* is unknown"):
            encode(History(torch.tensor([USERS]), padded()[:1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "the width d must be at least 1, not 0"),
        ({"distance": "l2"}, "distance='l2': choose one of squared_l2, l1"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, int | str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TransRec(M, USERS, **options)


def test_the_points_are_not_read_by_rows() -> None:
    """They are read whole after every step: what a row owes would come too late."""
    model = make_model()
    assert read_by_rows(model) == [model.item_bias, model.user_translations]
