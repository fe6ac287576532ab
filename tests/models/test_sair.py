"""SAIR against the plain reading of its equations, in double precision, every option and variant both ways."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import arrays, padded, regularisers
from reference import decorrelation, imbalance, sair
from small_data import history
from torch import Tensor

from sairlib.batch import PAD
from sairlib.errors import UserError
from sairlib.models.sair import SAIR
from sairlib.nn.hstu import transduction_units
from sairlib.nn.interests import centroids
from sairlib.nn.layers import Dropout, SelfAttention

M, MAX_LEN, D, L, K = 11, 6, 8, 7, 3
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8], [10, 11]]
CATEGORIES = [[], *([1 + item % 5, 1 + (item + 2) % 5, 6][: 1 + item % 3] for item in range(1, M + 1))]
BASE: dict[str, Any] = {"n_interests": L, "top_k": K, "d": D, "n_blocks": 2, "dropout": 0.3}
FLIPS: dict[str, Any] = {
    "n_blocks": 1,
    "n_heads": 2,
    "norm": "post",
    "scale_items": False,
    "variant": "label",
    "weights": "raw",
    "interest_ffn": "shared",
    "interaction_residual": True,
    "use_interaction": False,
    "aggregator_skip": True,
    "use_category": False,
    "category_pooling": "sum",
    "score_with_category": True,
    "top_k": 1,
    "n_interests": 4,
    "positions": "oldest",
    "relevance": "cosine",
    "temperature": 0.3,
}
PAIRS: list[dict[str, Any]] = [
    {"variant": "full"},
    {"variant": "full", "interest_ffn": "shared"},
    {"variant": "label", "weights": "raw", "use_category": False},
    {"category_pooling": "first"},
    {"category_pooling": "first", "score_with_category": True, "use_category": False},
    {"category_pooling": "sum", "score_with_category": True},
    {"weights": "raw", "interaction_residual": True, "interest_ffn": "shared"},
    {"top_k": L},
    {"variant": "full", "aggregator_skip": True},
    {"weights": "raw", "relevance": "cosine", "temperature": 0.1},
    {"variant": "full", "temperature": 2.0},
]
ENCODER = ("n_blocks", "n_heads", "norm")
INTERACTION = "retrieval.interaction.query_key_value.weight"


def table() -> Tensor:
    return torch.tensor([row + [PAD] * (3 - len(row)) for row in CATEGORIES])


def sair_of(categories: Tensor, n_categories: int, **options: Any) -> SAIR:
    """``BASE`` with ``options``, of which those in ENCODER go to the encoder."""
    chosen = {**BASE, **options}
    encoder = partial(SelfAttention, **{name: chosen.pop(name) for name in ENCODER if name in chosen})
    return SAIR(M, MAX_LEN, categories, n_categories, encoder=encoder, **chosen)


def make_model(**options: Any) -> SAIR:
    """In eval mode and double precision, all weights but PAD's random: initial biases are 0 and gains 1."""
    torch.manual_seed(0)
    model = sair_of(table(), 6, **options).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(sum(map(ord, key)))  # the same weights for every option
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise + (1 if key.endswith("norm.weight") else 0))
        for embedding in (model.encoder.item_embedding, model.categories and model.categories.table):
            if embedding:
                embedding.weight[0] = 0
    return model


@torch.no_grad()
def scores(model: SAIR) -> list[Tensor]:
    """Of items 1..M at every real step, one tensor (n, M) for each user."""
    states_BND = model.encode(history(padded(HISTORIES)))
    return [model.head.score_all(states_BND[user, : len(row)])[:, 1:] for user, row in enumerate(HISTORIES)]


@pytest.mark.parametrize("options", [{}, *({name: value} for name, value in FLIPS.items()), *PAIRS], ids=str)
def test_equals_the_plain_equations(options: dict[str, Any]) -> None:
    model = make_model(**options)
    for row, actual in zip(HISTORIES, scores(model), strict=True):
        expected = sair(row, arrays(model), {**BASE, **options}, CATEGORIES)
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"variant": "full"}], ids=str)
def test_dropout_falls_where_the_equations_have_it(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine in the place of dropout, here and there: it commutes with nothing beside it."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x.cos())
    model = make_model(**options)
    for row, actual in zip(HISTORIES, scores(model), strict=True):
        expected = sair(row, arrays(model), {**BASE, **options, "drop": np.cos}, CATEGORIES)
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [*({name: value} for name, value in FLIPS.items()), *PAIRS], ids=str)
def test_every_option_changes_the_scores(options: dict[str, Any]) -> None:
    before, after = scores(make_model()), scores(make_model(**options))
    assert max((a - b).abs().max() for a, b in zip(before, after, strict=True)) > 1e-3


def test_dropout_acts_in_training_alone() -> None:
    none, model = make_model(dropout=0.0), make_model(dropout=0.5)
    assert all(torch.equal(a, b) for a, b in zip(scores(none), scores(model), strict=True))
    assert not torch.allclose(scores(none.train())[0], scores(model.train())[0])


@pytest.mark.parametrize(
    "options", [{"score_with_category": True}, {"score_with_category": True, "category_pooling": "first"}], ids=str
)
def test_score_is_score_all_gathered(options: dict[str, Any]) -> None:
    model = make_model(**options)
    states_BD = torch.randn(2, D, dtype=torch.float64)
    items_BC = torch.randint(1, M + 1, (2, 20))
    torch.testing.assert_close(
        model.head.score(states_BD, items_BC), model.head.score_all(states_BD).gather(1, items_BC)
    )


def test_without_categories_it_is_use_category_false() -> None:
    bare = sair_of(torch.full((M + 1, 0), PAD), 0).double().eval()
    model = make_model(use_category=False)
    bare.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(scores(bare), scores(model), strict=True))


@pytest.mark.parametrize("variant", ["sair", "full", "label"])
def test_decorrelation_is_the_formula_and_falls_on_the_pool(variant: str) -> None:
    model = make_model(variant=variant, decov_weight=0.7)
    pool = model.learned_pool_LD if variant != "label" else model.categories.table.weight[1:]  # type: ignore[union-attr]
    penalty = regularisers(model)["decov"]
    assert penalty.item() == pytest.approx(0.7 * decorrelation(pool.detach().numpy()), rel=1e-9)
    assert regularisers(make_model(variant=variant, decov_weight=0.0))["decov"].item() == 0
    penalty.backward()
    learning = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {"categories.table.weight" if variant == "label" else "learned_pool_LD"}


def learning(model: SAIR) -> tuple[set[str], set[str]]:
    """(names of parameters with a gradient, names of those without) after a training loss."""
    items_BN = padded(HISTORIES)
    targets_BN1 = torch.where(items_BN != PAD, items_BN.flip(0).clamp_min(1), PAD)[..., None]
    negatives_BN1C = torch.randint(1, M + 1, (*items_BN.shape, 1, 2))
    scores = model.train().head.score(model.encode(history(items_BN)), negatives_BN1C.squeeze(2))
    total = scores[(targets_BN1 != PAD).squeeze(2)].exp().sum() + sum(regularisers(model).values())
    total.backward()
    names = {key: p.grad is not None and bool(p.grad.any()) for key, p in model.named_parameters()}
    return {key for key, learns in names.items() if learns}, {key for key, learns in names.items() if not learns}


@pytest.mark.parametrize("d", [16, 64])
@pytest.mark.parametrize("variant", ["sair", "full"])
def test_the_pool_starts_as_vectors_of_length_1(variant: str, d: int) -> None:
    torch.manual_seed(0)
    pool_LD = sair_of(table(), 6, variant=variant, n_interests=400, d=d).pool_LD
    assert pool_LD.shape == (400, d)
    assert pool_LD.std().item() == pytest.approx(d**-0.5, rel=0.03)
    assert pool_LD.mean().item() == pytest.approx(0, abs=0.03 * d**-0.5)


@pytest.mark.parametrize("variant", ["sair", "label"])
def test_only_weights_raw_leaves_the_interaction_without_a_gradient(variant: str) -> None:
    model = make_model(variant=variant, weights="interacted", dropout=0.0)
    learns, idle = learning(model)
    assert INTERACTION in learns and not idle
    assert all(part.any() for part in model.get_parameter(INTERACTION).grad.chunk(3)), "W^Q, W^K and W^V"  # type: ignore[union-attr]
    learns, idle = learning(make_model(variant=variant, weights="raw", dropout=0.0))
    assert idle == {INTERACTION} and learns


def test_full_has_no_interaction_and_label_no_pool_of_its_own() -> None:
    assert INTERACTION not in arrays(make_model(variant="full")) and INTERACTION in arrays(make_model())
    assert "learned_pool_LD" not in arrays(make_model(variant="label"))
    assert make_model(variant="label").pool_LD.shape == (6, D) and make_model(variant="full").pool_LD.shape == (L, D)
    assert (
        len(make_model(variant="full").aggregator.nets) == L and len(make_model(variant="label").aggregator.nets) == K
    )


def test_both_attentions_are_causal_by_gradient() -> None:
    """Of what the retrieval returns and of the scores: the way through Ca-hat and the way through F."""
    model = make_model().train()
    seen: list[Tensor] = []
    model.encoder.item_embedding.register_forward_hook(lambda module, given, output: seen.append(output))
    states_BND, retrieved = model.retrieve(history(padded(HISTORIES)[2:3]))
    fused_BND = model.aggregator(states_BND, model.pool_LD, retrieved)
    for name, values in {"states": states_BND, **retrieved._asdict(), "fused": fused_BND}.items():
        if name == "kept_BNK":
            continue
        for t in range(MAX_LEN):
            projected = (values[:, t] * torch.randn_like(values[:, t])).sum()
            (gradient,) = torch.autograd.grad(projected, seen[-1], retain_graph=True)
            assert gradient[:, : t + 1].abs().amax((0, 2)).min() > 0, f"{name} at {t} does not see its whole prefix"
            assert not gradient[:, t + 1 :].any(), f"{name} at {t} sees the future"


def test_diagnose_counts_real_steps_alone() -> None:
    model = make_model()
    diagnosis = model.diagnose(history(padded(HISTORIES)))
    _, retrieved = model.retrieve(history(padded(HISTORIES)))
    counts, weights, steps = np.zeros(L), np.zeros(L), 0
    for user, row in enumerate(HISTORIES):
        for t in range(len(row)):
            steps += 1
            for slot, interest in enumerate(retrieved.kept_BNK[user, t].tolist()):
                counts[interest] += 1
                weights[interest] += retrieved.weights_BNK[user, t, slot].item()
    share = counts[counts > 0] / counts.sum()
    np.testing.assert_allclose(diagnosis["interest_share"], weights / steps, rtol=1e-5)
    np.testing.assert_allclose(diagnosis["kept_share"], counts / steps, rtol=1e-5)
    np.testing.assert_allclose(diagnosis["interest_entropy"], -(share * np.log(share)).sum() / np.log(L), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": L + 1}, "top_k=8 must be between 1 and .*n_interests=7"),
        ({"top_k": 0}, "top_k=0 must be between 1 and"),
        ({"variant": "label", "top_k": 7}, "top_k=7 is more than the 6 categories"),
        ({"n_interests": 0, "variant": "full"}, "n_interests"),
        ({"n_heads": 3}, "n_heads=3 does not divide the width 8"),
        ({"variant": "half"}, "variant='half': choose one of sair, full, label"),
        ({"weights": "cooked"}, "weights='cooked': choose one of interacted, raw"),
        ({"interest_ffn": "none"}, "interest_ffn='none': choose one of per_slot, shared"),
        ({"category_pooling": "max"}, "category_pooling='max': choose one of mean, sum, first"),
        ({"category_pooling": "max", "use_category": False}, "category_pooling='max'"),
        ({"norm": "none"}, "norm='none': choose one of pre, post"),
        ({"decov_weight": -1.0}, "decov_weight must be 0 or more, not -1"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"use_interaction": False, "interaction_residual": True}, "interaction_residual has no effect"),
        ({"relevance": "dot"}, "relevance='dot': choose one of product, cosine"),
        ({"temperature": 0.0}, "temperature=0.0: must be greater than 0"),
        ({"choice_noise": -1.0}, "choice_noise=-1.0: must be 0 or more"),
        ({"balance_weight": -1.0}, "balance_weight must be 0 or more, not -1"),
        ({"balance_weight": 1.0, "variant": "full"}, "SAIR-full keeps all"),
        ({"pool_start": "zero"}, "pool_start='zero': choose one of normal, kmeans"),
        ({"pool_start": "kmeans", "variant": "label"}, "the pool of SAIR-label is its categories"),
        ({"positions": "first"}, "positions=first: choose one of newest, oldest"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sair_of(table(), 6, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"variant": "label"}, {"score_with_category": True}], ids=str)
def test_what_needs_categories_says_so(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="this data set has none") as caught:
        sair_of(torch.full((M + 1, 0), PAD), 0, **options)
    assert "\n" not in str(caught.value)


def test_the_entropy_of_two_interests_is_between_one_alone_and_both_alike() -> None:
    model = make_model(n_interests=2, top_k=2)
    assert float(model.diagnose(history(padded()))["interest_entropy"]) == pytest.approx(1.0)
    model = make_model(n_interests=2, top_k=1)
    found = model.diagnose(history(padded()))
    share = found["kept_share"].double()
    entropy = -(share * share.clamp_min(1e-12).log2()).sum()
    assert float(found["interest_entropy"]) == pytest.approx(float(entropy), abs=1e-5)


@pytest.mark.parametrize("weights", ["raw", "interacted"])
def test_the_balance_is_the_formula_over_real_steps_and_teaches_the_choice(weights: str) -> None:
    model = make_model(balance_weight=0.5, dropout=0.0, weights=weights).train()
    _, retrieved = model.retrieve(history(padded(HISTORIES)))
    steps = [(user, t) for user, row in enumerate(HISTORIES) for t in range(len(row))]
    interacted = [retrieved.interacted_BNL[step].detach().numpy() for step in steps]
    expected = imbalance(interacted, [retrieved.kept_BNK[step].tolist() for step in steps])
    model.encode(history(padded(HISTORIES)))
    balance = regularisers(model)["balance"]
    assert balance.item() == pytest.approx(0.5 * expected, rel=1e-9)
    balance.backward()
    assert model.get_parameter(INTERACTION).grad.any()  # type: ignore[union-attr]
    assert "balance" not in regularisers(make_model())


def test_a_step_against_the_imbalance_lowers_it() -> None:
    model = make_model(balance_weight=1.0, dropout=0.0).train()

    def measured() -> Tensor:
        model.encode(history(padded(HISTORIES)))
        return regularisers(model)["balance"]

    optimizer, before = torch.optim.SGD(model.parameters(), lr=0.01), measured()
    for _ in range(20):
        optimizer.zero_grad()
        measured().backward()
        optimizer.step()
    assert 0.99 < measured().item() < before.item() - 0.01


def test_noise_changes_which_interests_are_kept_in_training_alone() -> None:
    model, quiet = make_model(choice_noise=1.0, dropout=0.0), make_model(dropout=0.0)
    assert all(torch.equal(a, b) for a, b in zip(scores(model), scores(quiet), strict=True))
    items_BN = padded(HISTORIES * 50)
    plain, noisy = quiet.retrieve(history(items_BN))[1], model.train().retrieve(history(items_BN))[1]
    assert torch.equal(plain.interacted_BNL, noisy.interacted_BNL)
    kept = noisy.kept_BNK
    moved = (kept != plain.kept_BNK).any(-1)[items_BN != PAD].float().mean()
    assert 0.2 < moved < 1, "as large as the spread of the scores: many choices change, not all"
    expected = noisy.interacted_BNL.gather(-1, kept).softmax(-1)
    torch.testing.assert_close(noisy.weights_BNK, expected)  # the noise is on the choice, not on the weights


def test_kmeans_finds_groups_and_starts_the_pool_from_them() -> None:
    torch.manual_seed(3)
    middles = 10 * torch.eye(4, 6, dtype=torch.float64)
    points = middles.repeat_interleave(100, 0) + 0.1 * torch.randn(400, 6, dtype=torch.float64)
    starts = [centroids(points, 4) for _ in range(5)]  # a random start may miss a group
    nearest = min(torch.cdist(middles, found).amin(1).max() for found in starts)
    assert nearest < 0.1
    assert centroids(points[:3], 5).shape == (5, 6), "fewer points than groups"

    model = make_model(pool_start="kmeans")
    before = model.pool_LD.clone()
    model.prepare(torch.zeros(M + 1), history(padded(HISTORIES)))
    torch.testing.assert_close(model.pool_LD.norm(dim=1), torch.ones(L, dtype=torch.float64))
    assert not torch.allclose(model.pool_LD, before)
    states = model.encoder(padded(HISTORIES))[padded(HISTORIES) != PAD]
    assert (torch.nn.functional.normalize(states, dim=1) @ model.pool_LD.T).amax(0).min() > 0.5, "near to states"
    plain = make_model()
    plain.prepare(torch.zeros(M + 1), history(padded(HISTORIES)))
    assert torch.equal(plain.pool_LD, before)


@pytest.mark.parametrize("options", [{}, {"relevance": "cosine", "temperature": 0.2}], ids=str)
def test_the_weights_of_the_interaction_are_those_that_mix_the_relevances(options: dict[str, Any]) -> None:
    model, items_BN = make_model(**options), padded(HISTORIES)
    _, retrieved = model.retrieve(history(items_BN))
    weights_BHNN = dict(model.attentions(history(items_BN)))["interaction"]
    values_BNL = retrieved.relevance_BNL @ model.get_parameter(INTERACTION).chunk(3)[2].T
    real_BN = items_BN != PAD
    torch.testing.assert_close((weights_BHNN[:, 0] @ values_BNL)[real_BN], retrieved.interacted_BNL[real_BN])


@torch.no_grad()
def test_an_encoder_that_looks_at_times_gets_them() -> None:
    model = SAIR(M, MAX_LEN, table(), 6, 5, 2, D, encoder=partial(transduction_units, max_len=MAX_LEN)).eval()
    torch.nn.init.normal_(model.encoder.encoder.blocks[0].time_bias.weight, std=10.0)
    now = history(padded(HISTORIES))
    assert model.needs_times and now.times_BN is not None
    later = now._replace(times_BN=now.times_BN * 100)
    for find in (model.encode, model.newest, lambda shown: model.explain(shown).relevance_BNL):
        assert (find(now)[2] - find(later)[2]).abs().max() > 1e-4
    with pytest.raises(UserError, match="looks at the times"):
        model.encode(now._replace(times_BN=None))
