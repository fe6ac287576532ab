"""Finding items by words of their titles, or by their ids."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate


class Search:
    """Items in the order in which they are to be found, as one long text: a search stops at the last item it needs."""

    def __init__(self, names: Sequence[str]) -> None:
        """``names[i]``: what item i is called, all that it is to be found by."""
        folded = [name.replace("\n", " ").casefold() for name in names]
        self.text = "\n".join(folded)
        self.starts = list(accumulate((len(name) + 1 for name in folded), initial=0))

    def find(self, query: str, most: int) -> list[int]:
        """The first ``most`` items whose names have all words of ``query``, or parts of words; all have none."""
        found: list[int] = []
        for item in self._having(query.casefold().split()):
            if len(found) == most:
                break
            found.append(item)
        return found

    def _having(self, parts: list[str]) -> Iterator[int]:
        """Jumps from one name with the longest part to the next: the rest of the text is looked through by C."""
        if not parts:
            yield from range(len(self.starts) - 1)
            return
        rarest, item, place = max(parts, key=len), -1, 0
        while (place := self.text.find(rarest, place)) >= 0:
            item = bisect_right(self.starts, place, lo=item + 1) - 1
            end = self.starts[item + 1]
            name = self.text[self.starts[item] : end]
            if all(part in name for part in parts):
                yield item
            place = end
