"""The best items, found tile by tile, are those of a sorted list."""

import pytest
import torch
from torch import Tensor

from sairlib.errors import NonFiniteError
from sairlib.evaluation import tiles
from sairlib.evaluation import top as top_module
from sairlib.evaluation.top import LeftOut, top
from sairlib.models.recommender import Products

M, B = 130, 11


def head(vectors_MD: Tensor) -> Products:
    return Products(lambda items: vectors_MD if items is None else vectors_MD[items])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in ((tiles, "ROWS", 3), (top_module, "COLUMNS", 45), (top_module, "GROUP", 4)):
        monkeypatch.setattr(module, name, size)  # tiles and groups with a rest


@pytest.mark.parametrize("k", [1, 5, 20, M, 2 * M])
@pytest.mark.parametrize("allowed", [None, torch.arange(2, M + 1, 3), torch.tensor([7])], ids=["all", "some", "one"])
def test_the_best_are_those_of_a_sorted_list(k: int, allowed: Tensor | None) -> None:
    generator = torch.Generator().manual_seed(k)
    vectors, states = torch.randn(M + 1, 6, generator=generator), torch.randn(B, 6, generator=generator)
    seen_BX = torch.randint(0, M + 1, (B, 60), generator=generator)  # with repeats and PAD
    seen_BX[0], seen_BX[1] = 0, torch.arange(60) % M + 1
    found = top(head(vectors), states, M, k, seen_BX, allowed)
    scores_BM = states @ vectors.T
    for row in range(B):
        choice = range(1, M + 1) if allowed is None else allowed.tolist()
        left = [item for item in choice if item not in seen_BX[row].tolist()]
        best = sorted(left, key=lambda item: -float(scores_BM[row, item]))[:k]
        rest = [0] * (min(k, len(choice)) - len(best))
        assert found.items_BK[row].tolist() == best + rest
        torch.testing.assert_close(found.scores_BK[row, : len(best)], scores_BM[row, best])
        assert bool((found.scores_BK[row, len(best) :] == -torch.inf).all())


def test_pairs_and_padded_items_are_left_out_alike() -> None:
    vectors, states = torch.randn(M + 1, 6), torch.randn(B, 6)
    pairs = LeftOut(torch.tensor([0, 0, 4, 10, 10]), torch.tensor([5, 5, 130, 1, 2]))
    padded_BX = torch.zeros(B, 2, dtype=torch.long)
    padded_BX[0, 1], padded_BX[4, 0], padded_BX[10] = 5, 130, torch.tensor([1, 2])
    for one, other in zip(
        top(head(vectors), states, M, M, pairs), top(head(vectors), states, M, M, padded_BX), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_score_that_is_no_number_is_an_error(bad: float) -> None:
    vectors = torch.ones(M + 1, 1)
    vectors[M] = bad
    with pytest.raises(NonFiniteError):
        top(head(vectors), torch.ones(B, 1), M, 2, torch.full((B, 1), M))
