"""PopRec counts, and nothing else."""

import torch
from model_helpers import HISTORIES, MAX_LEN, USERS, M, padded
from small_data import history

from sairlib.models.poprec import PopRec

NEVER = M
COUNTS = [0, *(sum(row.count(item) for row in HISTORIES[:3]) for item in range(1, NEVER)), 0]


def make_model() -> PopRec:
    model = PopRec(M)
    model.prepare(torch.tensor(COUNTS), history(padded()))
    return model


def test_scores_are_the_counts_for_every_user_at_every_step() -> None:
    model, items_BN = make_model(), padded()
    states_BN1 = model.encode(history(items_BN))
    assert states_BN1.shape == (USERS, MAX_LEN, 1)
    every_M = torch.arange(1, M + 1)
    expected_M = torch.tensor(COUNTS[1:], dtype=torch.float32)
    assert expected_M.max() == 2 and expected_M[NEVER - 1] == 0
    assert (model.head.score(states_BN1, every_M.expand(USERS, MAX_LEN, -1)) == expected_M).all()
    assert (model.head.score_shared(states_BN1, every_M) == expected_M).all()
    newest_B1 = model.newest(history(items_BN))
    assert newest_B1.shape == (USERS, 1)
    assert (model.head.score_all(newest_B1)[:, 1:] == expected_M).all()


def test_counts_travel_with_the_weights() -> None:
    other = PopRec(M)
    state = torch.ones(1, 1)
    assert not other.head.score_all(state).any(), "before it has counted"
    other.load_state_dict(make_model().state_dict())
    assert torch.equal(other.head.score_all(state), make_model().head.score_all(state))


def test_counting_again_starts_anew() -> None:
    model = make_model()
    model.prepare(torch.tensor(COUNTS), history(padded()))
    assert model.counts_M.tolist() == COUNTS


def test_there_is_nothing_to_train() -> None:
    assert make_model().n_parameters() == 0 and not list(make_model().parameters())
