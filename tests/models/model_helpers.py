"""Small histories, random weights, and checks that the tests of several models share."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from small_data import history
from torch import Tensor, nn

from sairlib.batch import Batch
from sairlib.models.heads import ByCosines, ByDistances, ByProducts, HeadPart
from sairlib.models.recommender import Recommender, StepModel, one_tensor
from sairlib.nn.layers import Table, UserTable

M, USERS, MAX_LEN, D = 11, 6, 6, 4
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 7, 8], [10, 11], [8, 2, 8], [1, 2, 3, 4]]


def padded(rows: list[list[int]] = HISTORIES, width: int = MAX_LEN) -> Tensor:
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def regularisers(model: Recommender) -> dict[str, Tensor]:
    """Auxiliary losses that depend on weights alone: those of an empty batch."""
    no_items = torch.zeros(0, 0, dtype=torch.long)
    return model.auxiliary(Batch(history(no_items), no_items[..., None], None), torch.zeros(0, 0))


def read_by_rows(model: nn.Module) -> list[Table]:
    """The tables of which a training step may update only the rows that it looks up."""
    return [module for module in model.modules() if isinstance(module, Table) and not module.whole]


def has_user_table(model: nn.Module) -> bool:
    return any(isinstance(module, UserTable) for module in model.modules())


def randomised(model: nn.Module, scale: float = 1.0) -> None:
    """Eval mode, double precision, random weights except PAD's: biases of 0 and gains of 1 would hide mistakes."""
    model.double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * noise + (1 if name.endswith("norm.weight") else 0))
        for module in model.modules():
            if isinstance(module, Table) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0


def arrays(model: nn.Module) -> dict[str, NDArray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def plain_score(head: HeadPart, state: NDArray, vector: NDArray, bias: float = 0.0) -> float:
    """What a part makes of a state and an item's vector, by its formula."""
    if isinstance(head, ByDistances):
        apart = [x - y for x, y in zip(state, vector, strict=True)]
        return bias - sum(abs(x) if head.kind == "l1" else x**2 for x in apart)
    product = sum(x * y for x, y in zip(state, vector, strict=True))
    if isinstance(head, ByProducts):
        return bias + product
    assert isinstance(head, ByCosines)
    return bias + product / (sum(x**2 for x in state) * sum(y**2 for y in vector)) ** 0.5 / head.temperature


def assert_scores_are(model: StepModel, plain: Callable[[int, int, int], float], tolerance: float = 1e-12) -> None:
    """Scores at every step equal ``plain(user, last item, item)``; those of all items at once, to ``tolerance``."""
    with torch.no_grad():
        states_BND = one_tensor(model.encode(history(padded())))
        scores_BNM = model.head.score(states_BND, torch.arange(M + 1).expand(USERS, MAX_LEN, -1))
        shared_BNM = model.head.score_shared(states_BND, torch.arange(M + 1))
        newest_BM = model.head.score_all(model.newest(history(padded())))
    for user, row in enumerate(HISTORIES):
        for step, last in enumerate(row):
            expected = [plain(user, last, item) for item in range(1, M + 1)]
            np.testing.assert_allclose(scores_BNM[user, step, 1:], expected, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(shared_BNM[user, step, 1:], expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(newest_BM[user, 1:], expected, rtol=tolerance, atol=tolerance)


def assert_scores_agree(model: StepModel, items_BN: Tensor) -> None:
    """``score`` and ``score_shared`` equal ``score_all`` at every step."""
    states_BND = one_tensor(model.encode(history(items_BN)))
    items_BNC = torch.randint(1, model.n_items + 1, (*items_BN.shape, 5))
    all_BNM = model.head.score_all(states_BND.flatten(0, 1)).view(*items_BN.shape, -1)
    torch.testing.assert_close(model.head.score(states_BND, items_BNC), all_BNM.gather(-1, items_BNC))
    items_C = torch.tensor([3, 1, 3])
    torch.testing.assert_close(model.head.score_shared(states_BND, items_C), all_BNM[..., items_C])
