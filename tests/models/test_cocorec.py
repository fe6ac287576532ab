"""CoCoRec against its description, read plainly: one user, one step, one category and one item at a time, in double
precision."""

from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import arrays, padded, randomised, read_by_rows
from numpy.typing import NDArray
from reference import attention, feed_forward, layer_norm, nothing, softmax
from small_data import history
from torch import Tensor

from sairlib.batch import Batch, Negatives, map_state
from sairlib.errors import UserError
from sairlib.models.cocorec import CoCoRec
from sairlib.nn.kernels import parts
from sairlib.training.softmax_losses import SampledSoftmax

M, MAX_LEN, T = 11, 7, 4
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8, 7], [10, 11], [4, 4, 2], [1, 2, 3, 4]]
USERS = len(HISTORIES)
CATEGORIES = torch.tensor(
    [[0, 0]] + [[1 + item % T, (2 + item) % T + 1 if item % 3 else 0] for item in range(1, M + 1)]
)
BASE: dict[str, Any] = {"d": 4, "d_category": 3, "beams": 3, "long": 2}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"beams": 1},
    {"beams": 50},
    {"long": 1},
    {"long": 50},
    {"short": 2},
    {"short": 50},
    {"in_category": "attention"},
    {"in_category": "attention", "long": 4, "tied": False},
    {"categories": "first"},
    {"tied": False},
]

Array = NDArray[np.float64]


def make_model(**options: Any) -> CoCoRec:
    torch.manual_seed(0)
    model = CoCoRec(M, MAX_LEN, CATEGORIES, T, **{**BASE, **options})
    randomised(model, 0.6)
    return model


def shown() -> Tensor:
    return padded(HISTORIES, MAX_LEN)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gru(xs: list[Array], weights: dict[str, Array], name: str) -> Array:
    """The last state, by the equations of PyTorch's unit."""
    w, u, b, c = (weights[f"{name}.layers.0.{part}_l0"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    D = u.shape[1]
    state = np.zeros(D)
    for x in xs:
        of_input, of_state = w @ x + b, u @ state + c
        r, z = (sigmoid(of_input[part] + of_state[part]) for part in (slice(D), slice(D, 2 * D)))
        new = np.tanh(of_input[2 * D :] + r * of_state[2 * D :])
        state = (1 - z) * new + z * state
    return state


def self_attention(xs: list[Array], weights: dict[str, Array]) -> Array:
    """The last state of one of SASRec's blocks, with a vector for how many items back each is."""
    places = weights["position_embedding.weight"]
    xs = [x + places[len(xs) - 1 - number] for number, x in enumerate(xs)]
    block = "long.blocks.0"
    mixed = attention([layer_norm(x, weights, f"{block}.attention_norm") for x in xs], weights, f"{block}.attention", 1)
    x = xs[-1] + mixed[-1]
    inner = layer_norm(x, weights, f"{block}.feed_forward_norm")
    x = x + feed_forward(inner, weights, f"{block}.feed_forward", nothing)
    return layer_norm(x, weights, "long.final_norm")


def of_item(item: int, options: dict[str, Any]) -> list[int]:
    known = [category for category in CATEGORIES[item].tolist() if category]
    return known[:1] if options.get("categories") == "first" else known


def chances(past: list[int], weights: dict[str, Array], options: dict[str, Any]) -> list[float]:
    """p(c) of the categories 1..T."""
    table = weights["category_embedding.table.weight"]
    newest = past[-options["short"] :] if options.get("short") else past
    means = [sum(table[c] for c in of_item(item, options)) / len(of_item(item, options)) for item in newest]
    state = gru(means, weights, "next_category")
    return softmax([float(table[c] @ state + weights["category_bias"][c - 1]) for c in range(1, T + 1)])


def logits(past: list[int], category: int, weights: dict[str, Array], options: dict[str, Any]) -> list[float]:
    """<r_c, v_i> + b_i of items 1..M."""
    table = weights["item_embedding.weight"]
    inside = [table[item] for item in past if category in of_item(item, options)][-options["long"] :]
    newest = past[-options["short"] :] if options.get("short") else past
    long = np.zeros(table.shape[1])
    if inside:
        attends = options.get("in_category") == "attention"
        long = self_attention(inside, weights) if attends else gru(inside, weights, "long")
    short = gru([table[item] for item in newest], weights, "short")
    r = weights["join.weight"] @ np.concatenate([long, short]) + weights["join.bias"]
    scored = table if options.get("tied", True) else weights["output_embedding.weight"]
    return [float(r @ scored[item] + weights["output_bias.weight"][item, 0]) for item in range(1, M + 1)]


def plain(past: list[int], weights: dict[str, Array], options: dict[str, Any]) -> list[float]:
    """log of the sum of p(c) p(i | c) over the likeliest categories, of items 1..M."""
    of_categories = chances(past, weights, options)
    likeliest = sorted(range(1, T + 1), key=lambda c: -of_categories[c - 1])[: options["beams"]]
    mixed = np.zeros(M)
    for c in likeliest:
        mixed += of_categories[c - 1] * np.array(softmax(logits(past, c, weights, options)))
    return [float(value) for value in np.log(mixed)]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_its_description_at_every_step(options: dict[str, Any]) -> None:
    """By each of the three ways to score, with and without a gradient."""
    model, every_M = make_model(**options), torch.arange(M + 1)
    with torch.no_grad():
        states = model.encode(history(shown()))
        own_BNM = model.head.score(states, every_M.expand(USERS, MAX_LEN, -1))
        newest_BM = model.head.score_all(model.newest(history(shown())))
    shared_BNM = model.head.score_shared(model.encode(history(shown())), every_M).detach()
    for user, row in enumerate(HISTORIES):
        expected = [plain(row[: t + 1], arrays(model), {**BASE, **options}) for t in range(len(row))]
        for scores in (own_BNM[user, : len(row)], shared_BNM[user, : len(row)]):
            np.testing.assert_allclose(scores[:, 1:].numpy(), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(newest_BM[user, 1:].numpy(), expected[-1], rtol=1e-9, atol=1e-9)


def test_with_all_categories_the_chances_of_all_items_sum_to_1() -> None:
    model = make_model(beams=T)
    chances_BM = model.head.score_all(model.newest(history(shown())))[:, 1:].exp()
    torch.testing.assert_close(chances_BM.sum(1), torch.ones(USERS, dtype=torch.double))
    few_BM = make_model(beams=2).head.score_all(make_model(beams=2).newest(history(shown())))[:, 1:].exp()
    assert (few_BM.sum(1) < 0.999).all(), "two of the four have all the weight: nothing was left out"


def targets() -> Tensor:
    """The next item at each step, and an item for the newest one."""
    rows = [[*row[1:], 1 + row[0]] for row in HISTORIES]
    return padded(rows, MAX_LEN)


@pytest.mark.parametrize("options", [{}, {"in_category": "attention"}, {"categories": "first"}], ids=str)
def test_the_loss_is_that_of_the_item_in_the_true_category_and_that_of_the_category(options: dict[str, Any]) -> None:
    """In eval mode the true category is the first of the target's; that of the category is the mean over all."""
    model, targets_BN = make_model(**options, category_weight=0.5), targets()
    states = map_state(lambda part: part.flatten(0, 1), model.encode_given(history(shown()), targets_BN))
    negatives_1C = torch.tensor([[2, 7, 7, 11]])
    log_expected_C = torch.tensor([0.3, 0.5, 0.5, 1.5], dtype=torch.double).log()
    negatives = Negatives(negatives_1C[None, None], log_expected_C, shared=True)
    costs_X1 = SampledSoftmax().each(model, states, targets_BN.flatten()[:, None], negatives).detach()
    batch = Batch(history(shown()), targets_BN[..., None], None)
    cost = model.auxiliary(batch, states)["category"]
    of_categories, weights = [], arrays(model)
    for user, row in enumerate(HISTORIES):
        for t in range(len(row)):
            target, past = int(targets_BN[user, t]), row[: t + 1]
            given = logits(past, of_item(target, options)[0], weights, {**BASE, **options})
            pairs = zip(negatives_1C[0].tolist(), log_expected_C.tolist(), strict=True)
            others = [given[item - 1] - corrected for item, corrected in pairs if item != target]
            expected = np.log(np.exp(given[target - 1]) + np.exp(others).sum()) - given[target - 1]
            assert float(costs_X1[user * MAX_LEN + t]) == pytest.approx(
                expected, rel=1e-5
            )  # scores are in single precision there
            p = chances(past, weights, {**BASE, **options})
            of_categories.append(-np.mean([np.log(p[c - 1]) for c in of_item(target, options)]))
    assert float(cost.detach()) == pytest.approx(0.5 * np.mean(of_categories), rel=1e-9)


def test_in_training_every_category_of_a_target_is_drawn_alike() -> None:
    model = make_model().train()
    both = next(item for item in range(1, M + 1) if len(of_item(item, {})) == 2)
    targets_BN = torch.full((4000, 1), both)
    with torch.no_grad():
        joined_XD = model.encode_given(history(torch.full((4000, 1), 3)), targets_BN)[0][:, 0, 0]
    kinds_XD, counts_X = joined_XD.unique(dim=0, return_counts=True)
    assert len(kinds_XD) == 2 and 1850 < int(counts_X[0]) < 2150
    one = next(item for item in range(1, M + 1) if len(of_item(item, {})) == 1)
    with torch.no_grad():
        joined_XD = model.encode_given(history(torch.full((50, 1), 3)), torch.full((50, 1), one))[0][:, 0, 0]
    assert len(joined_XD.unique(dim=0)) == 1


def test_a_state_given_a_category_sees_of_the_target_only_its_category_and_nothing_later() -> None:
    model = make_model()
    alike = {tuple(row): item for item, row in enumerate(CATEGORIES.tolist()) if item}
    pair = next(
        (item, alike[tuple(CATEGORIES[item].tolist())]) for item in range(1, M + 1) if item not in alike.values()
    )
    apart = next(item for item in range(1, M + 1) if CATEGORIES[item, 0] != CATEGORIES[pair[0], 0])
    rows = torch.tensor([[3, 1, 4, 1, 5]])
    first, second = (model.encode_given(history(rows), torch.full_like(rows, item)) for item in pair)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    other = model.encode_given(history(rows), torch.full_like(rows, apart))
    assert not torch.allclose(first[0], other[0])
    later = torch.tensor([[3, 1, 4, 8, 2]])
    changed = model.encode_given(history(later), torch.full_like(rows, pair[0]))
    for before, after in zip(first, changed, strict=True):
        assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(first[0][:, 3], changed[0][:, 3]), "the item at step 3 is another"


@pytest.mark.parametrize("options", [{}, {"in_category": "attention"}, {"short": 2}], ids=str)
def test_blocks_of_any_size_give_the_same_scores_and_gradients(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for at_once in (2**20, 100, 1):
        monkeypatch.setattr(parts, "SCORES_IN_CACHE", at_once)
        model = make_model(**options)
        with torch.no_grad():
            newest_BM = model.head.score_all(model.newest(history(shown())))
        scores = model.head.score_shared(model.encode(history(shown())), torch.tensor([3, 1, 7]))
        scores.sin().sum().backward()
        outcomes.append((newest_BM, scores, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(outcomes[0], outcomes[1])
    torch.testing.assert_close(outcomes[0], outcomes[2])


def test_no_block_of_a_full_ranking_is_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", 100)
    sizes: list[int] = []
    real = Tensor.logsumexp
    monkeypatch.setattr(Tensor, "logsumexp", lambda x, dim: sizes.append(x.numel()) or real(x, dim))
    model, rows = make_model(), shown()[torch.arange(60) % USERS]
    with torch.no_grad():
        model.head.score_all(model.newest(history(rows)))
    assert sum(sizes) >= 2 * 60 * 3 * M and max(sizes) <= 100


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    """From the loss given the category; by ``encode`` too, where no category is known."""
    model, targets_BN = make_model(**options).train(), targets()
    batch = Batch(history(shown()), targets_BN[..., None], None)
    for states in (model.encode_given(batch.history, targets_BN), model.encode(batch.history)):
        model.zero_grad()
        flat = map_state(lambda part: part.flatten(0, 1), states)
        scores_X1 = model.head.score(flat, targets_BN.flatten()[:, None])
        (scores_X1.sin().sum() + model.auxiliary(batch, flat)["category"]).backward()
        idle = {key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert idle == ({"long.layers.0.weight_hh_l0"} if options.get("long") == 1 else set())  # the state before is 0


def test_tables_of_items_are_read_by_rows() -> None:
    model = make_model(tied=False)
    assert {id(table) for table in read_by_rows(model)} == {
        id(table) for table in (model.item_embedding, model.output_embedding, model.output_bias)
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "d=0: must be 1 or more"),
        ({"d_category": 0}, "d_category=0: must be 1 or more"),
        ({"beams": 0}, "beams=0: must be 1 or more"),
        ({"long": 0}, "long=0: must be 1 or more"),
        ({"short": -1}, "short=-1: must be 1 or more"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"in_category": "mean"}, "in_category='mean': choose one of gru, attention"),
        ({"categories": "last"}, "categories='last': choose one of all, first"),
        ({"category_weight": -1.0}, "category_weight=-1.0: must be 0 or more"),
        ({"n_categories": 0}, "CoCoRec needs item categories, and this data set has none"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        CoCoRec(
            **{"n_items": M, "max_len": MAX_LEN, "item_categories": CATEGORIES, "n_categories": T, **BASE, **options}
        )
    assert "\n" not in str(caught.value)
