"""FuXi-alpha against the plain reading of its equations, in double precision, every option both ways."""

from typing import Any

import model_helpers
import numpy as np
import pytest
import torch
from reference import Vector, Weights, feed_forward, nothing
from timed_histories import MAX_LEN, D, M, bucket, check_against_plain, shown, silu

from sairlib.errors import UserError
from sairlib.models.fuxi_alpha import FuXiAlpha
from sairlib.models.heads import ByCosines, ByProducts
from sairlib.nn.layers import Dropout

BASE: dict[str, Any] = {"d": D, "d_qk": 3, "d_v": 5, "n_blocks": 2, "dropout": 0.3}
FLIPS: dict[str, Any] = {
    "n_blocks": 1,
    "n_heads": 2,
    "d_qk": 7,
    "d_v": 2,
    "ffn_width": 13,
    "position_channel": False,
    "time_channel": False,
    "positions": "newest",
    "head": ByProducts(),
}
PAIRS = [
    {"n_heads": 3, "n_blocks": 3},
    {"positions": None, "time_channel": False},
    {"head": ByCosines(2.0)},
]


def make_model(**options: Any) -> FuXiAlpha:
    model = FuXiAlpha(M, MAX_LEN, **{**BASE, **options})
    model_helpers.randomised(model, scale=0.5)
    return model


# The plain reading: one user, step, head and layer at a time.


def norm(x: Vector) -> Vector:
    return x / np.sqrt(sum(value**2 for value in x) / len(x) + 1e-6)


def encode(items: list[int], times: list[int], weights: Weights, options: dict[str, Any]) -> list[Vector]:
    drop, n_heads, n = options.get("drop", nothing), options.get("n_heads", 1), len(items)
    d_qk, d_v, positions = options["d_qk"], options["d_v"], options.get("positions", "oldest")
    xs = []
    for t, item in enumerate(items):
        x = weights["encoder.item_embedding.weight"][item] * np.sqrt(options["d"])
        if positions is not None:
            x = x + weights["encoder.position_embedding.weight"][t if positions == "oldest" else n - 1 - t]
        xs.append(drop(x))
    for block in range(options["n_blocks"]):
        name = f"encoder.encoder.blocks.{block}"
        n_channels = 1 + options.get("position_channel", True) + options.get("time_channel", True)
        cuts = np.cumsum([n_channels * n_heads * d_v, n_heads * d_v, n_heads * d_qk])
        parts = [np.split(silu(weights[f"{name}.uvqk.weight"] @ norm(x)), cuts) for x in xs]
        changed = []
        for t, x in enumerate(xs):
            joined = []
            for head in range(n_heads):
                qk, v = slice(head * d_qk, (head + 1) * d_qk), slice(head * d_v, (head + 1) * d_v)
                values = [parts[j][1][v] for j in range(t + 1)]
                if options.get("position_channel", True):
                    table = weights[f"{name}.position_weight.weight"]
                    joined.append(sum(table[t - j] * value for j, value in enumerate(values)))
                if options.get("time_channel", True):
                    table = weights[f"{name}.time_weight.weight"]
                    joined.append(sum(table[bucket(times[t] - times[j])] * value for j, value in enumerate(values)))
                alike = [silu(parts[t][2][qk] @ parts[j][3][qk]) / MAX_LEN for j in range(t + 1)]
                joined.append(sum(a * value for a, value in zip(alike, values, strict=True)))
            gated = drop(norm(np.concatenate(joined)) * parts[t][0])
            x = x + weights[f"{name}.output.weight"] @ gated + weights[f"{name}.output.bias"]
            changed.append(x + feed_forward(drop(norm(x)), weights, f"{name}.feed_forward", nothing))
        xs = changed
    return xs


@pytest.mark.parametrize("options", [{}, *({name: value} for name, value in FLIPS.items()), *PAIRS], ids=str)
def test_equals_the_plain_equations(options: dict[str, Any]) -> None:
    check_against_plain(make_model(**options), encode, {**BASE, **options})


def test_dropout_falls_where_the_equations_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine in the place of dropout, here and there: it commutes with nothing beside it."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x.cos() if self.p else x)
    check_against_plain(make_model(), encode, {**BASE, "drop": np.cos})


def test_without_times_it_refuses_or_does_without() -> None:
    with pytest.raises(UserError, match="looks at the times"):
        make_model().encode(shown(None))
    without = make_model(time_channel=False)
    assert make_model().needs_times == "time_channel" and without.needs_times is None
    assert torch.equal(without.encode(shown(None)), without.encode(shown()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "width"),
        ({"n_blocks": 0}, "n_blocks=0: must be 1 or more"),
        ({"n_heads": 0}, "n_heads=0: must be 1 or more"),
        ({"d_qk": 0}, "d_qk=0: must be 1 or more"),
        ({"d_v": -1}, "d_v=-1: must be 1 or more"),
        ({"ffn_width": 0}, "ffn_width=0: must be 1 or more"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"positions": "middle"}, "positions=middle"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        FuXiAlpha(M, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
