"""The layers: dropout's draws, how tables start and what they refuse, and that attention and blocks see only the past.

Their equations are tested in tests/models, the fast kernels in tests/nn/kernels.
"""

import math

import pytest
import torch
from torch import Tensor

from sairlib.errors import UserError
from sairlib.nn.attention import CausalAttention
from sairlib.nn.kernels.attention import BLOCK
from sairlib.nn.layers import Block, Dropout, SelfAttention, Table, UserTable

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
    passed = Dropout(0.3)(torch.ones(N)).view(-1, 4) != 0
    for i in range(4):
        assert within_5_sigma(passed[:, i], 0.7)
        for j in range(i):
            assert within_5_sigma(passed[:, i] & passed[:, j], 0.7**2)
    assert within_5_sigma(passed[1:, 0] & passed[:-1, 3], 0.7**2)


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


# Tables.


def test_a_table_starts_xavier_uniform_with_padding_at_zero() -> None:
    table = Table(50, 14, padding_idx=0)
    assert not table.weight[0].any()
    bound = (6 / 64) ** 0.5
    assert table.weight.abs().max() <= bound and table.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    table(torch.tensor([[0, 7, 7]])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.nonzero()[:, 0].unique().tolist() == [7] and table.weight.grad[7].tolist() == [2.0] * 14


def test_all_rows_are_those_of_every_id() -> None:
    table = Table(5, 3, padding_idx=0)
    assert table.of(None) is table.weight
    assert torch.equal(table.of(torch.arange(5)), table.weight)


def test_tables_are_read_by_rows_unless_marked_whole() -> None:
    assert not Table(5, 3).whole and Table(5, 3, whole=True).whole


def test_an_unknown_user_is_refused_in_evaluation_alone() -> None:
    table = UserTable(3, 2).eval()
    assert torch.equal(table(torch.tensor([2, 0])), table.weight[[2, 0]])
    assert table(torch.zeros(0, dtype=torch.long)).shape == (0, 2)
    with pytest.raises(UserError, match=r"user number 3 is unknown: .* 3 users it was trained on"):
        table(torch.tensor([1, 3]))
    with pytest.raises(IndexError):  # training has no unknown users, and a check would cost time
        table.train()(torch.tensor([1, 3]))


@pytest.mark.parametrize("width", [0, -1])
def test_a_table_needs_a_width(width: int) -> None:
    with pytest.raises(UserError, match=f"^the width d must be at least 1, not {width}$"):
        Table(5, width)


# Attention.


attention_options = pytest.mark.parametrize(
    "options",
    [{}, {"n_heads": 2}, {"n_heads": 6, "output_projection": True}, {"dropout": 0.1}],
    ids=str,
)


@attention_options
@pytest.mark.parametrize("training", [True, False])
def test_causal_by_gradient(options: dict[str, float], training: bool) -> None:
    layer = CausalAttention(6, **options).train(training)  # type: ignore[arg-type]
    x_BND = torch.randn(3, 7, 6, requires_grad=True)
    out_BND = layer(x_BND)
    for t in range(7):
        direction = torch.randn(6)
        (gradient,) = torch.autograd.grad((out_BND[:, t] @ direction).sum(), x_BND, retain_graph=True)
        assert not gradient[:, t + 1 :].any(), f"step {t} sees the future"
        seen = gradient.abs().amax((0, 2))[: t + 1] > 0
        assert seen.all(), f"step {t} does not see its whole past"


def test_no_gradient_crosses_a_block_backwards() -> None:
    layer, x_BND = CausalAttention(4, 2), torch.randn(2, 2 * BLOCK + 3, 4, requires_grad=True)
    out_BND = layer(x_BND)
    for t in (0, BLOCK - 1, BLOCK, 2 * BLOCK - 2, 2 * BLOCK):
        (gradient,) = torch.autograd.grad(out_BND[:, t].sum(), x_BND, retain_graph=True)
        assert not gradient[:, t + 1 :].any() and (gradient[:, : t + 1].abs().amax((0, 2)) > 0).all()


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_a_single_step_equals_that_step_of_all(heads: int) -> None:
    layer, x_BND = CausalAttention(6, heads, output_projection=True), torch.randn(4, 7, 6)
    steps_B = torch.tensor([6, 0, 3, 2])
    torch.testing.assert_close(layer.at_steps(x_BND, steps_B), layer(x_BND)[range(4), steps_B])


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_the_weights_reproduce_the_output(heads: int) -> None:
    layer, x_BND = CausalAttention(6, heads, output_projection=True), torch.randn(4, 2 * BLOCK, 6)
    weights_BHNN, value_BND = layer.weights(x_BND), layer.query_key_value(x_BND)[..., 12:]
    mixed = [weights_BHNN[:, h] @ value for h, value in enumerate(value_BND.chunk(heads, -1))]
    torch.testing.assert_close(layer.output(torch.cat(mixed, -1)), layer(x_BND))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_attentions_are_those_of_the_blocks(norm: str) -> None:
    encoder, x_BND = SelfAttention(6, 0.5, n_blocks=3, n_heads=2, norm=norm).eval(), torch.randn(4, 7, 6)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    used: list[Tensor] = []
    for block in encoder.blocks:
        block.attention.register_forward_hook(lambda layer, given, _: used.append(layer.weights(given[0])))
    encoder(x_BND)
    blocks_used, shown = used.copy(), list(encoder.attentions(x_BND))
    assert len(shown) == 3
    for expected, weights_BHNN in zip(blocks_used, shown, strict=True):
        torch.testing.assert_close(weights_BHNN, expected)


def test_one_user_does_not_see_another() -> None:
    layer, x_BND = CausalAttention(4), torch.randn(2, 5, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x_BND)[0].sum(), x_BND)
    assert gradient[0].any() and not gradient[1].any()


def test_attention_dropout_acts_in_training_alone() -> None:
    layer, x_BND = CausalAttention(4, dropout=0.5), torch.randn(2, 5, 4)
    assert not torch.equal(layer(x_BND), layer(x_BND))
    layer.eval()
    assert torch.equal(layer(x_BND), layer(x_BND))


@pytest.mark.parametrize("n_heads", [0, -1, 4, 7])
def test_heads_must_divide_the_width(n_heads: int) -> None:
    with pytest.raises(UserError, match=f"^n_heads={n_heads} does not divide the width 6$"):
        CausalAttention(6, n_heads)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_attention_dropout_must_be_a_probability_below_1(dropout: float) -> None:
    with pytest.raises(UserError, match="attention_dropout must be in"):
        CausalAttention(6, dropout=dropout)


# Blocks.


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("residual", [True, False])
def test_a_single_step_of_a_block_equals_that_step_of_all(norm: str, residual: bool) -> None:
    block, x_BND = Block(6, 2, 0.5, norm, residual).eval(), torch.randn(4, 7, 6)
    with torch.no_grad():  # gains of 1 and biases of 0 hide a norm in the wrong place
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    steps_B = torch.tensor([6, 0, 3, 2])
    torch.testing.assert_close(block.at_steps(x_BND, steps_B), block(x_BND)[range(4), steps_B])


def test_a_block_without_residual_forgets_the_scale_of_its_input() -> None:
    """Pre-norm: the output does not depend on the input's scale, because only the normed input is used."""
    block, other = Block(6, 1, 0.0, residual=False), Block(6, 1, 0.0)
    x_BND = torch.randn(2, 5, 6)
    torch.testing.assert_close(block(x_BND), block(100 * x_BND), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(other(x_BND), other(100 * x_BND), rtol=1e-1, atol=1e-1)


def test_a_block_knows_its_norms() -> None:
    with pytest.raises(UserError, match=r"^norm='batch': choose one of pre, post$"):
        Block(6, 1, 0.0, norm="batch")
