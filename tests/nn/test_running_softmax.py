"""Running softmax means against each prefix's own softmax."""

import pytest
import torch
from torch import Tensor

from sairlib.nn.running_softmax import BLOCK, running_softmax


def plain(logits_BN: Tensor, values_BND: Tensor) -> Tensor:
    """One row and one prefix at a time."""
    rows = []
    for logits_N, values_ND in zip(logits_BN, values_BND, strict=True):
        rows.append(torch.stack([logits_N[: t + 1].softmax(0) @ values_ND[: t + 1] for t in range(len(logits_N))]))
    return torch.stack(rows)


def inputs(n_steps: int, scale: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n_steps)
    logits_BN = scale * torch.randn(3, n_steps, generator=generator, dtype=torch.float64)
    values_BND = torch.randn(3, n_steps, 4, generator=generator, dtype=torch.float64)
    return logits_BN.to(dtype).requires_grad_(), values_BND.to(dtype).requires_grad_()


@pytest.mark.parametrize("n_steps", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7])
def test_equals_each_prefix_s_own_softmax(n_steps: int) -> None:
    """And so do the gradients, with a different weight on every state."""
    logits_BN, values_BND = inputs(n_steps, 3.0)
    actual, expected = running_softmax(logits_BN, values_BND), plain(logits_BN, values_BND)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((means * weights).sum(), (logits_BN, values_BND)) for means in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_logits_far_apart_in_single_precision() -> None:
    """Differences of thousands: sums of exponentials would be 0 / 0 before the largest one, or infinite."""
    logits_BN, values_BND = inputs(4 * BLOCK, 3000.0, torch.float32)
    actual_BND = running_softmax(logits_BN, values_BND)
    torch.testing.assert_close(actual_BND, plain(logits_BN, values_BND), rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(actual_BND.square().sum(), (logits_BN, values_BND))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_no_step_sees_a_later_one() -> None:
    logits_BN, values_BND = inputs(2 * BLOCK + 3, 1.0)
    for t in (0, BLOCK - 1, BLOCK, 2 * BLOCK):
        gradients = torch.autograd.grad(running_softmax(logits_BN, values_BND)[:, t].sum(), (logits_BN, values_BND))
        assert gradients[1][:, : t + 1].all() and not any(gradient[:, t + 1 :].any() for gradient in gradients)


def test_memory_does_not_grow_with_the_square_of_the_steps() -> None:
    """What the backward pass keeps, per step: the same for four times as many."""

    def kept(n_steps: int) -> float:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            running_softmax(*inputs(n_steps, 1.0)).sum()
        return sum(sizes.values()) / n_steps

    assert kept(32 * BLOCK) < 1.3 * kept(8 * BLOCK)
