"""BERT4Rec against the plain reading of its equations, and that nothing of a hidden item reaches its state."""

from typing import Any

import model_helpers
import numpy as np
import pytest
import torch
from model_helpers import arrays, padded
from objective_helpers import batch_of
from reference import Vector, Weights, gelu, layer_norm, linear, nothing, softmax
from small_data import history, make_split

from sairlib.batch import PAD, History
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.models.bert4rec import BERT4Rec
from sairlib.nn.layers import Dropout
from sairlib.training.softmax_losses import Softmax
from sairlib.training.whole_objectives import Cloze

M, MAX_LEN, D = 11, 6, 8
MASK = M + 1
BASE: dict[str, Any] = {"d": D, "n_blocks": 2, "n_heads": 2, "dropout": 0.3}
FLIPS: dict[str, Any] = {"n_blocks": 1, "n_heads": 4}
HISTORIES = [[3, 1, 4, 1, 5, 9], [9], [2, 6, 5, 3, 7], [10, 11], [], [8, 8, 4], [1, 2, 3, 4]]
MASKED = [[3, MASK, 4, 1, 5, MASK], [MASK], [2, 6, 5, 3, MASK], [MASK, 11], [8, MASK, 8], [1, MASK, MASK, 4]]


def make_model(**options: Any) -> BERT4Rec:
    model = BERT4Rec(M, MAX_LEN, **{**BASE, **options})
    model_helpers.randomised(model, scale=0.5)
    return model


# The plain reading: one user, one step and one head at a time.


def attention(xs: list[Vector], weights: Weights, name: str, n_heads: int) -> list[Vector]:
    queries, keys, values = ([], [], [])
    for x in xs:
        for kind, part in zip((queries, keys, values), np.split(linear(x, weights, name), 3), strict=True):
            kind.append(np.split(part, n_heads))
    mixed = []
    for query in queries:
        heads = []
        for head in range(n_heads):
            size = len(query[head])
            weigh = softmax([float(query[head] @ key[head]) / np.sqrt(size) for key in keys])
            heads.append(sum(a * value[head] for a, value in zip(weigh, values, strict=True)))
        mixed.append(np.concatenate(heads))
    return mixed


def encode(items: list[int], weights: Weights, options: dict[str, Any]) -> list[Vector]:
    """The head's output at every step; ``items`` unpadded, with the mask's number where one is hidden."""
    drop = options.get("drop", nothing)
    xs = []
    for t, item in enumerate(items):
        place = weights["position_embedding.weight"][len(items) - 1 - t]
        xs.append(drop(layer_norm(weights["item_embedding.weight"][item] + place, weights, "input_norm")))
    for block in range(options["n_blocks"]):
        name = f"blocks.{block}"
        mixed = attention(xs, weights, f"{name}.attention.query_key_value", options["n_heads"])
        for t, x in enumerate(xs):
            x = layer_norm(x + drop(linear(mixed[t], weights, f"{name}.output")), weights, f"{name}.attention_norm")
            inner = gelu(linear(x, weights, f"{name}.first"))
            change = drop(linear(inner, weights, f"{name}.second"))
            xs[t] = layer_norm(x + change, weights, f"{name}.feed_forward_norm")
    return [layer_norm(gelu(linear(x, weights, "transform")), weights, "transform_norm") for x in xs]


def scores(state: Vector, weights: Weights) -> list[float]:
    table, bias = weights["item_embedding.weight"], weights["output_bias"]
    return [float(state @ table[item] + bias[item]) for item in range(1, M + 1)]


@torch.no_grad()
def check_against_plain(model: BERT4Rec, options: dict[str, Any]) -> None:
    weights, masked_BN, histories_BN = arrays(model), padded(MASKED), padded(HISTORIES)
    states_BND = model.encode(history(masked_BN))
    for row, items in enumerate(MASKED):
        expected = encode(items, weights, options)
        np.testing.assert_allclose(states_BND[row, : len(items)].numpy(), expected, rtol=1e-9, atol=1e-9)
    newest_BD = model.newest(history(histories_BN))
    scores_BM = model.head.score_all(newest_BD)
    for row, items in enumerate(HISTORIES):
        with_mask = [*items, MASK][-MAX_LEN:]
        state = encode(with_mask, weights, options)[-1]
        np.testing.assert_allclose(newest_BD[row].numpy(), state, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(scores_BM[row, 1:].numpy(), scores(state, weights), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, *({name: value} for name, value in FLIPS.items())], ids=str)
def test_equals_the_plain_equations(options: dict[str, Any]) -> None:
    check_against_plain(make_model(**options), {**BASE, **options})


def test_dropout_falls_where_the_equations_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine in the place of dropout, here and there: it commutes with nothing beside it."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x.cos())
    check_against_plain(make_model(), {**BASE, "drop": np.cos})


@pytest.mark.parametrize("name", FLIPS)
def test_every_option_changes_the_scores(name: str) -> None:
    items_BN = padded(HISTORIES)
    before, after = (m.newest(history(items_BN)) for m in (make_model(), make_model(**{name: FLIPS[name]})))
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"attention_dropout": 0.5}], ids=str)
def test_dropouts_act_in_training_alone(options: dict[str, float]) -> None:
    items_BN = padded(MASKED)
    none, model = make_model(dropout=0.0), make_model(**{"dropout": 0.0, **options})
    assert torch.equal(none.encode(history(items_BN)), model.encode(history(items_BN)))
    model.train()
    assert not torch.allclose(none.encode(history(items_BN)), model.encode(history(items_BN)))


# The mask, and what the model may see.


def test_the_next_item_is_predicted_at_a_mask_after_the_newest_item() -> None:
    model = make_model()
    for items in HISTORIES[1:]:  # the first is of max_len items
        history_BN, with_mask_BN = padded([items]), padded([[*items, MASK]])
        expected_D = model.encode(history(with_mask_BN))[0, len(items)]
        torch.testing.assert_close(model.newest(history(history_BN))[0], expected_D)


def test_a_full_history_gives_up_its_oldest_item_for_the_mask() -> None:
    model, full, longer = make_model(), [[3, 1, 4, 1, 5, 9]], [[7, 2, 3, 1, 4, 1, 5, 9]]
    states = [
        model.newest(history(items_BN))
        for items_BN in (padded([full[0][1:]]), padded(full), padded([[11, *full[0][1:]]]), padded(longer, 8))
    ]
    for other in states[1:]:
        torch.testing.assert_close(states[0], other)
    changed_BN = padded([[3, 2, *full[0][2:]]])
    assert not torch.allclose(states[0], model.newest(history(changed_BN)))


@pytest.mark.parametrize("width", [2, 3, 9])
def test_neither_padding_nor_company_changes_a_state(width: int) -> None:
    model, items = make_model(), [[10, 11]]
    alone_BN, among_BN = padded(items, width), padded([*HISTORIES, *items])
    alone, among = (model.newest(history(items_BN))[-1] for items_BN in (alone_BN, among_BN))
    torch.testing.assert_close(alone, among)


def test_the_mask_is_never_recommended() -> None:
    model = make_model()
    states_BD = torch.randn(3, D, dtype=torch.float64)
    before_BM = model.head.score_all(states_BD)
    assert before_BM.shape == (3, M + 1) and model.mask_item == MASK
    with torch.no_grad():
        model.item_embedding.weight[MASK] = torch.randn(D)
    assert torch.equal(model.head.score_all(states_BD), before_BM)
    items_BN = padded(HISTORIES)
    assert not torch.allclose(make_model().newest(history(items_BN)), model.newest(history(items_BN)))


def make_store(sequences: list[list[int]]) -> SequenceStore:
    return SequenceStore(make_split(sequences, M), MAX_LEN, torch.device("cpu"))


def test_nothing_of_a_hidden_item_reaches_its_state() -> None:
    """Through the objective: by the gradient to the item's row, and by replacing the item."""
    sequences = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 3, 11, 5, 1, 6], [4, 7, 2, 10, 9]]
    model, store = make_model(), make_store(sequences)
    objective = Cloze(Softmax(), None, store, 8, mask_share=0.4)
    n_hidden = n_seen = 0
    for seed in range(5):
        batch = batch_of(objective, store.train_users, seed)
        states_XD, targets_X1, _ = objective.states(model, batch)
        shown_BN = torch.where(batch.targets_BNS[..., 0] == PAD, batch.history.items_BN, PAD)
        places = batch.targets_BNS[..., 0].nonzero().tolist()
        for state_D, target, (row, step) in zip(states_XD, targets_X1[:, 0].tolist(), places, strict=True):
            shown = set(shown_BN[row].tolist()) - {PAD}
            assert batch.history.items_BN[row, step] == target  # the items of a sequence are distinct
            assert target not in shown
            (gradient,) = torch.autograd.grad(
                state_D @ torch.randn(D, dtype=torch.float64), model.item_embedding.weight, retain_graph=True
            )
            reached = set(gradient.abs().amax(1).nonzero().flatten().tolist())
            assert reached == shown | {MASK}, "all that is shown, on both sides, and nothing that is hidden"
            n_hidden, n_seen = n_hidden + 1, n_seen + len(shown)
        changed = make_store(sequences)
        users_B = batch.history.users_B
        ends_B = store.starts[users_B] + store.train_lengths[users_B]
        for row, step in places:
            changed.items[ends_B[row] - (batch.history.items_BN[row] != PAD).sum() + step] = 8
        again = batch_of(Cloze(Softmax(), None, changed, 8, mask_share=0.4), changed.train_users, seed)
        assert not torch.equal(again.targets_BNS, batch.targets_BNS)
        assert torch.equal(objective.states(model, again)[0], states_XD)
    assert n_hidden > 15 and n_seen > n_hidden


def test_the_loss_is_cross_entropy_over_items_at_hidden_steps_alone() -> None:
    model, store = make_model(), make_store([[1, 2, 3, 4, 5, 6, 7, 8], [9, 3, 11, 5, 1, 6]])
    objective = Cloze(Softmax(), None, store, 8, mask_share=0.4)
    objective.check(model)
    batch = batch_of(objective, store.train_users)
    weights, costs = arrays(model), []
    for items, targets in zip(batch.history.items_BN.tolist(), batch.targets_BNS[..., 0].tolist(), strict=True):
        shown = [MASK if target else item for item, target in zip(items, targets, strict=True) if item]
        states = encode(shown, weights, BASE)
        costs += [-np.log(softmax(scores(states[t], weights))[item - 1]) for t, item in enumerate(targets) if item]
    expected = sum(costs) / objective.steps_per_batch
    assert objective.loss(model, batch)["softmax"].item() == pytest.approx(expected, rel=1e-6)


def test_all_ways_to_score_agree() -> None:
    model = make_model()
    states_BD, items_BC = torch.randn(2, D, dtype=torch.float64), torch.randint(1, M + 1, (2, 20))
    torch.testing.assert_close(
        model.head.score(states_BD, items_BC), model.head.score_all(states_BD).gather(1, items_BC)
    )
    shared_C = torch.tensor([4, 1, 11])
    torch.testing.assert_close(
        model.head.score_shared(states_BD, shared_C), model.head.score_all(states_BD)[:, shared_C]
    )


def test_max_len_1_leaves_the_mask_alone() -> None:
    model = BERT4Rec(M, 1, **BASE).eval()
    states = [model.newest(History(torch.zeros(1, dtype=torch.long), padded([row], 3))) for row in ([], [3], [4, 5])]
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 3}, "n_heads=3 does not divide the width 8"),
        ({"n_blocks": 0}, "n_blocks must be at least 1, not 0"),
        ({"d": 0}, "d must be at least 1, not 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"attention_dropout": 1.5}, r"attention_dropout must be in \[0, 1\), not 1.5"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        BERT4Rec(M, MAX_LEN, **{**BASE, **options})
    assert "\n" not in str(caught.value)
