"""The table's own backward pass agrees with nn.functional.embedding's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sairlib.nn.table import Table, rows


def gradient(found: Tensor, table_MD: Tensor) -> Tensor:
    upstream = torch.arange(found.numel(), dtype=found.dtype).view(found.shape)
    return torch.autograd.grad(found, table_MD, upstream)[0]


@given(st.lists(st.integers(0, 4), max_size=12), st.sampled_from([None, 0, 3]), st.booleans())
def test_values_and_gradients_are_those_of_embedding(ids: list[int], pad: int | None, square: bool) -> None:
    table_MD = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor(ids + ids if square else ids, dtype=torch.long)
    wanted = wanted.view(2, -1).T if square else wanted  # not contiguous
    ours, theirs = rows(table_MD, wanted, pad), nn.functional.embedding(wanted, table_MD, padding_idx=pad)
    assert torch.equal(ours, theirs)
    assert torch.equal(gradient(ours, table_MD), gradient(theirs, table_MD))


def test_a_table_starts_xavier_uniform_with_padding_at_zero() -> None:
    table = Table(50, 14, padding_idx=0)
    assert not table.weight[0].any()
    bound = (6 / 64) ** 0.5
    assert table.weight.abs().max() <= bound and table.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    table(torch.tensor([[0, 7, 7]])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.nonzero()[:, 0].unique().tolist() == [7] and table.weight.grad[7].tolist() == [2.0] * 14
