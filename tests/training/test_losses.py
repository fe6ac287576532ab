"""Every loss against loops in plain numbers, straight from its formula."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import make_split
from tiny_models import Bigram, M
from torch.nn.functional import cross_entropy

from sairlib.batch import PAD, Negatives
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.models.recommender import Products
from sairlib.models.sasrec import SASRec
from sairlib.nn.kernels import parts
from sairlib.training import losses
from sairlib.training.gbce import GBCE
from sairlib.training.losses import BCE, DrawnLoss, Loss
from sairlib.training.negatives import Uniform
from sairlib.training.pairwise_losses import BPR, TOP1, BPRMax, Hinge, TOP1Max
from sairlib.training.softmax_losses import SampledSoftmax, Softmax

N_ITEMS = 9


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce(positive: float, negatives: list[float], expected: float) -> float:
    return -math.log(sigmoid(positive)) - sum(math.log(1 - sigmoid(s)) for s in negatives)


def gbce(positive: float, negatives: list[float], expected: float, n_negatives: int, t: float) -> float:
    """As in the paper: alpha is n_negatives over the number of items other than the positive."""
    share = n_negatives / (N_ITEMS - 1)
    beta = share * (t * (1 - 1 / share) + 1 / share)
    return -beta * math.log(sigmoid(positive)) - sum(math.log(1 - sigmoid(s)) for s in negatives)


def bpr(positive: float, negatives: list[float], expected: float) -> float:
    return -sum(math.log(sigmoid(positive - s)) for s in negatives) / max(1, len(negatives))


def bpr_max(positive: float, negatives: list[float], expected: float, regularisation: float) -> float:
    if not negatives:
        return 0.0
    weights = [math.exp(s) / sum(map(math.exp, negatives)) for s in negatives]
    likely = sum(w * sigmoid(positive - s) for w, s in zip(weights, negatives, strict=True))
    return -math.log(likely) + regularisation * sum(w * s**2 for w, s in zip(weights, negatives, strict=True))


def top1(positive: float, negatives: list[float], expected: float) -> float:
    return sum(sigmoid(s - positive) + sigmoid(s * s) for s in negatives) / max(1, len(negatives))


def top1_max(positive: float, negatives: list[float], expected: float) -> float:
    weights = [math.exp(s) / sum(map(math.exp, negatives)) for s in negatives]
    return sum(w * (sigmoid(s - positive) + sigmoid(s * s)) for w, s in zip(weights, negatives, strict=True))


def hinge(positive: float, negatives: list[float], expected: float, margin: float) -> float:
    return sum(max(0.0, margin + s - positive) for s in negatives)


def sampled_softmax(positive: float, negatives: list[float], expected: float, logq: bool) -> float:
    for_each = [math.exp(s) / (expected if logq else 1) for s in negatives]
    return -math.log(math.exp(positive) / (math.exp(positive) + sum(for_each)))


PAIRS: list[tuple[DrawnLoss, Callable[..., float]]] = [
    (BCE(), bce),
    (GBCE(N_ITEMS, t=0.6), partial(gbce, t=0.6)),
    (BPR(), bpr),
    (BPRMax(regularisation=0.3), partial(bpr_max, regularisation=0.3)),
    (TOP1(), top1),
    (TOP1Max(), top1_max),
    (Hinge(margin=0.7), partial(hinge, margin=0.7)),
    (SampledSoftmax(logq=True), partial(sampled_softmax, logq=True)),
    (SampledSoftmax(logq=False), partial(sampled_softmax, logq=False)),
]
every_loss = pytest.mark.parametrize(("loss", "slow"), PAIRS, ids=lambda x: str(x) if isinstance(x, DrawnLoss) else "")


@every_loss
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_negatives=st.integers(1, 4), share=st.sampled_from([0.3, 0.7, 1.0]))
def test_equals_loops(loss: DrawnLoss, slow: Callable[..., float], seed: int, n_negatives: int, share: float) -> None:
    """With some negatives that do not count, and positives without any that counts."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(3, 4, 1 + n_negatives, generator=generator, dtype=torch.float64)
    counts = torch.rand(scores.shape, generator=generator) < share
    expected = 0.01 + torch.rand(3, 4, 1, generator=generator, dtype=torch.float64)  # the same for a row's negatives
    costs = loss.cost(scores, counts, expected.log())
    for at in [(b, n) for b in range(3) for n in range(4)]:
        counted = [s for s, c in zip(scores[at][1:].tolist(), counts[at][1:].tolist(), strict=True) if c]
        options = {"n_negatives": n_negatives} if isinstance(loss, GBCE) else {}
        expected_cost = slow(scores[at][0].item(), counted, expected[at].item(), **options)
        assert costs[at].item() == pytest.approx(expected_cost, rel=1e-6, abs=1e-9)


@every_loss
def test_gradients_are_finite_and_0_for_scores_that_do_not_count(loss: DrawnLoss, slow: Callable[..., float]) -> None:
    scores = torch.tensor([[[0.5, 1.0, 9.0], [0.5, 9.0, 9.0], [200.0, -200.0, 0.0]]], requires_grad=True)
    counts = torch.tensor([[[True, True, False], [True, False, False], [True, True, True]]])
    loss.cost(scores, counts, torch.tensor(-2.0)).sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()
    assert not scores.grad[~counts].any()
    assert scores.grad[0, 0, 0] < 0 < scores.grad[0, 0, 1]


def test_gbce_with_t_0_is_bce() -> None:
    scores, counts = torch.randn(5, 4), torch.ones(5, 4, dtype=torch.bool)
    costs = GBCE(N_ITEMS, t=0.0).cost(scores, counts, torch.tensor(-3.0))
    torch.testing.assert_close(costs, BCE().cost(scores, counts, torch.tensor(-3.0)))


def test_the_order_of_the_negatives_changes_no_cost_and_neither_does_who_drew_them() -> None:
    scores, counts = torch.randn(1, 4), torch.ones(1, 4, dtype=torch.bool)
    popular = torch.tensor([[-0.1, -3.0, -6.0]])
    costs = [
        GBCE(N_ITEMS).cost(scores[:, [0, *(1 + i for i in order)]], counts, popular[:, order])
        for order in ([0, 1, 2], [2, 1, 0])
    ]
    torch.testing.assert_close(*costs)


@pytest.mark.parametrize(("n_negatives", "t", "beta"), [(8, 0.75, 1.0), (1, 1.0, 1 / 8), (1, 0.0, 1.0), (4, 0.5, 0.75)])
def test_gbce_s_beta(n_negatives: int, t: float, beta: float) -> None:
    """With 9 items: beta is 1 (BCE) if all others are drawn or t = 0, alpha if t = 1, and between them otherwise."""
    assert GBCE(N_ITEMS, t).beta(n_negatives) == pytest.approx(beta)


def test_logq_makes_the_sample_s_sum_that_of_the_catalogue() -> None:
    """Over many draws the corrected sum of exp(scores) has the mean of the whole; uncorrected it is far off."""
    generator = torch.Generator().manual_seed(0)
    catalogue, weights = torch.randn(50, generator=generator), torch.rand(50, generator=generator)
    chances = weights / weights.sum()
    drawn = torch.multinomial(chances, 20_000 * 8, replacement=True, generator=generator).view(20_000, 8)
    scores = torch.cat([torch.zeros(20_000, 1), catalogue[drawn]], 1)
    counts = torch.ones_like(scores, dtype=torch.bool)
    sums = SampledSoftmax().cost(scores, counts, (8 * chances[drawn]).log()).exp() - 1
    assert sums.mean().item() == pytest.approx(catalogue.exp().sum().item(), rel=0.02)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("loss", [*(loss for loss, _ in PAIRS), Softmax(), Softmax(label_smoothing=0.2)], ids=str)
def test_computed_by_parts_a_cost_is_what_it_is_whole(
    loss: Loss, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 rows, in parts of 32. Some ask about nothing, some about their first or their second target alone."""
    torch.manual_seed(0)
    model, states_XD = Bigram(), torch.randn(200, M + 1, requires_grad=True)
    targets_XS = torch.randint(1, M + 1, (200, 2)) * (torch.rand(200, 2) < 0.4)
    assert len(targets_XS.sign().unique(dim=0)) == 4
    items = torch.randint(1, M + 1, (1, 1, 1, 5) if shared else (200, 2, 5))
    negatives = Negatives(items, torch.rand(items.shape), shared)

    def costs_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        costs_XS = loss.each(model, states_XD, targets_XS, negatives)
        (gradient_XD,) = torch.autograd.grad(costs_XS.sum(), states_XD)
        return costs_XS.detach(), gradient_XD

    whole_XS, gradient_XD = costs_and_gradient()
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", 1)
    torch.testing.assert_close(costs_and_gradient(), (whole_XS, gradient_XD))
    assert whole_XS[targets_XS != PAD].mean() > 0.1 and not whole_XS[targets_XS == PAD].any()


@pytest.mark.parametrize("loss", [loss for loss, _ in PAIRS], ids=str)
def test_scores_taken_from_those_of_all_items_cost_the_same(loss: DrawnLoss, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = SASRec(M, n_users=1, max_len=1, d=4)
    states_XD, table_MD = torch.randn(9, 4, requires_grad=True), model.encoder.item_embedding.weight
    targets_XS, items = torch.randint(0, M + 1, (9, 2)), torch.randint(0, M + 1, (9, 2, 3))  # also PAD, also the target
    negatives = Negatives(items, torch.rand(items.shape))
    monkeypatch.setattr(losses, "ALL", 32)
    assert losses.scored_with_all(M, 3)

    def costs_and_gradients() -> tuple[torch.Tensor, ...]:
        costs_XS = loss.each(model, states_XD, targets_XS, negatives)
        return costs_XS.detach(), *torch.autograd.grad(costs_XS.sum(), [states_XD, table_MD])

    from_all = costs_and_gradients()
    monkeypatch.setattr(losses, "ALL", 0)
    monkeypatch.setattr(Products, "score_all", None)
    torch.testing.assert_close(from_all, costs_and_gradients())


@pytest.mark.parametrize("products", ["none", "plain", "biased"])
def test_label_smoothing_is_that_of_torch(products: str) -> None:
    torch.manual_seed(0)
    model, targets_XS = Bigram(), torch.randint(1, M + 1, (20, 1))
    states_XD = torch.randn(20, M + 1 if products == "none" else 5, requires_grad=True)
    scores_XM = states_XD
    if products != "none":
        vectors_MD = torch.randn(M + 1, 5)
        bias_M = torch.randn(M + 1) if products == "biased" else torch.zeros(M + 1)
        scores_XM = states_XD @ vectors_MD.T + bias_M
        bias = (lambda ids: bias_M if ids is None else bias_M[ids]) if products == "biased" else None
        model.scores = Products(lambda ids: vectors_MD if ids is None else vectors_MD[ids], bias)  # type: ignore[assignment]
    costs_X = Softmax(label_smoothing=0.2).each(model, states_XD, targets_XS, None).squeeze(1)
    expected_X = cross_entropy(scores_XM[:, 1:], targets_XS[:, 0] - 1, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(costs_X, expected_X)
    actual, expected = (torch.autograd.grad(c.sum(), states_XD, retain_graph=True) for c in (costs_X, expected_X))
    torch.testing.assert_close(actual, expected)


def test_gbce_takes_all_other_items_as_negatives_and_no_more() -> None:
    store = SequenceStore(make_split([[1, 2, 3, 4]], N_ITEMS), 5, torch.device("cpu"))
    GBCE(N_ITEMS).check(Bigram(), Uniform(store, N_ITEMS - 1))
    with pytest.raises(UserError, match=r"^negatives\.n=9: loss=gbce takes at most the 8 other items$"):
        GBCE(N_ITEMS).check(Bigram(), Uniform(store, N_ITEMS))
