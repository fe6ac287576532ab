"""A table of vectors, looked up by id."""

from typing import Any

import torch
from torch import Tensor, nn

from sairlib.errors import UserError


class _Rows(torch.autograd.Function):
    """Rows of a table; on CPU ``index_add_`` sums their gradient in a quarter of ``nn.functional.embedding``'s time."""

    @staticmethod
    def forward(ctx: Any, table_MD: Tensor, ids: Tensor, pad: int | None, sparse: bool) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.n_rows, ctx.pad, ctx.sparse = len(table_MD), pad, sparse
        return nn.functional.embedding(ids, table_MD)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (ids,) = ctx.saved_tensors
        width = gradient.shape[-1]
        ids, gradient = ids.reshape(-1), gradient.reshape(-1, width)
        if ctx.sparse:
            if ctx.pad is not None:
                real = (ids != ctx.pad).nonzero().squeeze(1)
                ids, gradient = ids[real], gradient[real]
            found = torch.sparse_coo_tensor(ids[None], gradient, (ctx.n_rows, width), check_invariants=False)
            return found, None, None, None
        summed_MD = gradient.new_zeros(ctx.n_rows, width)
        summed_MD.index_add_(0, ids, gradient)
        if ctx.pad is not None:
            summed_MD[ctx.pad] = 0
        return summed_MD, None, None, None


def rows(table_MD: Tensor, ids: Tensor, pad: int | None = None, sparse: bool = False) -> Tensor:
    """``table_MD[ids]``, shape (*ids.shape, D). Row ``pad`` gets no gradient; ``sparse`` gives one of ``ids`` alone."""
    if table_MD.device.type != "cpu" or torch.compiler.is_compiling():
        return nn.functional.embedding(ids, table_MD, padding_idx=pad, sparse=sparse)
    found: Tensor = _Rows.apply(table_MD, ids, pad, sparse)  # type: ignore[no-untyped-call]
    return found


class Table(nn.Embedding):
    """``nn.Embedding`` that starts Xavier-uniform (the default of the SASRec authors' framework).

    PAD's row, where there is one (``padding_idx``), starts at zero and gets no gradient.
    """

    def __init__(self, n_rows: int, width: int, padding_idx: int | None = None) -> None:
        if width < 1:
            raise UserError(f"the width d must be at least 1, not {width}")
        super().__init__(n_rows, width, padding_idx)

    def reset_parameters(self) -> None:
        super().reset_parameters()  # draws in vain, so that a seed gives the weights that it has always given
        nn.init.xavier_uniform_(self.weight)
        self._fill_padding_idx_with_zero()

    def forward(self, ids: Tensor) -> Tensor:
        return rows(self.weight, ids, self.padding_idx, self.sparse)

    def of(self, ids: Tensor | None) -> Tensor:
        """The rows of ``ids`` (*ids.shape, D), or all of them where that is None."""
        found: Tensor = self.weight if ids is None else self(ids)
        return found


class UserTable(Table):
    """A row for each user that was trained on; in evaluation any other is a UserError."""

    def forward(self, ids: Tensor) -> Tensor:
        if not self.training and ids.numel() and int(ids.max()) >= self.num_embeddings:
            raise UserError(
                f"user number {int(ids.max())} is unknown: this model has a vector for each of the"
                f" {self.num_embeddings} users it was trained on, and no other"
            )
        return super().forward(ids)
