"""How a table starts, and which rows learn; the lookup itself is tested in tests/nn/kernels."""

import pytest
import torch

from sairlib.nn.table import Table


def test_a_table_starts_xavier_uniform_with_padding_at_zero() -> None:
    table = Table(50, 14, padding_idx=0)
    assert not table.weight[0].any()
    bound = (6 / 64) ** 0.5
    assert table.weight.abs().max() <= bound and table.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    table(torch.tensor([[0, 7, 7]])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.nonzero()[:, 0].unique().tolist() == [7] and table.weight.grad[7].tolist() == [2.0] * 14
