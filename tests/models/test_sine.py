"""SINE against the plain reading of its equations, in double precision, every option both ways."""

from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import arrays, has_user_table, padded, regularisers
from objective_helpers import batch_of
from reference import Vector, Weights, decorrelation, layer_norm, softmax
from small_data import history, make_split
from torch import Tensor
from torch.nn.functional import softplus

from sairlib.batch import PAD
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.models import sine
from sairlib.models.recommender import SequenceModel
from sairlib.models.sine import SINE
from sairlib.nn.kernels import parts
from sairlib.training.softmax_losses import Softmax
from sairlib.training.whole_objectives import Prefix

M, MAX_LEN, D, L, K = 11, 6, 5, 7, 3
HISTORIES = [[9], [3, 1], [2, 7, 2], [3, 1, 4, 10], [8, 1, 11, 1, 6], [2, 6, 5, 3, 7, 8]]
BASE: dict[str, Any] = {"n_concepts": L, "top_k": K, "d": D, "tau": 0.7}
FLIPS: dict[str, Any] = {
    "top_k": 1,
    "tau": 3.0,
    "positional_embedding": False,
    "assignment": "logits",
    "shared_w3": False,
    "norm": "l2",
}
PAIRS = [
    {"top_k": L},
    {"n_concepts": 1, "top_k": 1},
    {"norm": "l2", "assignment": "logits"},
    {"norm": "l2", "assignment": "logits", "shared_w3": False, "positional_embedding": False, "tau": 0.1},
]
LAYER_NORMS = [f"ln{number}.{part}" for number in (1, 2, 4) for part in ("weight", "bias")]
every_option = pytest.mark.parametrize(
    "options", [{}, *({name: value} for name, value in FLIPS.items()), *PAIRS], ids=str
)


def dot(a: Vector, b: Vector) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def times(x: Vector, matrix: Vector) -> Vector:
    """x W, for W as the paper writes it: of one row for each entry of x."""
    return np.array([dot(x, column) for column in matrix.T])


def norm(x: Vector, weights: Weights, name: str, options: dict[str, Any]) -> Vector:
    if options.get("norm", "layer") == "l2" and name in ("ln1", "ln3"):
        return x / np.sqrt(dot(x, x))
    return layer_norm(x, weights, name)


def importance(scores: list[Vector], vector: Vector) -> list[float]:
    return [dot(np.tanh(score), vector) for score in scores]


def state(items: list[int], weights: Weights, options: dict[str, Any]) -> Vector:
    """Equations (1) to (5) for one user. Matrices of ``nn.Linear`` stand transposed in the weights."""
    x = [weights["item_embedding.weight"][item] for item in items]
    pool, n, top_k = weights["concepts.weight"], len(items), options["top_k"]
    w1, w3 = weights["w1.weight"].T, weights["w3.weight"].T
    w3_apt = w3 if options.get("shared_w3", True) else weights["w3_apt.weight"].T
    # (1)
    a = softmax(importance([times(row, w1) for row in x], weights["w2.weight"][0]))
    z = sum(a[t] * x[t] for t in range(n))
    s = [dot(concept, z) for concept in pool]
    order = sorted(range(len(pool)), key=lambda i: -s[i])[:top_k]
    active = [pool[i] / (1 + np.exp(-s[i])) for i in order]
    # (2), p_k_t[t][k]
    p_k_t = []
    for t in range(n):
        own = norm(times(x[t], w3), weights, "ln1", options)
        p_k_t.append(softmax([dot(own, norm(concept, weights, "ln2", options)) for concept in active]))
    # (3) and (4)
    phi = []
    for k in range(top_k):
        placed = list(x)
        if options.get("positional_embedding", True):
            placed = [x[t] + weights["position_embedding.weight"][n - 1 - t] for t in range(n)]
        logits = importance([times(row, weights["w_k1"][k]) for row in placed], weights["w_k2"][k])
        if options.get("assignment", "weights") == "logits":
            share = softmax([p_k_t[t][k] * logits[t] for t in range(n)])
        else:
            p_t_k = softmax(logits)
            share = [p_k_t[t][k] * p_t_k[t] for t in range(n)]
        phi.append(norm(sum(share[t] * x[t] for t in range(n)), weights, "ln3", options))
    # (5)
    intents = [sum(p_k_t[t][k] * active[k] for k in range(top_k)) for t in range(n)]
    share = softmax(importance([times(intent, w3_apt) for intent in intents], weights["w4.weight"][0]))
    apt = norm(sum(share[t] * intents[t] for t in range(n)), weights, "ln4", options)
    e = softmax([dot(interest, apt) / options["tau"] for interest in phi])
    return sum(e[k] * phi[k] for k in range(top_k))


def make_model(**options: Any) -> SINE:
    """In eval mode and double precision, all weights but PAD's random."""
    torch.manual_seed(0)
    model = SINE(M, MAX_LEN, **{**BASE, **options}).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(sum(map(ord, key)))  # the same weights for every option
            gain = key.startswith("ln") and key.endswith("weight")
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_((0.3 if gain else 0.8) * noise + gain)
        model.item_embedding.weight[PAD] = 0
    return model


def newest(model: SINE, items_BN: Tensor) -> Tensor:
    return model.newest(history(items_BN))


@every_option
def test_equals_the_plain_equations(options: dict[str, Any]) -> None:
    model = make_model(**options)
    with torch.no_grad():
        actual_BD = newest(model, padded(HISTORIES))
        scores_BM = model.head.score_all(actual_BD)[:, 1:]
    table = arrays(model)["item_embedding.weight"]
    for row, actual_D, scores_M in zip(HISTORIES, actual_BD, scores_BM, strict=True):
        expected = state(row, arrays(model), {**BASE, **options})
        np.testing.assert_allclose(actual_D.numpy(), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(scores_M.numpy(), [dot(expected, item) for item in table[1:]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FLIPS)
def test_every_option_changes_the_state(name: str) -> None:
    items_BN = padded(HISTORIES)
    assert (newest(make_model(), items_BN) - newest(make_model(**{name: FLIPS[name]}), items_BN)).abs().max() > 1e-2


# Padding.


@every_option
def test_padding_changes_nothing(options: dict[str, Any]) -> None:
    """Not its amount, nor what stands in its row: no softmax over steps sees it."""
    model = make_model(**options)
    with torch.no_grad():
        expected_BD = newest(model, padded(HISTORIES))
        model.item_embedding.weight[PAD] = 1e3
        for row, expected_D in zip(HISTORIES, expected_BD, strict=True):
            for width in range(len(row), MAX_LEN + 1):
                torch.testing.assert_close(newest(model, padded([row], width))[0], expected_D, rtol=1e-9, atol=1e-9)


@every_option
@pytest.mark.parametrize("rows", [[[]], [[], [3, 1, 4], []]], ids=["alone", "among others"])
def test_an_empty_history_is_no_item_at_all(options: dict[str, Any], rows: list[list[int]]) -> None:
    """phi is the norm of 0: LN3's bias, or 0."""
    model = make_model(**options)
    state_BD = newest(model, padded(rows))
    expected_D = torch.zeros(D).double() if options.get("norm") == "l2" else arrays(model)["ln3.bias"]
    np.testing.assert_allclose(state_BD[0].detach().numpy(), expected_D, rtol=1e-9, atol=1e-9)
    state_BD.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        model.item_embedding.weight[PAD] = 1e3
    np.testing.assert_allclose(newest(model, padded(rows))[0].detach().numpy(), expected_D, rtol=1e-9, atol=1e-9)


def test_order_counts_by_positions_alone() -> None:
    forth, back = padded([[2, 6, 5, 3]]), padded([[3, 2, 6, 5]])
    assert (newest(make_model(), forth) - newest(make_model(), back)).abs().max() > 1e-3
    without = make_model(positional_embedding=False)
    torch.testing.assert_close(newest(without, forth), newest(without, back))


# Concepts.


def summary(model: SINE, items: list[int]) -> Tensor:
    """z of eq. (1), which chooses the concepts."""
    return model._summary(model.item_embedding(torch.tensor([items])), torch.ones(1, len(items), dtype=torch.bool))


def test_the_kept_concepts_learn_and_the_gate_carries_the_choice() -> None:
    model = make_model()
    newest(model, padded([[3, 1, 4]])).square().sum().backward()
    assert model.concepts.weight.grad is not None
    learning = model.concepts.weight.grad.any(1)
    _, chosen_1K = model._activate(summary(model, [3, 1, 4]))
    assert sorted(learning.nonzero().flatten().tolist()) == sorted(chosen_1K.flatten().tolist())
    for layer in (model.w1, model.w2):  # nothing but the gate depends on these
        assert layer.weight.grad is not None and layer.weight.grad.any()


def test_the_regulariser_is_the_concepts_decorrelation_weighted() -> None:
    model = make_model(decov_weight=0.3)
    (name, value), *others = regularisers(model).items()
    assert name == "decov" and not others
    assert value.item() == pytest.approx(0.3 * decorrelation(arrays(model)["concepts.weight"]))
    value.backward()
    assert [key for key, p in model.named_parameters() if p.grad is not None] == ["concepts.weight"]
    assert regularisers(make_model(decov_weight=0.0))["decov"].item() == 0
    with torch.no_grad():  # each concept's own mean is taken off, not the mean concept
        model.concepts.weight += torch.arange(float(L))[:, None]
    assert regularisers(model)["decov"].item() == pytest.approx(value.item())


def test_the_share_of_sequences_that_keep_a_concept() -> None:
    model = make_model()
    share_L = model.diagnose(history(padded(HISTORIES)))["kept_share"]
    assert share_L.shape == (L,) and share_L.sum().item() == pytest.approx(K) and share_L.max() <= 1
    counts = [0.0] * L
    for row in HISTORIES:
        _, chosen_1K = model._activate(summary(model, row))
        for concept in chosen_1K[0].tolist():
            counts[concept] += 1 / len(HISTORIES)
    assert share_L.tolist() == pytest.approx(counts)


# Training.


def test_it_gives_one_state_for_a_whole_sequence() -> None:
    model = make_model()
    assert isinstance(model, SequenceModel) and not has_user_table(model) and model.head.log_odds
    assert newest(model, padded(HISTORIES)).shape == (len(HISTORIES), D)


@every_option
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    model = make_model(**options)
    states_BD = newest(model, padded(HISTORIES))
    loss = model.head.score(states_BD, torch.arange(1, 7)[:, None]).square().sum()
    torch.stack([loss, *regularisers(model).values()]).sum().backward()
    idle = {key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # Of one interest alone nothing is to be chosen: eq. (2) is 1, and so is e. One concept alone correlates with none.
    first, choose = {"w1.weight", "w2.weight"}, {"w3.weight", "w4.weight", *LAYER_NORMS}
    if options.get("top_k") != 1:
        assert not idle
    else:
        assert idle == first | choose | ({"concepts.weight"} if options.get("n_concepts") == 1 else set())


@every_option
@pytest.mark.parametrize("at_once", [1, 2**20])
def test_the_states_and_gradients_of_all_prefixes_are_those_of_each(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], at_once: int
) -> None:
    """Among them prefixes of several blocks, in blocks of users of any size."""
    monkeypatch.setattr(sine, "BLOCK", 4)
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", at_once)
    model = make_model(**options)
    items_BN = padded(HISTORIES)
    together = model.encode_prefixes(history(items_BN))[items_BN != PAD]
    each = [newest(model, padded([row[:end]])) for row in HISTORIES for end in range(1, len(row) + 1)]
    alone, upstream = torch.cat(each), torch.randn_like(together)
    torch.testing.assert_close(together, alone)
    learned = list(model.parameters())
    found, expected = (
        torch.autograd.grad(states, learned, upstream, allow_unused=True, materialize_grads=True)
        for states in (together, alone)
    )
    torch.testing.assert_close(found, expected)


def test_an_epoch_of_all_prefixes_costs_what_they_cost_one_by_one() -> None:
    store = SequenceStore(
        make_split([[1, 2, 3, 4, 5, 6], [7, 8, 9], [1, 2, 1, 4, 9, 6, 7, 2, 3, 5]], M), MAX_LEN, torch.device("cpu")
    )
    model = SINE(store.n_items, MAX_LEN, **BASE).double()
    objective = Prefix(Softmax(), None, store, 16, draw="all")
    batch = batch_of(objective, store.train_users)
    users, steps = (batch.targets_BNS[..., 0] != PAD).nonzero(as_tuple=True)
    assert len(users) == objective.steps() == objective.steps_per_batch
    each = []
    for user, step in zip(users.tolist(), steps.tolist(), strict=True):
        state = newest(model, batch.history.items_BN[user : user + 1, : step + 1])
        scores_1M = model.head.score_all(state)[:, 1:].log_softmax(1)
        each.append(-scores_1M[0, batch.targets_BNS[user, step, 0] - 1])
    torch.testing.assert_close(objective.loss(model, batch)["softmax"], torch.stack(each).mean())


@pytest.mark.parametrize("options", [{}, {"assignment": "logits"}], ids=str)
def test_learns_8_users_by_heart(options: dict[str, str]) -> None:
    """The item after each one's history, but for one at most: two users can get stuck in one state. Those after all the
    prefixes of all are more than it holds."""
    torch.manual_seed(0)
    n_items = 24
    model = SINE(n_items, MAX_LEN, n_concepts=10, top_k=3, d=64, tau=1.0, decov_weight=0.0, **options)
    sequences_BN = torch.stack([torch.randperm(n_items)[: MAX_LEN + 1] + 1 for _ in range(8)])
    items_BN, targets_B = sequences_BN[:, :-1], sequences_BN[:, -1]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        scores_BM = model.head.score_all(newest(model, items_BN))[:, 1:]
        each_B = softplus(scores_BM - scores_BM.gather(1, targets_B[:, None] - 1)).sum(1)
        total = each_B.mean() + sum(regularisers(model).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert (model.head.score_all(newest(model, items_BN))[:, 1:].argmax(1) + 1 == targets_B).sum() >= 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k=0 must be between 1 and n_concepts=7"),
        ({"top_k": L + 1}, "top_k=8 must be between 1 and n_concepts=7"),
        ({"n_concepts": 0}, "n_concepts=0: must be at least 1"),
        ({"d": 0}, "the width d must be at least 1, not 0"),
        ({"tau": 0.0}, "tau=0.0: must be more than 0"),
        ({"tau": float("nan")}, "tau=nan: must be more than 0"),
        ({"decov_weight": -0.1}, "decov_weight must be 0 or more, not -0.1"),
        ({"assignment": "both"}, "assignment='both': choose one of weights, logits"),
        ({"norm": "batch"}, "norm='batch': choose one of layer, l2"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SINE(M, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
