"""One vector for the categories of each item, alone or beside the item's own."""

import torch
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


class ItemVectors(nn.Module):
    """[item; category]: an item's own vector and that of its categories, each ``d`` wide, ``width`` together.

    ``use_category=False``, and data without categories (``n_categories=0``): the item's vector alone. ``pooling`` is as
    in ``CategoryEmbedding``, and UserError for another, even where it is not used.
    """

    def __init__(
        self, n_items: int, d: int, item_categories: Tensor, n_categories: int, use_category: bool, pooling: str
    ) -> None:
        super().__init__()
        if d < 1:
            raise UserError(f"d={d}: must be 1 or more")
        if pooling not in POOLINGS:
            raise UserError(f"category_pooling={pooling!r}: choose one of {', '.join(POOLINGS)}")
        self.items = Table(n_items + 1, d, padding_idx=PAD)
        used = use_category and n_categories > 0
        self.categories = CategoryEmbedding(item_categories, n_categories, d, pooling) if used else None
        self.width = 2 * d if used else d

    def forward(self, items: Tensor) -> Tensor:
        """Vectors (*items.shape, width)."""
        own: Tensor = self.items(items)
        return own if self.categories is None else torch.cat([own, self.categories(items)], -1)
