"""The shared parts of models that see a whole sequence; their equations are tested in tests/models."""

import pytest
import torch
from torch import Tensor

from sairlib.errors import UserError
from sairlib.nn.bidirectional import (
    BidirectionalAttention,
    PostNormBlock,
    check_sizes,
    join_heads,
    real_steps,
    split_heads,
    start_as_bert,
)
from sairlib.nn.layers import Table

ITEMS_BN = torch.tensor([[3, 1, 2, 4, 7], [5, 2, 0, 0, 0], [0, 0, 0, 0, 0], [6, 6, 6, 0, 0]])
LENGTHS = [5, 2, 0, 3]
WIDTH = 6


def block(n_heads: int = 2, dropout: float = 0.0, attention_dropout: float = 0.0) -> PostNormBlock:
    torch.manual_seed(0)
    return PostNormBlock(BidirectionalAttention(WIDTH, n_heads, attention_dropout), WIDTH, dropout).double()


def states() -> Tensor:
    return torch.randn(*ITEMS_BN.shape, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_real_steps_are_all_but_padding_and_one_of_an_empty_history() -> None:
    assert real_steps(ITEMS_BN).sum(1).tolist() == [5, 2, 1, 3]
    assert torch.equal(real_steps(ITEMS_BN)[[0, 1, 3]], ITEMS_BN[[0, 1, 3]] != 0)
    assert real_steps(ITEMS_BN)[2].tolist() == [True, False, False, False, False]


def test_heads_are_slices_of_the_width() -> None:
    x_BND = states()
    assert torch.equal(split_heads(x_BND, 3)[:, 1], x_BND[..., 2:4])
    assert torch.equal(join_heads(split_heads(x_BND, 3)), x_BND)


@pytest.mark.parametrize("n_heads", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_every_step_sees_every_real_step_and_no_padding(n_heads: int, training: bool) -> None:
    layer, real_BN = block(n_heads, 0.1, 0.1).train(training), real_steps(ITEMS_BN)
    x_BND = states().requires_grad_()
    mixed_BND = layer.attention(x_BND, real_BN)
    seen = torch.zeros(*ITEMS_BN.shape, ITEMS_BN.shape[1], dtype=torch.bool)
    for _ in range(8):  # attention dropout hides a weight now and then
        mixed_BND = layer.attention(x_BND, real_BN)
        for t in range(ITEMS_BN.shape[1]):
            (gradient,) = torch.autograd.grad(
                (mixed_BND[:, t] @ torch.randn(WIDTH, dtype=torch.float64)).sum(), x_BND, retain_graph=True
            )
            assert gradient.isfinite().all()
            seen[:, t] |= gradient.abs().amax(2) > 0
    for row, length in enumerate(LENGTHS):
        # A softmax over a single key has no gradient, and the query's own comes through it alone.
        others = seen[row, :length] if length > 1 else seen[row, :1, :1]
        assert others[:, : max(length, 1)].all(), f"row {row}"
        assert not others[:, max(length, 1) :].any(), f"row {row} sees padding"


def test_values_at_padding_change_nothing() -> None:
    layer, real_BN, x_BND = block(), real_steps(ITEMS_BN), states()
    changed_BND = torch.where(real_BN[..., None], x_BND, 1e6)
    before_BND, after_BND = layer(x_BND, real_BN), layer(changed_BND, real_BN)
    assert torch.equal(before_BND[real_BN], after_BND[real_BN])
    assert not torch.equal(before_BND[~real_BN], after_BND[~real_BN])


@pytest.mark.parametrize("n_heads", [1, 2])
def test_a_single_step_equals_that_step_of_all(n_heads: int) -> None:
    layer, real_BN, x_BND = block(n_heads), real_steps(ITEMS_BN), states()
    steps_B = torch.tensor([4, 0, 0, 1])
    torch.testing.assert_close(layer.at_steps(x_BND, steps_B, real_BN), layer(x_BND, real_BN)[range(4), steps_B])


@pytest.mark.parametrize("dropouts", [(0.5, 0.0), (0.0, 0.5)], ids=["dropout", "attention_dropout"])
def test_dropouts_act_in_training_alone(dropouts: tuple[float, float]) -> None:
    layer, real_BN, x_BND = block(2, *dropouts), real_steps(ITEMS_BN), states()
    assert torch.equal(layer.eval()(x_BND, real_BN), block()(x_BND, real_BN))
    assert not torch.equal(layer.train()(x_BND, real_BN), layer(x_BND, real_BN)), "each pass draws its own"


def test_starts_small_with_padding_at_zero() -> None:
    model = torch.nn.ModuleList([Table(400, 32, padding_idx=0), Table(5, 32), torch.nn.Linear(32, 32)])
    start_as_bert(model)
    table, positions, linear = model
    assert not table.weight[0].any() and positions.weight[0].any() and not linear.bias.any()
    for weight in (table.weight[1:], linear.weight):
        assert weight.abs().max() <= 0.04
        assert weight.std().item() == pytest.approx(0.88 * 0.02, rel=0.1)  # a normal's, cut at two deviations


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"d": 0}, "d must be at least 1, not 0"),
        ({"n_blocks": 0}, "n_blocks must be at least 1, not 0"),
        ({"n_heads": 0}, "n_heads must be at least 1, not 0"),
        ({"max_len": 0}, "max_len must be at least 1, not 0"),
        ({"n_heads": 5}, "n_heads=5 does not divide the width 8"),
        ({"attention_dropout": 1.0}, r"attention_dropout must be in \[0, 1\), not 1.0"),
        ({"attention_dropout": -0.1}, r"attention_dropout must be in \[0, 1\), not -0.1"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(wrong: dict[str, float], message: str) -> None:
    right = {"d": 8, "n_blocks": 1, "n_heads": 2, "max_len": 5, "attention_dropout": 0.0}
    check_sizes(**right)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message) as caught:
        check_sizes(**{**right, **wrong})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
