"""A copy of a model that only predicts, whose parts torch.export can follow. It computes what the model does."""

from copy import deepcopy
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan  # a loop over any number of steps; plain loops are written out for one number
from torch.nn.functional import embedding

from sairlib.batch import STRANGER
from sairlib.models.recommender import Recommender
from sairlib.nn.categories import CategoryEmbedding
from sairlib.nn.layers import UserTable


def frozen(model: Recommender) -> Recommender:
    """The copy, on the CPU and in eval mode. The model itself does not change."""
    copied = deepcopy(model).cpu().eval().requires_grad_(False)
    replaced: dict[nn.Module, nn.Module] = {}
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if module not in replaced:
            part = _replacement(module)
            if part is None:
                continue
            replaced[module] = part.eval().requires_grad_(False)
        parent, _, child = name.rpartition(".")
        setattr(copied.get_submodule(parent), child, replaced[module])
    return copied


def _replacement(module: nn.Module) -> nn.Module | None:
    if isinstance(module, UserTable):
        return KnownUsers(module)
    if isinstance(module, CategoryEmbedding):
        return PooledCategories(module)
    if isinstance(module, nn.GRU) and module.num_layers == 1 and module.batch_first and not module.bidirectional:
        return Gates(module)
    return None


class KnownUsers(nn.Module):
    """The rows of a table of users, and after them their mean, for a STRANGER."""

    def __init__(self, table: UserTable) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([table.weight, table.weight.mean(0, keepdim=True)]))

    def forward(self, ids: Tensor) -> Tensor:
        return embedding(torch.where(ids == STRANGER, len(self.weight) - 1, ids), self.weight)


class PooledCategories(nn.Module):
    """The vector of each item's categories, computed once."""

    def __init__(self, categories: CategoryEmbedding) -> None:
        super().__init__()
        self.table = categories.table  # SAIR-label's interests
        every_item_M = torch.arange(len(categories.item_categories))
        self.pooled_MD = nn.Parameter(cast(Tensor, categories(every_item_M)))

    def forward(self, items: Tensor) -> Tensor:
        return embedding(items, self.pooled_MD)


class Gates(nn.Module):
    """One layer of ``nn.GRU`` over (B, N, D), with PyTorch's equations, as a loop over any number of steps.

    A number of steps that is fixed in the program, as that of a window, is written out: ``scan`` would remember it, and
    could not be traced again for any other.
    """

    def __init__(self, layer: nn.GRU) -> None:
        super().__init__()
        self.of_input = nn.Linear(layer.input_size, 3 * layer.hidden_size, layer.bias)
        self.of_state = nn.Linear(layer.hidden_size, 3 * layer.hidden_size, layer.bias)
        given = layer.state_dict()
        for name, part in (("ih", self.of_input), ("hh", self.of_state)):
            part.load_state_dict({kind: given[f"{kind}_{name}_l0"] for kind in part.state_dict()})

    def forward(self, steps_BND: Tensor) -> tuple[Tensor, Tensor]:
        mapped_NBX = self.of_input(steps_BND).transpose(0, 1)
        start_BD = steps_BND.new_zeros(steps_BND.shape[0], self.of_state.in_features)
        if type(steps_BND.shape[1]) is int:  # and no symbol
            states = list(accumulate(mapped_NBX, lambda state, mapped: self._step(state, mapped)[0], initial=start_BD))
            return torch.stack(states[1:], 1), states[-1][None]
        last_BD, states_NBD = scan(self._step, start_BD, mapped_NBX)
        return states_NBD.transpose(0, 1), last_BD[None]

    def _step(self, state_BD: Tensor, mapped_BX: Tensor) -> tuple[Tensor, Tensor]:
        reset, update, new = mapped_BX.chunk(3, -1)
        reset_state, update_state, new_state = self.of_state(state_BD).chunk(3, -1)
        z = torch.sigmoid(update + update_state)
        candidate = torch.tanh(new + torch.sigmoid(reset + reset_state) * new_state)
        state_BD = (1 - z) * candidate + z * state_BD
        return state_BD, state_BD.clone()
