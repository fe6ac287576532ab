"""A table of vectors, looked up by id."""

from torch import Tensor, nn

from sairlib.errors import UserError
from sairlib.nn.kernels.lookup import rows


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
