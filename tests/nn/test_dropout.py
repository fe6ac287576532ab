"""The fast dropout does what dropout does: probability, expectation, independence, and a backward pass that agrees."""

import math

import pytest
import torch
from torch import Tensor

from sairlib.errors import UserError
from sairlib.nn.dropout import Dropout

N = 400_000


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def within_5_sigma(mask: Tensor, chance: float) -> bool:
    return abs(mask.double().mean().item() - chance) < 5 * math.sqrt(chance * (1 - chance) / mask.numel())


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.9])
def test_keeps_with_probability_1_minus_p_and_expects_x(p: float) -> None:
    out = Dropout(p)(torch.ones(N))
    scale = 1 / (1 - round(p * 2**16) / 2**16)
    assert out.unique().tolist() == [0.0, pytest.approx(scale)]
    assert within_5_sigma(out != 0, 1 / scale)
    sigma = math.sqrt((scale - 1) / N)
    assert abs(out.mean().item() - 1) < 5 * sigma


def test_the_four_entries_of_a_draw_are_independent() -> None:
    kept = Dropout(0.3)(torch.ones(N)).view(-1, 4) != 0
    for i in range(4):
        assert within_5_sigma(kept[:, i], 0.7)
        for j in range(i):
            assert within_5_sigma(kept[:, i] & kept[:, j], 0.7**2)
    assert within_5_sigma(kept[1:, 0] & kept[:-1, 3], 0.7**2)


@pytest.mark.parametrize("shape", [(3, 5, 7), (1,), (0, 4), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_shape_and_type(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    out = Dropout(0.5)(torch.full(shape, 3.0, dtype=dtype))
    assert out.shape == shape and out.dtype == dtype
    assert set(out.flatten().tolist()) <= {0.0, 6.0}


def test_the_gradient_passes_where_the_value_passed() -> None:
    x = torch.randn(64, 33).t().requires_grad_()  # not contiguous
    out = Dropout(0.4)(x)
    scale = 1 / (1 - round(0.4 * 2**16) / 2**16)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    mask = out != 0
    torch.testing.assert_close(out, torch.where(mask, x * scale, 0))
    torch.testing.assert_close(x.grad, torch.where(mask, upstream * scale, 0))
    assert mask.any() and not mask.all()


def test_every_call_draws_anew_and_the_seed_repeats_it() -> None:
    layer, x = Dropout(0.5), torch.ones(100)
    first, second = layer(x), layer(x)
    torch.manual_seed(0)
    assert torch.equal(layer(x), first) and not torch.equal(first, second)


def test_nothing_happens_in_eval_mode_or_with_p_0() -> None:
    x = torch.randn(10)
    state = torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p", [1e-9, 1 - 1e-9])
def test_extreme_probabilities_stay_finite(p: float) -> None:
    assert Dropout(p)(torch.ones(1000)).isfinite().all()


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_p_must_be_a_probability_below_1(p: float) -> None:
    with pytest.raises(UserError, match=r"dropout must be in \[0, 1\), not"):
        Dropout(p)
