"""CausalAttention sees the past, all of it and nothing else; its equations are tested in tests/models."""

import pytest
import torch

from sairlib.errors import UserError
from sairlib.nn.attention import CausalAttention
from sairlib.nn.kernels.attention import BLOCK

options = pytest.mark.parametrize(
    "options",
    [{}, {"n_heads": 2}, {"n_heads": 6, "output_projection": True}, {"dropout": 0.1}],
    ids=str,
)


@options
@pytest.mark.parametrize("training", [True, False])
def test_causal_by_gradient(options: dict[str, float], training: bool) -> None:
    torch.manual_seed(0)
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
    torch.manual_seed(0)
    layer, x_BND = CausalAttention(4, 2), torch.randn(2, 2 * BLOCK + 3, 4, requires_grad=True)
    out_BND = layer(x_BND)
    for t in (0, BLOCK - 1, BLOCK, 2 * BLOCK - 2, 2 * BLOCK):
        (gradient,) = torch.autograd.grad(out_BND[:, t].sum(), x_BND, retain_graph=True)
        assert not gradient[:, t + 1 :].any() and (gradient[:, : t + 1].abs().amax((0, 2)) > 0).all()


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_a_single_step_equals_that_step_of_all(heads: int) -> None:
    torch.manual_seed(0)
    layer, x_BND = CausalAttention(6, heads, output_projection=True), torch.randn(4, 7, 6)
    steps_B = torch.tensor([6, 0, 3, 2])
    torch.testing.assert_close(layer.at_steps(x_BND, steps_B), layer(x_BND)[range(4), steps_B])


def test_one_user_does_not_see_another() -> None:
    torch.manual_seed(0)
    layer, x_BND = CausalAttention(4), torch.randn(2, 5, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x_BND)[0].sum(), x_BND)
    assert gradient[0].any() and not gradient[1].any()


def test_attention_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    layer, x_BND = CausalAttention(4, dropout=0.5), torch.randn(2, 5, 4)
    assert not torch.equal(layer(x_BND), layer(x_BND))
    layer.eval()
    assert torch.equal(layer(x_BND), layer(x_BND))


@pytest.mark.parametrize("n_heads", [0, -1, 4, 7])
def test_heads_must_divide_the_width(n_heads: int) -> None:
    with pytest.raises(UserError, match=f"^n_heads={n_heads} does not divide the width 6$"):
        CausalAttention(6, n_heads)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_must_be_a_probability_below_1(dropout: float) -> None:
    with pytest.raises(UserError, match="attention_dropout must be in"):
        CausalAttention(6, dropout=dropout)
