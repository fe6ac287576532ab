"""RowAdam ends at the same weights as PyTorch's Adam, in whatever order rows are looked up."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sairlib.nn.layers import Table
from sairlib.training.optimisers import RowAdam

M, D = 12, 3
LOOKUPS = st.lists(st.lists(st.integers(0, M), min_size=0, max_size=8), min_size=1, max_size=40)


def tables() -> tuple[Table, Table]:
    torch.manual_seed(0)
    dense, by_rows = Table(M + 1, D, padding_idx=0), Table(M + 1, D, padding_idx=0)
    by_rows.load_state_dict(dense.state_dict())
    return dense, by_rows


def step(table: Table, optimizer: torch.optim.Optimizer, lookups: list[int], lr: float) -> None:
    optimizer.param_groups[0]["lr"] = lr
    optimizer.zero_grad()
    for ids in (lookups, lookups[::2]):  # two lookups a step: their gradients add up
        if ids:
            vectors = table(torch.tensor(ids))
            (vectors.square().sum() + (vectors * torch.arange(1.0, D + 1)).sum()).backward()
    if not lookups:
        table.weight.grad = None if isinstance(optimizer, RowAdam) else torch.zeros_like(table.weight)
    optimizer.step()


@settings(max_examples=60, deadline=None)
@given(lookups=LOOKUPS, betas=st.sampled_from([(0.9, 0.98), (0.9, 0.999), (0.0, 0.9), (0.5, 0.5)]))
def test_follows_adam(lookups: list[list[int]], betas: tuple[float, float]) -> None:
    dense, by_rows = tables()
    adam = torch.optim.Adam(dense.parameters(), lr=1.0, betas=betas)
    ours = RowAdam([by_rows], lr=1.0, betas=betas)
    for i, ids in enumerate(lookups):
        lr = 0.05 / (1 + i % 5)  # a schedule that changes while rows wait
        step(dense, adam, ids, lr)
        step(by_rows, ours, ids, lr)
    ours.catch_up()
    torch.testing.assert_close(by_rows.weight, dense.weight, rtol=1e-4, atol=1e-5)
    assert not by_rows.weight[0].any()


def test_a_row_is_up_to_date_when_it_is_looked_up_and_only_then() -> None:
    dense, by_rows = tables()
    adam = torch.optim.Adam(dense.parameters(), lr=0.1, betas=(0.9, 0.98))
    ours = RowAdam([by_rows], lr=0.1, betas=(0.9, 0.98))
    for ids in ([1, 2, 3], [1], [1]):
        step(dense, adam, ids, 0.1)
        step(by_rows, ours, ids, 0.1)
    assert not torch.allclose(by_rows.weight[2:4], dense.weight[2:4], atol=1e-3), "no row was behind"
    torch.testing.assert_close(by_rows(torch.tensor([2, 2])), dense(torch.tensor([2, 2])))
    assert not torch.allclose(by_rows.weight[3], dense.weight[3], atol=1e-3), "row 3 was not looked up"


def test_a_loaded_state_continues_where_it_was_saved() -> None:
    _, whole = tables()
    _, parted = tables()
    first, second = (RowAdam([table], lr=0.1, betas=(0.9, 0.98)) for table in (whole, parted))
    lookups = [[1, 2, 3], [4], [1, 5], [2]]
    for ids in lookups[:2]:
        step(whole, first, ids, 0.1)
        step(parted, second, ids, 0.1)
    _, again = tables()
    again.load_state_dict(parted.state_dict())
    third = RowAdam([again], lr=9.0, betas=(0.9, 0.98))
    third.load_state_dict(second.state_dict())
    for ids in lookups[2:]:
        step(whole, first, ids, 0.1)
        step(again, third, ids, 0.1)
    first.catch_up()
    third.catch_up()
    assert torch.equal(whole.weight, again.weight)


@pytest.mark.parametrize("betas", [(0.99, 0.9), (math.sqrt(0.5), 0.5)])
def test_betas_under_which_updates_of_a_row_do_not_shrink_are_refused(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="b1 must be below"):
        RowAdam([tables()[0]], lr=0.1, betas=betas)
