"""TiSASRec against the plain reading of its equations, in double precision: a vector for each pair of steps."""

from itertools import pairwise
from typing import Any

import model_helpers
import numpy as np
import pytest
import torch
from model_helpers import arrays, padded, regularisers
from reference import Vector, Weights, feed_forward, layer_norm, nothing, softmax

from sairlib.batch import History
from sairlib.errors import UserError
from sairlib.models.tisasrec import TiSASRec
from sairlib.nn.intervals import personal_intervals
from sairlib.nn.layers import Dropout

M, MAX_LEN, D = 11, 6, 8
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8], [10, 11]]
TIMES = [[10, 10, 30, 35, 36], [7], [0, 60, 60, 90, 94, 1000], [5, 5]]
BASE: dict[str, Any] = {"d": D, "n_blocks": 2, "dropout": 0.3, "k": 5}
FLIPS: dict[str, Any] = {"n_blocks": 1, "n_heads": 2, "k": 3, "intervals": False, "scale_items": False}


def make_model(**options: Any) -> TiSASRec:
    model = TiSASRec(M, MAX_LEN, **{**BASE, **options})
    model_helpers.randomised(model, scale=0.5)
    return model


def shown(times: list[list[int]] | None = TIMES) -> History:
    items_BN = padded(HISTORIES)
    return History(torch.arange(len(items_BN)), items_BN, None if times is None else padded(times))


# The plain reading: one user, step, head and pair of steps at a time.


def interval(times: list[int], i: int, j: int, k: int) -> int:
    gaps = [b - a for a, b in pairwise(times[: i + 1]) if b > a]
    return min(k, (times[i] - times[j]) // min(gaps)) if gaps else 0


def encode(items: list[int], times: list[int], weights: Weights, options: dict[str, Any]) -> list[Vector]:
    drop, n_heads, d = options.get("drop", nothing), options.get("n_heads", 1), options["d"]
    scale, part = np.sqrt(d) if options.get("scale_items", True) else 1.0, d // n_heads
    xs = [drop(weights["encoder.item_embedding.weight"][item] * scale) for item in items]
    tables = {
        name: drop(weights[f"encoder.encoder.tables.{name}.weight"])
        for name in ("positions.0", "positions.1", "intervals.0", "intervals.1")
        if f"encoder.encoder.tables.{name}.weight" in weights
    }
    for block in range(options["n_blocks"]):
        name = f"encoder.encoder.blocks.{block}"
        w_q, w_k, w_v = np.split(weights[f"{name}.query_key_value.weight"], 3)
        normed = [layer_norm(x, weights, f"{name}.attention_norm") for x in xs]
        changed = []
        for i, x in enumerate(xs):
            heads = []
            for head in range(n_heads):
                rows = slice(head * part, (head + 1) * part)
                keys, values = [], []
                for j in range(i + 1):
                    key = w_k @ normed[j] + tables["positions.0"][j]
                    value = w_v @ normed[j] + tables["positions.1"][j]
                    if options.get("intervals", True):
                        apart = interval(times, i, j, options["k"])
                        key, value = key + tables["intervals.0"][apart], value + tables["intervals.1"][apart]
                    keys.append(key[rows])
                    values.append(value[rows])
                query = (w_q @ normed[i])[rows]
                alpha = [drop(a) for a in softmax([float(query @ key) / np.sqrt(part) for key in keys])]
                heads.append(sum(a * value for a, value in zip(alpha, values, strict=True)))
            z = x + drop(np.concatenate(heads))
            inner = layer_norm(z, weights, f"{name}.feed_forward_norm")
            changed.append(z + drop(feed_forward(inner, weights, f"{name}.feed_forward", drop)))
        xs = changed
    return [layer_norm(x, weights, "encoder.encoder.final_norm") for x in xs]


@torch.no_grad()
def check_against_plain(model: TiSASRec, options: dict[str, Any]) -> None:
    weights = arrays(model)
    states_BND, newest_BM = model.encode(shown()), model.head.score_all(model.newest(shown()))
    table = weights["encoder.item_embedding.weight"]
    for user, items in enumerate(HISTORIES):
        expected = encode(items, TIMES[user], weights, options)
        np.testing.assert_allclose(states_BND[user, : len(items)].numpy(), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(newest_BM[user].numpy(), table @ expected[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "options", [{}, *({name: value} for name, value in FLIPS.items()), {"n_heads": 4, "intervals": False}], ids=str
)
def test_equals_the_plain_equations(options: dict[str, Any]) -> None:
    check_against_plain(make_model(**options), {**BASE, **options})


@pytest.mark.parametrize("options", [{}, {"n_heads": 2}], ids=str)
def test_dropout_falls_where_the_equations_have_it(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine in the place of dropout, here and there. It makes masked weights 1: only the newest step is compared,
    in histories of the full length."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: torch.where(x == 0, x, x.cos()))
    model = make_model(**{**options, "n_blocks": 1})
    expected = encode(
        HISTORIES[2],
        TIMES[2],
        arrays(model),
        {**BASE, **options, "n_blocks": 1, "drop": lambda x: np.where(x == 0, x, np.cos(x))},
    )
    with torch.no_grad():
        np.testing.assert_allclose(model.newest(shown())[2].numpy(), expected[-1], rtol=1e-9, atol=1e-9)


def test_intervals_are_counted_by_each_persons_smallest_so_far() -> None:
    found = personal_intervals(torch.tensor([[0, 60, 60, 90, 94, 1000], [5, 5, 5, 6, 0, 0]]), 30)
    assert found[0].tolist() == [
        [0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [3, 1, 1, 0, 0, 0],
        [23, 8, 8, 1, 0, 0],
        [30, 30, 30, 30, 30, 0],
    ]
    assert found[1, :4, :4].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    days = torch.tensor([[0.0, 0.5, 2.25]])
    assert personal_intervals(days, 30)[0].tolist() == [[0, 0, 0], [1, 0, 0], [4, 3, 0]]


@torch.no_grad()
def test_intervals_change_the_states_and_their_unit_does_not() -> None:
    model = make_model()
    before_BND = model.encode(shown())
    doubled, later = [[2 * time for time in row] for row in TIMES], [row.copy() for row in TIMES]
    torch.testing.assert_close(model.encode(shown(doubled)), before_BND)
    later[2][4:] = [100, 1000]  # a smaller smallest interval, from the fifth step on
    after_BND = model.encode(shown(later))
    assert torch.equal(before_BND[2, :4], after_BND[2, :4])
    assert (before_BND[2, 4] - after_BND[2, 4]).abs().max() > 1e-3


def test_the_attention_shown_is_that_of_the_states() -> None:
    model = make_model(n_blocks=1, n_heads=2)
    [(name, weights_BHNN)] = model.attentions(shown())
    assert name == "block 1" and not weights_BHNN.triu(1).any()
    torch.testing.assert_close(weights_BHNN.sum(-1), torch.ones(weights_BHNN.shape[:-1], dtype=torch.float64))


def test_l2_is_half_the_squares_of_all_tables() -> None:
    model = make_model(l2=0.01)
    squares = sum((a**2).sum() for key, a in arrays(model).items() if "embedding" in key or "tables" in key)
    assert regularisers(model)["l2"].item() == pytest.approx(0.005 * squares)
    assert not regularisers(make_model(l2=0.0))
    assert model.encoder.item_embedding.whole and not make_model(l2=0.0).encoder.item_embedding.whole


def test_without_times_it_refuses_or_does_without() -> None:
    with pytest.raises(UserError, match="looks at the times"):
        make_model().encode(shown(None))
    without = make_model(intervals=False)
    assert make_model().needs_times == "intervals" and without.needs_times is None
    assert torch.equal(without.encode(shown(None)), without.encode(shown()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "width"),
        ({"n_blocks": 0}, "n_blocks=0: must be 1 or more"),
        ({"k": 0}, "k=0: must be 1 or more"),
        ({"n_heads": 3}, "n_heads=3 does not divide the width 8"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"l2": -1.0}, "l2=-1.0: must be 0 or more"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TiSASRec(M, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
