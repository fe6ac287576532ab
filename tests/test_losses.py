"""The loss against loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sairlib.losses import bce


def plain(scores: list[list[list[float]]], counts: list[list[list[bool]]]) -> float:
    total, steps = 0.0, 0
    for row, counts_of_row in zip(scores, counts, strict=True):
        for (positive, *negatives), (step_counts, *real) in zip(row, counts_of_row, strict=True):
            if not step_counts:
                continue
            steps += 1
            total -= math.log(1 / (1 + math.exp(-positive)))
            for negative, is_real in zip(negatives, real, strict=True):
                if is_real:
                    total -= math.log(1 - 1 / (1 + math.exp(-negative)))
    return total / max(steps, 1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n_negatives=st.integers(0, 3), share=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_bce_equals_loops(seed: int, n_negatives: int, share: float) -> None:
    """PAD among negatives, PAD targets whose negatives are real, and batches where nothing counts."""
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(3, 4, 1 + n_negatives, generator=generator)
    counts = torch.rand(scores.shape, generator=generator) < share
    assert bce(scores, counts).item() == pytest.approx(plain(scores.tolist(), counts.tolist()), rel=1e-4, abs=1e-6)


def test_a_given_number_of_steps_takes_the_place_of_those_that_count() -> None:
    scores = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([[[True, True], [True, False], [False, True]], [[False, True]] * 3])
    assert bce(scores, counts, n_steps=8.0).item() == pytest.approx(bce(scores, counts).item() * 2 / 8)


def test_no_gradient_reaches_what_does_not_count() -> None:
    scores = torch.zeros(1, 3, 3, requires_grad=True)
    counts = torch.tensor([[[True, True, False], [False, True, True], [True, False, False]]])
    bce(scores, counts).backward()
    assert scores.grad is not None
    assert scores.grad[0].tolist() == [[-0.25, 0.25, 0], [0, 0, 0], [-0.25, 0, 0]]


def test_huge_scores_stay_finite_and_half_precision_is_left_behind() -> None:
    scores = torch.tensor([[[-300.0, 300.0]]])
    assert bce(scores, scores != 0).item() == 600
    assert bce(scores.bfloat16(), scores != 0).dtype == torch.float32
