"""NextItNet: a simple convolutional generative network for next item recommendation (Yuan et al., WSDM 2019)."""

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn
from torch.nn.functional import pad

from sairlib.batch import PAD, History
from sairlib.errors import UserError
from sairlib.models.recommender import Head, Products, StepModel
from sairlib.nn.bidirectional import start_as_bert
from sairlib.nn.layers import Table


@final
class NextItNet(StepModel):
    """Dilated causal convolutions: p(x_{t+1} | x_0 .. x_t) = softmax(W ReLU(E_t) + b), with E the last block's output.

    The convolution of width k and dilation l gives at step t the sum over j < k of F_j x_{t - jl}, plus a bias; a step
    before the first item counts as zeros. The first block takes the items' vectors. The paper's residual block (b) has
    two convolutions, of dilations l and 2l:

        block(X) = X + ReLU(LayerNorm(conv_2l(ReLU(LayerNorm(conv_l(X))))))

    ``dilations`` are the l of the blocks, from the first; ``kernel_size`` is k. A state sees the newest
    R = 1 + 3 (k - 1) (sum of the dilations) items and none before. R is 61 for the defaults, 151 for [1, 4] five times,
    91 for [1, 2, 4, 8]. Sequences longer than R are allowed: choose dilations with R >= max_len to see all of them.
    Where R is less than max_len, it is the model's ``memory``, and evaluation reads only these items.

    ``tied=True``: W is the table of the input vectors. ``output_relu=False`` omits the ReLU before W, as the authors'
    code does when it trains by sampled softmax.

    Every step is trained, by default with the softmax over all items. The authors' code also has a sampled one, over a
    fifth of the items: ``loss=sampled_softmax negatives=shared negatives.n=...``.

    Deviations from the paper, and what it leaves to its authors' code:

    1. Sequences are right-padded, and steps before the first item are zeros in every layer: the amount of padding
       changes nothing. The authors pad on the left with an item of its own, which has a vector, is convolved like
       any other, and is a target too.
    2. Initial values, the epsilon of LayerNorm (1e-8) and the ReLU before W are those of the authors' code: matrices,
       filters and tables from N(0, 0.02^2) cut at two deviations, all biases 0.
    3. ``tied`` is an option of ours; a port ties the tables, with another linear layer before them.
    4. Residual block (a), which has one dilated convolution between two of width 1, is missing.
    """

    def __init__(
        self,
        n_items: int,
        max_len: int,
        d: int = 64,
        dilations: Sequence[int] = (1, 4, 1, 4),
        kernel_size: int = 3,
        tied: bool = False,
        output_relu: bool = True,
    ) -> None:
        super().__init__()
        if d < 1:
            raise UserError(f"d={d}: must be 1 or more")
        if not dilations or not all(type(dilation) is int and 1 <= dilation <= max_len for dilation in dilations):
            raise UserError(f"dilations={list(dilations)}: give one or more whole numbers from 1 to max_len={max_len}")
        if kernel_size < 2:
            raise UserError(f"kernel_size={kernel_size}: must be 2 or more; a convolution of width 1 sees one item")
        self.n_items = n_items
        receptive_field = 1 + 3 * (kernel_size - 1) * sum(dilations)
        self.memory = receptive_field if receptive_field < max_len else None
        self.output_relu = output_relu
        self.item_embedding = Table(n_items + 1, d, padding_idx=PAD)
        self.blocks = nn.Sequential(*(ResidualBlock(d, kernel_size, dilation) for dilation in dilations))
        self.output_embedding = None if tied else Table(n_items + 1, d, padding_idx=PAD)
        self.output_bias = Table(n_items + 1, 1, padding_idx=PAD)
        start_as_bert(self)
        nn.init.zeros_(self.output_bias.weight)

    def encode(self, history: History) -> Tensor:
        states_BND: Tensor = self.blocks(self.item_embedding(history.items_BN))
        return states_BND.relu() if self.output_relu else states_BND

    @property
    def head(self) -> Head:
        table = self.output_embedding or self.item_embedding
        return Products(table.of, lambda items: self.output_bias.of(items).squeeze(-1))


class ResidualBlock(nn.Module):
    """The paper's residual block (b), over (B, N, D)."""

    def __init__(self, width: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width, width, kernel_size, dilation=dilation)
        self.first_norm = nn.LayerNorm(width, eps=1e-8)
        self.second = nn.Conv1d(width, width, kernel_size, dilation=2 * dilation)
        self.second_norm = nn.LayerNorm(width, eps=1e-8)
        for name, parameter in self.named_parameters():
            if name in ("first.weight", "second.weight"):
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
            elif name in ("first.bias", "second.bias"):
                nn.init.zeros_(parameter)

    def forward(self, x_BND: Tensor) -> Tensor:
        hidden_BND = self.first_norm(causal(self.first, x_BND)).relu()
        changed_BND: Tensor = self.second_norm(causal(self.second, hidden_BND)).relu()
        return x_BND + changed_BND


def causal(convolution: nn.Conv1d, x_BND: Tensor) -> Tensor:
    """The convolution that ends at each step (B, N, D), with zeros before step 0."""
    before = (convolution.kernel_size[0] - 1) * convolution.dilation[0]
    out_BND: Tensor = convolution(pad(x_BND.transpose(1, 2), (before, 0))).transpose(1, 2)
    return out_BND
