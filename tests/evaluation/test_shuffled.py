"""Histories in a random order: what is permuted, that the batch has no say in it, and who notices."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from test_evaluator import ALL, listed, make_evaluator, make_split

from sairlib.batch import History
from sairlib.data.split import Part
from sairlib.errors import UserError
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.evaluation.shuffled import shuffled
from sairlib.models.bpr_mf import BPRMF
from sairlib.models.gru4rec import GRU4Rec
from sairlib.models.recommender import Recommender


def test_items_are_permuted_and_all_else_stays() -> None:
    lengths_B = torch.arange(9)
    items_BN = torch.where(torch.arange(8) < lengths_B[:, None], torch.arange(1, 9) + 10 * lengths_B[:, None], 0)
    history = History(lengths_B, items_BN, items_BN * 7)
    mixed = shuffled(history, lengths_B, 1)
    for before, after, length in zip(items_BN.tolist(), mixed.items_BN.tolist(), range(9), strict=True):
        assert Counter(before) == Counter(after) and not any(after[length:])
    assert mixed.times_BN is history.times_BN
    last = shuffled(History(lengths_B[6:], items_BN[6:, :8]), lengths_B[6:], 1)
    assert torch.equal(last.items_BN, mixed.items_BN[6:]), "the rows decide, not the batch"
    assert not torch.equal(shuffled(history, lengths_B, 2).items_BN, mixed.items_BN)


def test_all_orders_are_equally_likely() -> None:
    n = 6000
    items_BN = torch.tensor([1, 2, 3, 0]).expand(n, -1)
    orders = Counter(map(tuple, shuffled(History(torch.arange(n), items_BN), torch.arange(n), 5).items_BN.tolist()))
    assert len(orders) == 6 and all(abs(count - 1000) < 120 for count in orders.values())  # a deviation is 29


def test_who_looks_at_the_order_ranks_otherwise() -> None:
    split = make_split()

    def ranks(model: Recommender, settings: EvaluationSettings) -> object:
        return listed(make_evaluator(split, settings).rank(model, Part.TEST))

    torch.manual_seed(0)
    sequential, unordered = GRU4Rec(50), BPRMF(50, 40)
    mixed = replace(ALL, histories="shuffled")
    assert ranks(sequential, ALL) != ranks(sequential, mixed) == ranks(sequential, replace(mixed, batch_size=3))
    assert ranks(unordered, ALL) == ranks(unordered, mixed)
    with pytest.raises(UserError, match=r"evaluation\.histories=shuffled"):
        replace(mixed, passes="users")
