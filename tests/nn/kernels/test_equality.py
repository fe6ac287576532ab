"""Every kernel equals its plain version, in values and gradients. Dropout is random: see tests/nn/test_layers.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import CALLS, our_functions
from torch import Tensor

from sairlib.nn.kernels.attention import BLOCK, causal_attention, plain_causal_attention
from sairlib.nn.kernels.distances import all_squared_distances, plain_squared_distances
from sairlib.nn.kernels.lookup import plain_rows, rows

SIZES = st.one_of(st.integers(1, 12), st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - 5]))


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=60, deadline=None)
@given(n=SIZES, width=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_values_and_gradients_are_those_of_the_plain_version(name: str, n: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    call = CALLS[name](n, width)
    arguments, learned = call.on("cpu")
    fast, plain = call.fast(*arguments), call.plain(*arguments)
    assert our_functions(fast) == {call.function} and not our_functions(plain)
    upstream = torch.randn_like(plain)
    if call.real is not None:
        fast, plain = (result.where(call.real, 0.0) for result in (fast, plain))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    for one, other in zip(*(torch.autograd.grad(result, learned, upstream) for result in (fast, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pad", [None, 0, 3])
def test_sparse_gradients_of_rows_are_those_of_the_plain_version(pad: int | None) -> None:
    table_MD, ids = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.tensor([[4, 0, 4], [3, 1, 0]])
    upstream = torch.randn(2, 3, 3, dtype=torch.float64)

    def gradient(vectors: Tensor) -> Tensor:
        (gradient_MD,) = torch.autograd.grad(vectors, table_MD, upstream)
        assert gradient_MD.is_sparse
        return gradient_MD.to_dense()

    torch.testing.assert_close(gradient(rows(table_MD, ids, pad, True)), gradient(plain_rows(table_MD, ids, pad, True)))


@pytest.mark.parametrize("ids", [[], [2]])
def test_rows_of_few_ids(ids: list[int]) -> None:
    table_MD, ids_I = torch.randn(5, 3, requires_grad=True), torch.tensor(ids, dtype=torch.long)
    assert torch.equal(rows(table_MD, ids_I), plain_rows(table_MD, ids_I))
    (gradient,) = torch.autograd.grad(rows(table_MD, ids_I).sum(), table_MD)
    assert gradient.sum().item() == 3 * len(ids)


def test_attention_by_blocks_leaves_dropout_and_double_precision_to_the_plain_version() -> None:
    parts = [torch.randn(1, 1, 3, 4, requires_grad=True) for _ in range(3)]
    assert our_functions(causal_attention(*parts)) and not our_functions(causal_attention(*parts, dropout=0.5))
    double = [part.double() for part in parts]
    assert not our_functions(causal_attention(*double))
    torch.testing.assert_close(causal_attention(*double), plain_causal_attention(*double))


def test_all_squared_distances_are_those_of_each_pair() -> None:
    states, vectors = torch.randn(5, 4), torch.randn(7, 4)
    torch.testing.assert_close(
        all_squared_distances(states, vectors), plain_squared_distances(states, vectors.expand(5, 7, 4))
    )
