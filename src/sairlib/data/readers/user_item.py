"""Lines of "user item", each user's in time order: the format of the data that SASRec's authors publish."""

from dataclasses import dataclass

from sairlib.data.interactions import ITEM, USER, Interactions
from sairlib.data.readers.categories import item_tables, read_items_csv
from sairlib.data.readers.table import WHITESPACE, Layout, read_table
from sairlib.data.source import Source

_LAYOUT = Layout(WHITESPACE, {"user": USER, "item": ITEM})


@dataclass(frozen=True)
class UserItemText:
    """Reads ``file``; the order of its lines is the order in time.

    ``item_map`` is the name of a csv with the columns ``sasrec_item_id``, ``title`` and ``genres`` (separated by '|').
    Without that file beside it, the items have no categories and no titles.
    """

    file: str
    item_map: str | None = None

    def files(self, source: Source) -> list[str]:
        """The files that affect the result."""
        return [self.file, *([self.item_map] if self.item_map and source.has(self.item_map) else [])]

    def read(self, source: Source) -> Interactions:
        file, *item_map = self.files(source)
        frame = read_table(source, file, _LAYOUT)
        items = read_items_csv(source, item_map[0], "sasrec_item_id", "title", "genres") if item_map else ()
        return Interactions(frame, source.where(file), *item_tables(items))
