"""The interaction of interests alone: causal by gradient. Values are tested in tests/models/test_sair.py."""

import pytest
import torch

from sairlib.nn.interests import InterestAggregator, InterestRetrieval

B, N, D, L, K = 2, 6, 4, 5, 3


@pytest.mark.parametrize("weights", ["interacted", "raw"])
@pytest.mark.parametrize("residual", [False, True])
def test_the_interaction_is_causal_by_gradient(weights: str, residual: bool) -> None:
    """Without the encoder: gradients are with respect to the prefix vectors themselves."""
    torch.manual_seed(0)
    retrieval = InterestRetrieval(L, K, weights, residual, select=True)
    aggregator = InterestAggregator(K, D, "per_slot", dropout=0.0)
    states_BND, pool_LD = torch.randn(B, N, D, requires_grad=True), torch.randn(L, D)
    retrieved = retrieval(states_BND, pool_LD)
    outputs = {
        "interacted": retrieved.interacted_BNL,
        "weights": retrieved.weights_BNK,
        "fused": aggregator(states_BND, pool_LD, retrieved),
    }
    for name, out in outputs.items():
        for t in range(N):
            projected = (out[:, t] * torch.randn_like(out[:, t])).sum()
            (gradient,) = torch.autograd.grad(projected, states_BND, retain_graph=True)
            assert not gradient[:, t + 1 :].any(), f"{name} at {t} sees the future"
            past = gradient[:, :t].abs().amax((0, 2))
            # With weights=raw the past only decides which interests are chosen, and indices have no gradient.
            assert (past > 0).all() if weights == "interacted" or name == "interacted" else not past.any()


def test_the_interaction_mixes_along_the_sequence() -> None:
    """Without any interaction, the causality test would pass too."""
    torch.manual_seed(0)
    retrieval, pool_LD = InterestRetrieval(L, K, "raw", False, select=True), torch.randn(L, D)
    states_BND = torch.randn(B, N, D)
    changed_BND = states_BND.clone()
    changed_BND[:, 0] = torch.randn(B, D)
    before, after = retrieval(states_BND, pool_LD), retrieval(changed_BND, pool_LD)
    assert torch.equal(before.relevance_BNL[:, 1:], after.relevance_BNL[:, 1:])
    assert ((before.interacted_BNL - after.interacted_BNL).abs().amax((0, 2)) > 1e-4).all()


def test_the_chosen_interests_are_the_strongest_first_and_their_weights_sum_to_1() -> None:
    torch.manual_seed(0)
    retrieved = InterestRetrieval(L, K, "interacted", False, True)(torch.randn(B, N, D), torch.randn(L, D))
    order_BNL = retrieved.interacted_BNL.argsort(-1, descending=True)
    assert torch.equal(retrieved.kept_BNK, order_BNL[..., :K])
    torch.testing.assert_close(retrieved.weights_BNK.sum(-1), torch.ones(B, N))
    assert (retrieved.weights_BNK.diff() <= 0).all()
