"""Linformer's attention (Wang et al., 2020), in a causal form."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sairlib.errors import UserError
from sairlib.nn.attention import Attention


@final
class LinformerAttention(Attention):
    """softmax(Q K'^T / sqrt(D / H)) V', with fewer keys K' and values V' than steps.

    Linformer projects the keys and values of all N steps to k of each, K' = E K and V' = F V with learned E and F
    (k, N). Every k-th key is then a sum over all steps, later ones too: a model that is trained at every step would see
    its targets. It may be used only where one state is trained for each sequence.

    This form is ours, and causal. The steps are cut into blocks of T = ``block``, counted from the oldest in the
    window. Each block's T keys and values are projected to ``k``, by one E and one F (k, T) for all blocks and heads. A
    step attends to the projections of the blocks that ended before its own began, and to the steps of its own block up
    to itself, exactly: one softmax over all of these. A sequence of at most T steps has the full attention.

    Each step has at most T + k N / T weights in place of N, so this is cheaper for long sequences but not linear in N,
    as Linformer is. With the defaults, a CPU takes longer than for the full attention at 200 steps, and less from about
    1000 steps on. torch.export cannot follow the blocks of a sequence of any length. Q, K and V have no biases. E and F
    start uniform within 1 / sqrt(T).
    """

    def __init__(self, width: int, n_heads: int = 1, block: int = 32, k: int = 4) -> None:
        super().__init__()
        if n_heads < 1 or width % n_heads:
            raise UserError(f"n_heads={n_heads} does not divide the width {width}")
        if block < 1:
            raise UserError(f"block={block}: must be 1 or more")
        if not 1 <= k <= block:
            raise UserError(f"k={k}: must be between 1 and block={block}")
        self.n_heads = n_heads
        self.block = block
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        for part in self.query_key_value.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        self.project_keys = nn.Parameter(torch.empty(k, block).uniform_(-(block**-0.5), block**-0.5))  # E
        self.project_values = nn.Parameter(torch.empty(k, block).uniform_(-(block**-0.5), block**-0.5))  # F

    def forward(self, states_BND: Tensor) -> Tensor:
        # Steps are (J blocks, T), heads (H, D / H), and P are the projections of all blocks but the last.
        n_steps, T, k = states_BND.shape[1], self.block, len(self.project_keys)
        padded_BND = pad(states_BND, (0, 0, 0, -n_steps % T))
        parts = self.query_key_value(padded_BND).unflatten(1, (-1, T)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.n_heads, -1)).permute(0, 3, 1, 2, 4) for part in parts)
        blocks_J, device = torch.arange(query.shape[2], device=query.device), query.device
        unfinished_J1P = (blocks_J[:-1].repeat_interleave(k) >= blocks_J[:, None])[:, None]
        later_TT = torch.ones(T, T, dtype=torch.bool, device=device).triu(1)
        far_BHJTP = with_others(query, projected(self.project_keys, key).mT).masked_fill(unfinished_J1P, -torch.inf)
        own_BHJTT = (query @ key.mT).masked_fill(later_TT, -torch.inf)
        weights = (torch.cat([far_BHJTP, own_BHJTT], -1) * query.shape[-1] ** -0.5).softmax(-1)
        far_weights, own_weights = weights.split([far_BHJTP.shape[-1], T], -1)
        mixed = with_others(far_weights, projected(self.project_values, value)) + own_weights @ value
        joined_BND: Tensor = mixed.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)[:, :n_steps]
        return joined_BND


def projected(projection_kT: Tensor, part_BHJTD: Tensor) -> Tensor:
    """Of all blocks but the last, together (B, H, P, D)."""
    return (projection_kT @ part_BHJTD[:, :, :-1]).flatten(2, 3)


def with_others(part_BHJTX: Tensor, others_BHXY: Tensor) -> Tensor:
    """The products (B, H, J, T, Y) of every step with what is the same for all blocks."""
    products: Tensor = (part_BHJTX.flatten(2, 3) @ others_BHXY).unflatten(2, part_BHJTX.shape[2:4])
    return products
