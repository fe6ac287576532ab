"""Causal self-attention: at every step, over that step and what came before it."""

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sairlib.errors import UserError


class CausalAttention(nn.Module):
    """softmax(Q K^T / sqrt(D / H)) V with a causal mask, over (B, N, D).

    Sequences are right-padded (see ``batch.py``), so no real step can see padding and no padding mask is needed.
    Q, K and V come without bias, as the papers write them. ``output_projection`` adds the matrix that PyTorch's
    multi-head attention has and the SASRec and SAIR papers have not. ``dropout`` falls on the attention weights and
    forbids the fast kernel: leave it 0 unless a paper asks for it.
    """

    def __init__(self, width: int, n_heads: int = 1, dropout: float = 0.0, output_projection: bool = False) -> None:
        super().__init__()
        if n_heads < 1 or width % n_heads:
            raise UserError(f"n_heads={n_heads} does not divide the width {width}")
        if not 0 <= dropout < 1:
            raise UserError(f"attention_dropout must be in [0, 1), not {dropout}")
        self.n_heads = n_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False) if output_projection else nn.Identity()
        for part in self.query_key_value.weight.chunk(3):
            nn.init.xavier_uniform_(part)

    def forward(self, states_BND: Tensor) -> Tensor:
        B, N, D = states_BND.shape
        query_BHND, key_BHND, value_BHND = (
            part_BND.view(B, N, self.n_heads, D // self.n_heads).transpose(1, 2)
            for part_BND in self.query_key_value(states_BND).split(D, -1)
        )
        dropout = self.dropout if self.training else 0.0
        mixed_BHND = scaled_dot_product_attention(query_BHND, key_BHND, value_BHND, dropout_p=dropout, is_causal=True)
        mixed_BND: Tensor = self.output(mixed_BHND.transpose(1, 2).reshape(B, N, D))
        return mixed_BND
