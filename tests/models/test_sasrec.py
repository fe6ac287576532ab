"""SASRec against the plain reading of its equations, in double precision, every option both ways."""

from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import arrays, has_user_table, padded
from reference import sasrec
from small_data import history
from torch import Tensor

from sairlib.batch import History
from sairlib.errors import UserError
from sairlib.models.sasrec import SASRec
from sairlib.nn.layers import Dropout

M, USERS, MAX_LEN, D = 11, 4, 6, 8
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8], [10, 11]]
BASE: dict[str, Any] = {"d": D, "n_blocks": 2, "dropout": 0.3}
FLIPS: dict[str, Any] = {
    "n_blocks": 1,
    "n_heads": 2,
    "norm": "post",
    "positional_embedding": False,
    "shared_item_embedding": False,
    "residual": False,
    "user_embedding": True,
    "scale_items": False,
    "output_projection": True,
    "ffn_width": 20,
    "gated": True,
    "ffn": "swiglu",
    "final_norm": False,
}
PAIRS = [
    {"norm": "post", "n_heads": 2},
    {"norm": "post", "residual": False},
    {"n_heads": 4, "output_projection": True, "user_embedding": True, "shared_item_embedding": False},
    {"n_blocks": 0},
    {"gated": True, "norm": "post", "ffn_width": 3},
    {"gated": True, "residual": False},
    {"gated": True, "ffn": "swiglu", "ffn_width": 20, "final_norm": False, "output_projection": True, "n_heads": 2},
]


def make_model(**options: Any) -> SASRec:
    """In eval mode and double precision, all weights but PAD's random: initial biases are 0 and gains 1."""
    torch.manual_seed(0)
    model = SASRec(M, USERS, MAX_LEN, **{**BASE, **options}).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(sum(map(ord, key)))  # the same weights for every option
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise + (1 if key.endswith("norm.weight") else 0))
        for table in (model.encoder.item_embedding, model.output_embedding):
            if table is not None:
                table.weight[0] = 0
    return model


@torch.no_grad()
def scores(model: SASRec) -> list[Tensor]:
    """Of items 1..M at every real step, one tensor (n, M) for each user."""
    states_BND = model.encode(history(padded(HISTORIES)))
    return [model.head.score_all(states_BND[user, : len(row)])[:, 1:] for user, row in enumerate(HISTORIES)]


@pytest.mark.parametrize("options", [{}, *({name: value} for name, value in FLIPS.items()), *PAIRS], ids=str)
def test_equals_the_plain_equations(options: dict[str, Any]) -> None:
    model = make_model(**options)
    for user, (row, actual) in enumerate(zip(HISTORIES, scores(model), strict=True)):
        expected = sasrec(row, user, arrays(model), {**BASE, **options})
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"norm": "post"}, {"ffn": "swiglu"}], ids=str)
def test_dropout_falls_where_the_equations_have_it(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine in the place of dropout, here and there: it commutes with nothing beside it."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x.cos())
    model = make_model(**options)
    for user, (row, actual) in enumerate(zip(HISTORIES, scores(model), strict=True)):
        expected = sasrec(row, user, arrays(model), {**BASE, **options, "drop": np.cos})
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FLIPS)
def test_every_option_changes_the_scores(name: str) -> None:
    before, after = scores(make_model()), scores(make_model(**{name: FLIPS[name]}))
    assert max((a - b).abs().max() for a, b in zip(before, after, strict=True)) > 1e-3


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"attention_dropout": 0.5}], ids=str)
def test_dropouts_act_in_training_alone(options: dict[str, float]) -> None:
    none = make_model(dropout=0.0)
    model = make_model(**{"dropout": 0.0, **options})
    assert all(torch.equal(a, b) for a, b in zip(scores(none), scores(model), strict=True))
    trained = scores(model.train())
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(scores(none.train()), trained, strict=True))
    assert not torch.equal(trained[0], scores(model)[0]), "each pass draws its own"


@pytest.mark.parametrize("options", [{}, {"shared_item_embedding": False}], ids=str)
def test_score_is_score_all_gathered(options: dict[str, Any]) -> None:
    model = make_model(**options)
    states_BD = torch.randn(2, D, dtype=torch.float64)
    items_BC = torch.randint(1, M + 1, (2, 20))
    torch.testing.assert_close(
        model.head.score(states_BD, items_BC), model.head.score_all(states_BD).gather(1, items_BC)
    )


def test_every_parameter_learns_with_all_options_on() -> None:
    model = make_model(
        user_embedding=True,
        shared_item_embedding=False,
        output_projection=True,
        attention_dropout=0.1,
        gated=True,
        ffn="swiglu",
    ).train()
    states_BND = model.encode(history(padded(HISTORIES)))
    model.head.score(states_BND, torch.randint(1, M + 1, (USERS, MAX_LEN, 3))).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        parts = parameter.grad.chunk(3) if "query_key_value" in key else (parameter.grad,)
        assert all(part.any() for part in parts), key


def test_unknown_users_are_refused_by_a_model_with_a_user_table() -> None:
    items_BN = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(UserError, match=r"user number .* is unknown"):
        make_model(user_embedding=True).encode(History(torch.tensor([0, USERS]), items_BN))
    assert has_user_table(make_model(user_embedding=True)) and not has_user_table(make_model())
    assert make_model().encode(History(torch.tensor([0, USERS]), items_BN)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 3}, "n_heads=3 does not divide the width 8"),
        ({"n_heads": 0}, "n_heads=0"),
        ({"ffn": "gelu"}, "ffn='gelu': choose one of relu, swiglu"),
        ({"norm": "post", "final_norm": False}, "final_norm=false needs norm=pre"),
        ({"norm": "batch"}, "norm='batch': choose one of pre, post"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"dropout": -0.1}, "dropout must be in"),
        ({"attention_dropout": 1.5}, "attention_dropout must be in"),
        ({"n_blocks": -1}, "n_blocks must be 0 or more, not -1"),
        ({"d": 0}, "width"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SASRec(M, USERS, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
