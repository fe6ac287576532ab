"""FPMC and FMC against s(u, l, i) = <U_u, IU_i> + <L_l, IL_i>, one step at a time."""

from functools import partial

import numpy as np
import pytest
import torch
from model_helpers import USERS, D, M, arrays, assert_scores_are, has_user_table, padded, randomised, read_by_rows

from sairlib.batch import History
from sairlib.errors import UserError
from sairlib.models.fpmc import FPMC

either = pytest.mark.parametrize("user_factors", [True, False], ids=["fpmc", "fmc"])


def make_model(user_factors: bool = True) -> FPMC:
    model = FPMC(M, USERS, d=D, user_factors=user_factors)
    randomised(model)
    return model


def plain(weights: dict[str, np.ndarray], user: int, last: int, item: int) -> float:
    """The part of the user first in an item's vector, then that of the last item."""
    vector, total = list(weights["item_factors.weight"][item]), 0.0
    if "user_factors.weight" in weights:
        for factor in weights["user_factors.weight"][user]:
            total += factor * vector.pop(0)
    for factor in weights["last_factors.weight"][last]:
        total += factor * vector.pop(0)
    assert not vector
    return total


@either
def test_equals_the_plain_equation(user_factors: bool) -> None:
    model = make_model(user_factors)
    assert_scores_are(model, partial(plain, arrays(model)))


@either
def test_the_newest_item_alone_counts(user_factors: bool) -> None:
    model = make_model(user_factors)
    items_BN = torch.tensor([[1, 2, 3], [7, 3, 0], [3, 0, 0], [3, 5, 0]])
    states_BD = model.newest(History(torch.zeros(4, dtype=torch.long), items_BN))
    assert torch.equal(states_BD[0], states_BD[1]) and torch.equal(states_BD[0], states_BD[2])
    assert not torch.equal(states_BD[0], states_BD[3])


def test_after_an_empty_history_fpmc_has_the_user_and_fmc_nothing() -> None:
    empty_BN, users_B = torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 1])
    model = make_model()
    scores_BM = model.head.score_all(model.newest(History(users_B, empty_BN)))
    expected_BM = model.user_factors(users_B) @ model.item_factors.weight[:, :D].T
    torch.testing.assert_close(scores_BM, expected_BM)
    assert not make_model(False).newest(History(users_B, empty_BN)).any()


def test_fmc_has_no_user_table() -> None:
    fmc, fpmc, items_BN = make_model(False), make_model(), padded()[:1]
    assert not has_user_table(fmc) and has_user_table(fpmc)
    assert not any("user" in key for key in fmc.state_dict())
    assert fmc.n_parameters() == 2 * (M + 1) * D and fpmc.n_parameters() == (3 * (M + 1) + USERS) * D
    states = [fmc.newest(History(torch.tensor([user]), items_BN)) for user in (0, 10**6)]
    assert torch.equal(*states)
    for encode in (fpmc.encode, fpmc.newest):
        with pytest.raises(UserError, match=r"user number .* is unknown"):
            encode(History(torch.tensor([USERS]), items_BN))


@either
def test_the_width_must_be_positive(user_factors: bool) -> None:
    with pytest.raises(UserError, match="the width d must be at least 1, not -1"):
        FPMC(M, USERS, d=-1, user_factors=user_factors)


@either
def test_all_its_tables_are_read_by_rows(user_factors: bool) -> None:
    model = make_model(user_factors)
    assert {id(table.weight) for table in read_by_rows(model)} == {id(weight) for weight in model.parameters()}
