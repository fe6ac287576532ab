"""Positions, categories, and the PAD rows of the tables; the blocks are tested in tests/models."""

import math

import pytest
import torch

from sairlib.batch import PAD
from sairlib.errors import UserError
from sairlib.nn.item_encoder import CategoryEmbedding, ItemEncoder

CATEGORIES = torch.tensor([[0, 0, 0], [1, 2, 3], [3, 0, 0], [2, 1, 0]])


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ("mean", [[0.0], [2.0], [3.0], [1.5]]),
        ("sum", [[0.0], [6.0], [3.0], [3.0]]),
        ("first", [[0], [1.0], [3.0], [2.0]]),
    ],
)
def test_pooling(pooling: str, wanted: list[list[float]]) -> None:
    embedding = CategoryEmbedding(CATEGORIES, 3, 1, pooling)
    with torch.no_grad():
        embedding.table.weight.copy_(torch.tensor([[100.0], [1.0], [2.0], [3.0]]))
    assert embedding(torch.arange(4)).tolist() == wanted
    assert embedding(torch.tensor([[[3, 1]]])).tolist() == [[[wanted[3], wanted[1]]]]


def test_the_newest_item_stands_at_the_same_position_whatever_the_length() -> None:
    encoder = ItemEncoder(n_items=5, max_len=4, width=1, n_blocks=0, n_heads=1, dropout=0.0, norm="post")
    assert encoder.position_embedding is not None
    with torch.no_grad():
        encoder.item_embedding.weight.zero_()
        encoder.position_embedding.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    states = encoder(torch.tensor([[5, 5, 5, 5], [5, 5, 0, 0], [5, 0, 0, 0]])).squeeze(-1).tolist()
    assert states[0] == [4, 3, 2, 1]
    assert states[1][:2] == [2, 1]
    assert states[2][:1] == [1]


def test_tables_start_xavier_uniform_with_zero_at_pad() -> None:
    torch.manual_seed(0)
    table = ItemEncoder(n_items=999, max_len=4, width=64, n_blocks=0, n_heads=1, dropout=0.0).item_embedding.weight
    bound = math.sqrt(6 / (1000 + 64))
    assert not table[PAD].any()
    assert 0.99 * bound < table.abs().max().item() <= bound
    assert table[1:].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"n_blocks": -1}, "n_blocks"), ({"max_len": 0}, "max_len"), ({"width": 0}, "width"), ({"norm": "x"}, "norm='x'")],
    ids=str,
)
def test_bad_settings_are_named(wrong: dict[str, object], message: str) -> None:
    good = {"n_items": 5, "max_len": 4, "width": 2, "n_blocks": 1, "n_heads": 1, "dropout": 0.0}
    with pytest.raises(UserError, match=message) as caught:
        ItemEncoder(**{**good, **wrong})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
