"""A model as functions of tensors alone, which torch.export can write down."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.functional import pad

from sairlib.batch import PAD, STRANGER, History, State, map_state, single
from sairlib.errors import UserError, one_line
from sairlib.exporting.frozen import frozen
from sairlib.exporting.products import user_vectors
from sairlib.models.recommender import Recommender, StepModel
from sairlib.nn.layers import UserTable

Function: TypeAlias = Callable[[Recommender, State], State]
"""From a model and the states of histories to what a program gives."""


def states(model: Recommender, state: State) -> State:
    """The states themselves."""
    return map_state(single, state)


def scores(model: Recommender, state: State) -> Tensor:
    """Scores (B, M + 1) of all items, by their number; PAD's is -inf, so that it is never the best."""
    scores_BM = model.head.score_all(map_state(single, state)).float()
    numbers_M = torch.arange(model.n_items + 1, device=scores_BM.device)
    return scores_BM.masked_fill(numbers_M == PAD, -torch.inf)


def vectors(model: Recommender, state: State) -> Tensor:
    """Vectors (B, D') whose products with those of the items rank the items; see ``products.py``."""
    return user_vectors(model.head, map_state(single, state))


FUNCTIONS: dict[str, Function] = {"states": states, "scores": scores, "user_vectors": vectors}
"""What can be exported, by name."""

LONGEST_REASON = 300
"""Characters shown of what torch says; most of it is advice to those who export."""


class Program(nn.Module):
    """From items (B, N), right-padded, and users (B) if the model has vectors for them, to what ``function`` gives."""

    def __init__(self, model: Recommender, function: Function) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, items_BN: Tensor, users_B: Tensor | None = None) -> State:
        if users_B is None:
            users_B = items_BN.new_full((items_BN.shape[0],), STRANGER)
        if isinstance(self.model, StepModel) and self.model.memory is not None:
            items_BN = pad(items_BN, (0, self.model.memory), value=PAD)  # then its window has the same width always
        return self.function(self.model, self.model.newest(History(users_B, items_BN)))


def knows_users(model: Recommender) -> bool:
    """Whether the model has a vector for each user, so that its programs take users."""
    return any(isinstance(module, UserTable) for module in model.modules())


def trace(model: Recommender, name: str, max_len: int) -> ExportedProgram:
    """The program ``name`` of a model, for any number of histories and any length from 1 to ``max_len``.

    UserError if torch.export cannot follow the model.
    """
    program = Program(frozen(model), FUNCTIONS[name]).eval()
    length = min(max_len, 4)
    inputs = [torch.ones(3, length, dtype=torch.int64)]
    batch = Dim("batch", min=1)
    dims: list[dict[int, Dim]] = [{0: batch} if max_len == 1 else {0: batch, 1: Dim("length", min=1, max=max_len)}]
    if knows_users(model):
        inputs.append(torch.zeros(3, dtype=torch.int64))
        dims.append({0: batch})
    named = dict(zip(("items_BN", "users_B"), dims, strict=False))
    try:
        with torch.no_grad():
            return torch.export.export(program, tuple(inputs), dynamic_shapes=named, strict=False)
    except Exception as error:  # torch.export raises almost anything, for reasons that lie in the model
        reason = one_line(error)[:LONGEST_REASON]
        raise UserError(
            f"{type(model).__name__} cannot be exported: torch.export cannot follow it ({reason})"
        ) from error
