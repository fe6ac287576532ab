"""What the item encoder adds up, where its positions count from, and the encoders it can hold.

The equations are tested in tests/models.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import final

import pytest
import torch
from torch import Tensor, nn

from sairlib.batch import PAD
from sairlib.errors import UserError
from sairlib.nn.categories import CategoryEmbedding
from sairlib.nn.layers import Encoder, EncoderPart, ItemEncoder, SelfAttention
from sairlib.nn.recurrent import Recurrent

CATEGORIES = torch.tensor([[0, 0, 0], [1, 2, 3], [3, 0, 0], [2, 1, 0]])
BARE = partial(SelfAttention, n_blocks=0, norm="post")
"""Returns its input."""

every_encoder = pytest.mark.parametrize(
    "part",
    [
        partial(SelfAttention, n_blocks=2, n_heads=2),
        partial(SelfAttention, n_blocks=1, norm="post"),
        partial(SelfAttention, n_blocks=0),
        partial(Recurrent, n_layers=1),
        partial(Recurrent, n_layers=2),
    ],
    ids=["2 blocks", "post", "0 blocks", "gru", "2 grus"],
)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[0.0], [2.0], [3.0], [1.5]]),
        ("sum", [[0.0], [6.0], [3.0], [3.0]]),
        ("first", [[0], [1.0], [3.0], [2.0]]),
    ],
)
def test_pooling(pooling: str, expected: list[list[float]]) -> None:
    embedding = CategoryEmbedding(CATEGORIES, 3, 1, pooling)
    with torch.no_grad():
        embedding.table.weight.copy_(torch.tensor([[100.0], [1.0], [2.0], [3.0]]))
    assert embedding(torch.arange(4)).tolist() == expected
    assert embedding(torch.tensor([[[3, 1]]])).tolist() == [[[expected[3], expected[1]]]]


def position_states(positions: str | None) -> list[list[float]]:
    """States of three histories, of length 4, 2 and 1, which consist of the positions' vectors 1, 2, 3, 4 alone."""
    encoder = ItemEncoder(5, 4, 1, 0.0, BARE, positions=positions)
    with torch.no_grad():
        encoder.item_embedding.weight.zero_()
        if encoder.position_embedding is not None:
            encoder.position_embedding.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    states: list[list[float]] = encoder(torch.tensor([[5, 5, 5, 5], [5, 5, 0, 0], [5, 0, 0, 0]])).squeeze(-1).tolist()
    return [row[:length] for row, length in zip(states, (4, 2, 1), strict=True)]


def test_the_newest_item_stands_at_the_same_position_whatever_the_length() -> None:
    assert position_states("newest") == [[4, 3, 2, 1], [2, 1], [1]]


def test_the_oldest_item_stands_at_the_same_position_when_positions_count_from_it() -> None:
    assert position_states("oldest") == [[1, 2, 3, 4], [1, 2], [1]]


def test_without_positions_there_is_no_table_of_them() -> None:
    assert position_states(None) == [[0, 0, 0, 0], [0, 0], [0]]
    assert "position_embedding.weight" not in ItemEncoder(5, 4, 1, 0.0, BARE, positions=None).state_dict()


def test_items_are_scaled_and_categories_are_not() -> None:
    items_BN = torch.tensor([[1, 3]])
    categories = CategoryEmbedding(CATEGORIES, 3, 4, "sum")
    encoder = ItemEncoder(3, 2, 4, 0.0, BARE, positions=None, categories=categories)
    expected_BND = 2 * encoder.item_embedding(items_BN) + categories(items_BN)
    torch.testing.assert_close(encoder(items_BN), expected_BND)
    encoder.scale = ItemEncoder(3, 2, 4, 0.0, BARE, scale_items=False).scale
    torch.testing.assert_close(encoder(items_BN), expected_BND - encoder.item_embedding(items_BN))


@every_encoder
def test_the_newest_state_is_that_of_the_newest_item(part: EncoderPart) -> None:
    torch.manual_seed(0)
    encoder = ItemEncoder(9, 5, 4, 0.3, part).eval()
    items_BN = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [7, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    torch.testing.assert_close(encoder.newest(items_BN), encoder(items_BN)[range(4), [4, 2, 0, 0]])


@every_encoder
def test_an_encoder_is_causal_by_gradient(part: EncoderPart) -> None:
    torch.manual_seed(0)
    encoder, steps_BND = part(4, 0.1), torch.randn(2, 5, 4, requires_grad=True)
    states_BND = encoder(steps_BND)
    for t in range(5):
        (gradient,) = torch.autograd.grad((states_BND[:, t] @ torch.randn(4)).sum(), steps_BND, retain_graph=True)
        assert gradient[:, t].any() and not gradient[:, t + 1 :].any()


@final
class Clock(Encoder):
    """Each step's own time in place of its vector; attends to the steps by their times."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, steps_BND: Tensor, times_BN: Tensor | None = None) -> Tensor:
        assert times_BN is not None
        return times_BN[..., None].expand(-1, -1, self.width).float()

    def attentions(self, steps_BND: Tensor, times_BN: Tensor | None = None) -> Iterator[Tensor]:
        assert times_BN is not None
        yield times_BN[:, None, None].float()


def test_an_encoder_gets_the_times_of_its_steps() -> None:
    encoder = ItemEncoder(9, 3, 2, 0.0, Clock)
    items_BN, times_BN = torch.tensor([[3, 1, 0], [9, 2, 6]]), torch.tensor([[10, 20, 0], [5, 6, 7]])
    assert encoder(items_BN, times_BN)[..., 1].tolist() == times_BN.tolist()
    assert encoder.newest(items_BN, times_BN).tolist() == [[20, 20], [7, 7]]
    [(name, weights_BHNN)] = encoder.attentions(items_BN, times_BN)
    assert name == "block 1" and weights_BHNN[:, 0, 0].tolist() == times_BN.tolist()


def test_a_recurrent_encoder_is_gated_units_on_one_another() -> None:
    """As PyTorch stacks them, when both have the same weights."""
    torch.manual_seed(0)
    encoder, steps_BND = Recurrent(4, 0.3, n_layers=2).eval(), torch.randn(3, 5, 4)
    stacked = nn.GRU(4, 4, num_layers=2, batch_first=True)
    stacked.load_state_dict(
        {
            name.replace("l0", f"l{layer}"): value
            for layer, own in enumerate(encoder.layers)
            for name, value in own.state_dict().items()
        }
    )
    torch.testing.assert_close(encoder(steps_BND), stacked(steps_BND)[0])
    assert not torch.equal(encoder.train()(steps_BND), encoder(steps_BND)), "dropout acts in training"


def test_an_encoder_without_forward_cannot_be_created() -> None:
    class Unfinished(Encoder):
        pass

    with pytest.raises(TypeError, match="forward"):
        Unfinished()  # type: ignore[abstract]


def test_tables_start_xavier_uniform_with_zero_at_pad() -> None:
    torch.manual_seed(0)
    table = ItemEncoder(999, 4, 64, 0.0, BARE).item_embedding.weight
    bound = math.sqrt(6 / (1000 + 64))
    assert not table[PAD].any()
    assert 0.99 * bound < table.abs().max().item() <= bound
    assert table[1:].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoder": partial(SelfAttention, n_blocks=-1)}, "n_blocks must be 0 or more, not -1"),
        ({"encoder": partial(SelfAttention, norm="x")}, "norm='x': choose one of pre, post"),
        ({"encoder": partial(Recurrent, n_layers=0)}, "n_layers=0: must be 1 or more"),
        ({"max_len": 0}, "max_len must be at least 1, not 0"),
        ({"width": 0}, "width d must be at least 1, not 0"),
        ({"positions": "middle"}, "positions=middle: choose one of newest, oldest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_settings_are_named(wrong: dict[str, object], message: str) -> None:
    good = {"n_items": 5, "max_len": 4, "width": 2, "dropout": 0.0, "encoder": SelfAttention}
    with pytest.raises(UserError, match=message) as caught:
        ItemEncoder(**{**good, **wrong})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
