"""HSTU against the plain reading of its equations, in double precision, every option both ways; and inside SAIR."""

import sys
from pathlib import Path
from typing import Any

import model_helpers
import numpy as np
import pytest
import torch
from reference import Vector, Weights, nothing
from timed_histories import MAX_LEN, TIMES, D, M, bucket, check_against_plain, shown, silu
from torch import Tensor

from sairlib.errors import UserError
from sairlib.exporting.check import difference
from sairlib.exporting.programs import scores, trace
from sairlib.models.heads import ByCosines, ByProducts
from sairlib.models.hstu import HSTU
from sairlib.nn.layers import Dropout
from sairlib.nn.relative import back

sys.path.append(str(Path(__file__).parents[1] / "contracts"))

BASE: dict[str, Any] = {"d": D, "d_qk": 3, "d_v": 5, "n_blocks": 2, "dropout": 0.3}
FLIPS: dict[str, Any] = {
    "n_blocks": 1,
    "n_heads": 2,
    "d_qk": 7,
    "d_v": 2,
    "position_bias": False,
    "time_bias": False,
    "positions": "newest",
    "head": ByProducts(),
}
PAIRS = [{"n_heads": 3, "n_blocks": 3}, {"positions": None, "time_bias": False}, {"head": ByCosines(2.0)}]


def make_model(**options: Any) -> HSTU:
    model = HSTU(M, MAX_LEN, **{**BASE, **options})
    model_helpers.randomised(model, scale=0.5)
    return model


# The plain reading: one user, step, head and layer at a time.


def norm(x: Vector) -> Vector:
    mean = sum(x) / len(x)
    return (x - mean) / np.sqrt(sum((value - mean) ** 2 for value in x) / len(x) + 1e-6)


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
        cuts = np.cumsum([n_heads * d_v, n_heads * d_v, n_heads * d_qk])
        parts = [np.split(silu(weights[f"{name}.uvqk.weight"] @ norm(x)), cuts) for x in xs]
        changed = []
        for t, x in enumerate(xs):
            heads = []
            for head in range(n_heads):
                qk, v = slice(head * d_qk, (head + 1) * d_qk), slice(head * d_v, (head + 1) * d_v)
                mixed = np.zeros(d_v)
                for j in range(t + 1):
                    score = parts[t][2][qk] @ parts[j][3][qk]
                    if options.get("position_bias", True):
                        score = score + weights[f"{name}.position_bias.weight"][t - j]
                    if options.get("time_bias", True):
                        score = score + weights[f"{name}.time_bias.weight"][bucket(times[t] - times[j])]
                    mixed = mixed + silu(score) / MAX_LEN * parts[j][1][v]
                heads.append(mixed)
            gated = drop(norm(np.concatenate(heads)) * parts[t][0])
            changed.append(x + weights[f"{name}.output.weight"] @ gated + weights[f"{name}.output.bias"])
        xs = changed
    return xs


@pytest.mark.parametrize("options", [{}, *({name: value} for name, value in FLIPS.items()), *PAIRS], ids=str)
def test_equals_the_plain_equations(options: dict[str, Any]) -> None:
    check_against_plain(make_model(**options), encode, {**BASE, **options})


def test_dropout_falls_where_the_equations_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine in the place of dropout, here and there: it commutes with nothing beside it."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x.cos())
    check_against_plain(make_model(), encode, {**BASE, "drop": np.cos})


def test_times_are_counted_in_buckets_that_grow_by_35_percent() -> None:
    seconds = [0, 1, 2, 60, 3600, 86_400, 31_557_600, 10**18]
    times_BN = torch.tensor([[0, second] for second in seconds])
    found = back(torch.zeros(len(seconds), 2, 1), times_BN, 2, 129).times
    assert found is not None
    assert found[:, 1, 0].tolist() == [0, 0, 2, 13, 27, 37, 57, 128]
    assert not found[:, 0].any(), "the future is in the first"


@torch.no_grad()
def test_a_later_time_changes_later_states_alone() -> None:
    model = make_model()
    later = [row.copy() for row in TIMES]
    later[2][4] += 500_000  # of the fifth of six steps
    before_BND, after_BND = model.encode(shown()), model.encode(shown(later))
    assert torch.equal(before_BND[2, :4], after_BND[2, :4])
    assert (before_BND[2, 4:6] - after_BND[2, 4:6]).abs().amax(-1).min() > 1e-3
    moved = [[time + 10**6 for time in row] for row in TIMES]
    torch.testing.assert_close(model.encode(shown(moved)), before_BND)


@torch.no_grad()
def test_item_vectors_are_scaled_the_same_way_few_or_many_at_a_time() -> None:
    table, head = make_model().encoder.item_embedding, make_model().head
    states_BD, many_BC = torch.randn(3, D, dtype=torch.float64), torch.randint(1, M + 1, (3, 20))
    assert many_BC.numel() > len(table.weight) > many_BC[:, :2].numel()
    torch.testing.assert_close(head.score(states_BD, many_BC)[:, :2], head.score(states_BD, many_BC[:, :2]))


def test_without_times_it_refuses_or_does_without() -> None:
    with pytest.raises(UserError, match="looks at the times"):
        make_model().encode(shown(None))
    without = make_model(time_bias=False)
    assert make_model().needs_times and not without.needs_times
    assert torch.equal(without.encode(shown(None)), without.encode(shown()))


def test_without_times_it_is_exported() -> None:
    from all_models import MAX_LEN as LONGEST
    from all_models import split, store

    from sairlib.evaluation.evaluator import Evaluator
    from sairlib.evaluation.rankings import EvaluationSettings
    from sairlib.run.finished import Run

    torch.manual_seed(0)
    model = HSTU(split().dataset.n_items, LONGEST, time_bias=False).eval()
    evaluator = Evaluator(split(), store(), EvaluationSettings(n_candidates=2, ks=(1,), batch_size=4))
    program = trace(model, "scores", LONGEST).module()

    def call(items_BN: Tensor, users_B: Tensor) -> Tensor:
        found: Tensor = program(items_BN)
        return found

    run = Run({}, split(), store(), model, evaluator, 1)
    found = difference(run, lambda history: scores(model, model.newest(history)), call)
    assert (found.shortest, found.longest) == (1, LONGEST) and found.relative < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "width"),
        ({"n_blocks": 0}, "n_blocks=0: must be 1 or more"),
        ({"n_heads": 0}, "n_heads=0: must be 1 or more"),
        ({"d_qk": 0}, "d_qk=0: must be 1 or more"),
        ({"d_v": -1}, "d_v=-1: must be 1 or more"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"positions": "middle"}, "positions=middle"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        HSTU(M, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
