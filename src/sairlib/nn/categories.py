"""One vector for the categories of each item."""

from torch import Tensor, nn

from sairlib.batch import PAD
from sairlib.errors import UserError
from sairlib.nn.layers import Table

POOLINGS = ("mean", "sum", "first")


class CategoryEmbedding(nn.Module):
    """H_cate: one vector for the categories of each item.

    ``item_categories`` (M + 1, G): category ids 1..T of each item, PAD if there are fewer than G. ``pooling`` of
    several categories: ``mean``, ``sum``, or the ``first`` in the file's order.
    """

    item_categories: Tensor

    def __init__(self, item_categories: Tensor, n_categories: int, width: int, pooling: str) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"category_pooling={pooling!r}: choose one of {', '.join(POOLINGS)}")
        self.mode = "sum" if pooling == "first" else pooling
        pooled = item_categories[:, :1] if pooling == "first" else item_categories
        self.register_buffer("item_categories", pooled, persistent=False)
        self.table = Table(n_categories + 1, width, padding_idx=PAD, whole=True)

    def forward(self, items: Tensor) -> Tensor:
        """Vectors (*items.shape, D)."""
        categories = self.item_categories[items.reshape(-1)]
        pooled = nn.functional.embedding_bag(categories, self.table.weight, mode=self.mode, padding_idx=PAD)
        return pooled.view(*items.shape, -1)
