"""Hand-written gradients against finite differences."""

import pytest
import torch
from torch.autograd import gradcheck

from sairlib.nn.kernels.distances import squared_distances
from sairlib.nn.kernels.windows import recent


@pytest.mark.parametrize("length", [1, 3, 7])
def test_recent(length: int) -> None:
    vectors = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda vectors: recent(vectors, length), vectors)


def test_squared_distances() -> None:
    states = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(squared_distances, (states, vectors))
    distances = squared_distances(states, vectors)
    torch.testing.assert_close(
        distances, torch.stack([torch.cdist(s[:, None], v)[:, 0] ** 2 for s, v in zip(states, vectors, strict=True)])
    )
