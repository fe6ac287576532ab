"""AttRec against its equations written out in numpy: one user, one step, one pair of items at a time."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import arrays, read_by_rows, regularisers
from numpy.typing import NDArray
from objective_helpers import next_item
from reference import Vector, Weights, nothing, softmax
from small_data import history, make_dataset, make_targets
from torch import Tensor

from sairlib.batch import PAD, History
from sairlib.data.sequences import Rows, SequenceStore
from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.models.attrec import AttRec
from sairlib.nn.layers import Dropout
from sairlib.training.pairwise_losses import Hinge

M, USERS, MAX_LEN, D = 11, 9, 9, 6
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8, 9, 2, 10], [10, 11], [1, 2, 3], [7, 7], [4, 5, 6, 7], [1] * 6, []]
BASE: dict[str, Any] = {"d": D, "n_recent": 4, "w": 0.3, "dropout": 0.3, "l2": 0.01}
FLIPS: dict[str, Any] = {"mode": "inner", "n_recent": 6, "w": 0.8, "shared_projection": True}
OPTIONS = [
    {},
    *({name: value} for name, value in FLIPS.items()),
    {"mode": "inner", "shared_projection": True, "n_recent": 3},
    {"n_recent": 2},
    {"n_recent": MAX_LEN + 3},
    {"w": 0},
    {"w": 1},
    {"d": 5},
    {"mode": "inner", "d": 1},
]


def time_signal(t: int, width: int) -> Vector:
    out = np.zeros(width)
    for j in range(width):
        angle = t / 10000 ** (2 * (j // 2) / width)
        out[j] = np.cos(angle) if j % 2 else np.sin(angle)
    return out


def short_term(items: list[int], weights: Weights, options: dict[str, Any]) -> Vector:
    """m after the last of ``items``: Z = A X with the diagonal of A masked, and the mean of its rows."""
    size, drop = options["n_recent"], options.get("drop", nothing)
    table: NDArray[np.float64] = weights["item_embedding.weight"]
    to_query = weights["query.weight"]
    to_key = to_query if options.get("shared_projection", False) else weights["key.weight"]
    window = items[-size:]
    if not window:
        return np.zeros(table.shape[1])
    if len(window) == 1:
        return table[window[0]]
    queries, keys = [], []
    for slot, item in enumerate(window, size - len(window)):
        timed = table[item] + time_signal(slot, table.shape[1])
        queries.append(drop(np.maximum(to_query @ timed, 0)))
        keys.append(drop(np.maximum(to_key @ timed, 0)))
    rows = []
    for i, query in enumerate(queries):
        others = [j for j in range(len(window)) if j != i]
        weigh = softmax([float(query @ keys[j]) / np.sqrt(table.shape[1]) for j in others])
        rows.append(sum(a * table[window[j]] for a, j in zip(weigh, others, strict=True)))
    return sum(rows) / len(rows)


def attrec(items: list[int], user: int, weights: Weights, options: dict[str, Any]) -> list[list[float]]:
    """Scores of items 1..M at every step; before the first, of a user without any."""
    w, inner = options["w"], options.get("mode", "distance") == "inner"
    u = weights["user_embedding.weight"][user]
    scores = []
    for t in range(max(1, len(items))):
        m = short_term(items[: t + 1], weights, options)
        row = []
        for v, x in zip(weights["long_embedding.weight"][1:], weights["item_embedding.weight"][1:], strict=True):
            if inner:
                row.append(w * float(u @ v) + (1 - w) * float(m @ x))
            else:
                row.append(-(w * sum((a - b) ** 2 for a, b in zip(u, v, strict=True))))
                row[-1] -= (1 - w) * sum((a - b) ** 2 for a, b in zip(m, x, strict=True))
        scores.append(row)
    return scores


def make_model(**options: Any) -> AttRec:
    """In eval mode and double precision, all weights but PAD's random and of some size."""
    torch.manual_seed(0)
    model = AttRec(M, USERS, **{**BASE, **options}).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(sum(map(ord, key)))
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model.item_embedding.weight[PAD] = model.long_embedding.weight[PAD] = 0
    # The model's own table is in single precision.
    size, width = model.time_LD.shape
    signal = torch.from_numpy(np.stack([time_signal(t, width) for t in range(size)]))
    torch.testing.assert_close(model.time_LD, signal, rtol=0, atol=1e-6)
    model.time_LD = signal
    return model


def padded(histories: list[list[int]] = HISTORIES) -> Tensor:
    return torch.tensor([row + [PAD] * (MAX_LEN - len(row)) for row in histories])


def users(items_BN: Tensor) -> Tensor:
    return torch.arange(len(items_BN))


@torch.no_grad()
def scores(model: AttRec) -> list[Tensor]:
    """Of items 1..M at every real step, one tensor (n, M) for each user."""
    states_BND = model.encode(history(padded()))
    every_BNM = torch.arange(1, M + 1).expand(*states_BND.shape[:2], -1)
    scores_BNM = model.head.score(states_BND, every_BNM)
    return [scores_BNM[user, : max(1, len(row))] for user, row in enumerate(HISTORIES)]


def check_equal(model: AttRec, options: dict[str, Any]) -> None:
    for user, (row, actual) in enumerate(zip(HISTORIES, scores(model), strict=True)):
        np.testing.assert_allclose(actual.numpy(), attrec(row, user, arrays(model), options), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_plain_equations(options: dict[str, Any]) -> None:
    check_equal(make_model(**options), {**BASE, **options})


@pytest.mark.parametrize("options", [{}, {"shared_projection": True}], ids=str)
def test_dropout_falls_on_the_projections_alone(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine in the place of dropout, here and there: it commutes with nothing beside it."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x.cos())
    check_equal(make_model(**options), {**BASE, **options, "drop": np.cos})


def test_dropout_acts_in_training_alone() -> None:
    model, none = make_model(dropout=0.5), make_model(dropout=0.0)
    assert all(torch.equal(a, b) for a, b in zip(scores(none), scores(model), strict=True))
    first, again = scores(model.train()), scores(model)
    assert not torch.equal(first[0], again[0]), "each pass draws its own"
    assert all(torch.equal(a, b) for a, b in zip(scores(none), scores(none.train()), strict=True))


@pytest.mark.parametrize("name", FLIPS)
def test_every_option_changes_the_scores(name: str) -> None:
    before, after = scores(make_model()), scores(make_model(**{name: FLIPS[name]}))
    assert max((a - b).abs().max() for a, b in zip(before, after, strict=True)) > 1e-3


def test_an_empty_window_is_the_origin_one_item_itself_and_two_items_their_mean() -> None:
    """With the diagonal masked, each of two items can attend to the other alone, whatever the projections."""
    model = make_model()
    short_BND = model.encode(history(padded()))[..., D:]
    table = model.item_embedding.weight
    torch.testing.assert_close(short_BND[1, 0], table[9])
    torch.testing.assert_close(short_BND[3, 1], (table[10] + table[11]) / 2)
    assert not short_BND[-1, 0].any()


def test_a_state_is_of_the_last_items_and_the_user_alone() -> None:
    model, items_BN = make_model(), padded()
    others_BN = items_BN.clone()
    others_BN[:, :3] = torch.where(items_BN[:, :3] == PAD, PAD, M + 1 - items_BN[:, :3])
    before, after = (model.encode(history(items)) for items in (items_BN, others_BN))
    full_B = (items_BN != PAD).sum(1) > 6  # n_recent = 4: steps 6 and later see steps 3 and later
    assert full_B.any() and torch.equal(before[full_B, 6:], after[full_B, 6:])
    assert not torch.allclose(before[full_B, 5], after[full_B, 5])
    torch.testing.assert_close(
        model.newest(history(items_BN)),
        torch.stack([before[user, max(0, len(row) - 1)] for user, row in enumerate(HISTORIES)]),
    )
    other_users = model.encode(History((users(items_BN) + 1) % USERS, items_BN))
    torch.testing.assert_close(other_users[..., D:], before[..., D:])
    assert not torch.allclose(other_users[..., :D], before[..., :D])


@pytest.mark.parametrize("mode", ["distance", "inner"])
def test_full_ranking_is_the_pairwise_one(mode: str) -> None:
    model = make_model(mode=mode).float()
    states_BND = torch.randn(3, 4, 2 * D)
    items_C = torch.randperm(M)[:5] + 1
    every_M = torch.arange(M + 1)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    close(model.head.score_all(states_BND[0]), model.head.score(states_BND[0], every_M.expand(4, -1)))
    close(model.head.score_shared(states_BND, items_C), model.head.score(states_BND, items_C.expand(3, 4, -1)))
    close(model.head.score_shared(states_BND[0], items_C), model.head.score(states_BND[0], items_C.expand(4, -1)))


@pytest.mark.parametrize("mode", ["distance", "inner"])
@torch.no_grad()
def test_distances_do_not_change_when_everything_is_moved(mode: str) -> None:
    """X by one vector, U and V by another. Attention sees X from the origin, so its weights are held alike."""
    model = make_model(mode=mode)
    model.query.weight.zero_()
    before = scores(model)
    model.item_embedding.weight[1:] += torch.randn(D, dtype=torch.float64)
    moved = torch.randn(D, dtype=torch.float64)
    model.long_embedding.weight[1:] += moved
    model.user_embedding.weight += moved
    for row, a, b in zip(HISTORIES, before, scores(model), strict=True):
        if row:
            assert torch.allclose(a, b) == (mode == "distance")


def test_after_a_step_rows_longer_than_1_are_scaled_back_and_no_others() -> None:
    model = make_model().float()
    tables = (model.user_embedding, model.long_embedding, model.item_embedding)
    with torch.no_grad():
        for table in tables:
            table.weight[2] *= 0.9 / table.weight[2].norm()
    before = [table.weight.detach().clone() for table in tables]
    model.after_step()
    for table, old in zip(tables, before, strict=True):
        long = old.norm(dim=1) > 1
        assert long.any() and torch.equal(table.weight[~long], old[~long])
        torch.testing.assert_close(table.weight[long], old[long] / old[long].norm(dim=1, keepdim=True))
    inner = make_model(mode="inner")
    old = inner.item_embedding.weight.detach().clone()
    inner.after_step()
    assert torch.equal(inner.item_embedding.weight, old) and old.norm(dim=1).max() > 1


def test_l2_is_on_the_projections() -> None:
    model = make_model(l2=0.5)
    penalty = regularisers(model)["l2"]
    torch.testing.assert_close(penalty, 0.5 * (model.query.weight.square().sum() + model.key.weight.square().sum()))
    penalty.backward()
    torch.testing.assert_close(model.query.weight.grad, model.query.weight.detach())
    assert model.item_embedding.weight.grad is None
    shared = make_model(l2=0.5, shared_projection=True)
    torch.testing.assert_close(regularisers(shared)["l2"], 0.5 * shared.query.weight.square().sum())
    assert regularisers(make_model(l2=0.0)) == {}


@pytest.mark.parametrize("options", [{}, {"mode": "inner"}, {"shared_projection": True}], ids=str)
def test_every_parameter_learns_without_the_regulariser(options: dict[str, Any]) -> None:
    model = make_model(**options).train()
    states_BND = model.encode(history(padded()))
    model.head.score(states_BND, torch.randint(1, M + 1, (USERS, MAX_LEN, 3))).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any() and parameter.grad.isfinite().all(), key


def store_of(items_BN: Tensor, n_items: int) -> SequenceStore:
    """A store that trains on whole sequences and holds nothing out."""
    n_users, width = items_BN.shape
    dataset = make_dataset(items_BN.tolist(), n_items)
    split = Split(dataset, np.full(n_users, width), make_targets(), make_targets())
    return SequenceStore(split, width, torch.device("cpu"))


def test_training_brings_targets_closer_than_unseen_items() -> None:
    """Guards the sign of the hinge loss on distances: a state's target comes closer, other items do not."""
    torch.manual_seed(0)
    n_items, items_BN = 24, torch.stack([torch.randperm(24)[:8] + 1 for _ in range(8)])
    model = AttRec(n_items, 8, d=50)
    with torch.no_grad():  # rows of length 1, about sqrt(2) apart: there is room to fall
        for table in (model.user_embedding, model.long_embedding, model.item_embedding):
            table.weight.copy_(torch.nn.functional.normalize(table.weight, eps=1e-9))
    objective = next_item(store_of(items_BN, n_items), loss=Hinge())
    objective.check(model)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def distances() -> tuple[float, float]:
        """Mean distances to the targets, and to the nearest unseen item; computed without the model's scores."""
        long, short = model.eval().encode(History(torch.arange(8), items_BN[:, :-1]))[:, :, None].chunk(2, -1)
        long_BNM = (long - model.long_embedding.weight).square().sum(-1)
        all_BNM = model.w * long_BNM + (1 - model.w) * (short - model.item_embedding.weight).square().sum(-1)
        targets = all_BNM.gather(-1, items_BN[:, 1:, None])
        all_BNM[..., PAD] = torch.inf
        others = all_BNM.scatter(-1, items_BN[:, None].expand(-1, 7, -1), torch.inf)
        return float(targets.mean()), float(others.min(-1).values.mean())

    before, _ = distances()
    for _ in range(60):
        [(batch, _)] = objective.batches(Rows(torch.arange(8), 7), generator)
        model.train()
        total = torch.stack(list(objective.loss(model, batch).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        model.after_step()
    after, nearest = distances()
    assert after < 0.7 * before
    assert after < nearest


@pytest.mark.parametrize("mode", ["distance", "inner"])
def test_learns_by_heart_the_next_item_among_unseen_ones(mode: str) -> None:
    """Not among all items: m is a mean of the last ones, and no item can be much nearer to it than they are."""
    torch.manual_seed(0)
    items_BN = torch.stack([torch.randperm(24)[:8] + 1 for _ in range(8)])
    model = AttRec(24, 8, w=0.5, mode=mode).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    had_BN1M = torch.zeros(8, 1, 25, dtype=torch.bool).scatter_(-1, items_BN[:, None, :1], True)
    had_BNM = torch.cat([had_BN1M.scatter(-1, items_BN[:, None, :t], True) for t in range(1, 8)], 1)
    had_BNM[..., PAD] = True
    targets_BN1 = items_BN[:, 1:, None]
    for _ in range(300):
        states_BND = model.encode(History(torch.arange(8), items_BN[:, :-1]))
        scores_BNM = model.head.score(states_BND, torch.arange(25).expand(8, 7, -1))
        each_BNM = (0.5 + scores_BNM - scores_BNM.gather(-1, targets_BN1)).clamp_min(0)
        optimizer.zero_grad()
        each_BNM.masked_fill(had_BNM, 0.0).sum(-1).mean().backward()
        optimizer.step()
        model.after_step()
    ranked = model.head.score_all(states_BND.flatten(0, 1)).masked_fill(had_BNM.flatten(0, 1), -torch.inf)
    assert torch.equal(ranked.argmax(1), items_BN[:, 1:].flatten())


def test_its_scores_are_log_odds_and_its_tables_read_by_rows_with_inner_products_alone() -> None:
    assert make_model(mode="inner").head.log_odds and not make_model().head.log_odds
    assert len(read_by_rows(make_model(mode="inner"))) == 3
    assert not read_by_rows(make_model()), "rows left behind would escape the limit on their length"
    assert (make_model().head.score(torch.randn(5, 2 * D).double(), torch.ones(5, 3, dtype=torch.long)) <= 0).all()


def test_unknown_users_are_refused() -> None:
    with pytest.raises(UserError, match=f"user number {USERS} is unknown"):
        make_model().newest(History(torch.tensor([0, USERS]), padded()[:2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "cosine"}, "mode='cosine': choose one of distance, inner"),
        ({"n_recent": 1}, "n_recent=1: must be at least 2"),
        ({"w": -0.1}, "w=-0.1: must be between 0 and 1"),
        ({"w": 1.5}, "w=1.5"),
        ({"w": float("nan")}, "w=nan"),
        ({"d": 0}, "d=0: the width must be at least 1"),
        ({"l2": -1.0}, "l2=-1.0: must be 0 or more"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        AttRec(M, USERS, **{**BASE, **options})
    assert "\n" not in str(caught.value)
