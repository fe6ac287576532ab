"""BPR-MF against s(u, i) = <U_u, V_i> (+ b_i), one pair at a time."""

import numpy as np
import pytest
import torch
from model_helpers import HISTORIES, MAX_LEN, USERS, D, M, arrays, padded, randomised, read_by_rows
from small_data import history

from sairlib.batch import History
from sairlib.errors import UserError
from sairlib.models.bpr_mf import BPRMF

either = pytest.mark.parametrize("item_bias", [False, True])


def make_model(item_bias: bool = False) -> BPRMF:
    model = BPRMF(M, USERS, d=D, item_bias=item_bias)
    randomised(model)
    return model


@either
def test_equals_the_plain_equation_whatever_the_history(item_bias: bool) -> None:
    model = make_model(item_bias)
    weights, users_B = arrays(model), torch.arange(USERS)
    with torch.no_grad():
        states_BND = model.encode(History(users_B, padded()))
        newest_BD = model.newest(History(users_B, padded()))
        scores_BNM = model.head.score(states_BND, torch.arange(M + 1).expand(USERS, MAX_LEN, -1))
        all_BM = model.head.score_all(newest_BD)
    for user in range(USERS):
        for item in range(1, M + 1):
            vector = weights["item_factors.weight"][item]
            expected = sum(weights["user_factors.weight"][user][k] * vector[k] for k in range(D))
            expected += vector[D] if item_bias else 0.0
            np.testing.assert_allclose(all_BM[user, item], expected, rtol=1e-12, atol=1e-12)
            for step in range(len(HISTORIES[user])):
                np.testing.assert_allclose(scores_BNM[user, step, item], expected, rtol=1e-12, atol=1e-12)


@either
def test_the_history_is_not_looked_at(item_bias: bool) -> None:
    model, users_B = make_model(item_bias), torch.arange(USERS)
    others_BN = padded().flip(0)
    assert torch.equal(model.encode(History(users_B, padded())), model.encode(History(users_B, others_BN)))
    assert torch.equal(model.newest(History(users_B, padded())), model.newest(History(users_B, others_BN[:, :1])))


def test_steps_share_memory() -> None:
    assert make_model().encode(history(padded())).stride(1) == 0


def test_the_bias_starts_at_0_and_learns() -> None:
    model = BPRMF(M, USERS, d=D, item_bias=True)
    assert model.item_factors.weight.shape == (M + 1, D + 1)
    assert not model.item_factors.weight[:, D].any() and model.item_factors.weight[1:, :D].all()
    model.head.score(model.encode(history(padded())), torch.full((USERS, MAX_LEN, 1), 3)).sum().backward()
    gradient = model.item_factors.weight.grad
    assert gradient is not None
    assert gradient[:, D].nonzero().tolist() == [[3]]


def test_unknown_users_are_refused() -> None:
    for encode in (make_model().encode, make_model().newest):
        with pytest.raises(UserError, match=r"user number .* is unknown"):
            encode(History(torch.tensor([USERS]), padded()[:1]))


@either
def test_the_width_must_be_positive(item_bias: bool) -> None:
    with pytest.raises(UserError, match="the width d must be at least 1, not 0"):
        BPRMF(M, USERS, d=0, item_bias=item_bias)


def test_all_its_tables_are_read_by_rows() -> None:
    model = make_model(item_bias=True)
    assert {id(table.weight) for table in read_by_rows(model)} == {id(weight) for weight in model.parameters()}
