"""A reader of one's own."""

import json
from dataclasses import dataclass

import pandas as pd

from sairlib.data.interactions import ITEM, TIMESTAMP, USER, Interactions
from sairlib.data.source import Source
from sairlib.errors import UserError


@dataclass(frozen=True)
class Plays:
    """Reads ``file``, one object of JSON a line: ``{"who": 3, "song": 17, "at": 1700000000}``."""

    file: str = "plays.jsonl"

    def files(self, source: Source) -> list[str]:
        """The files that affect the result: if they change, the data is read again."""
        return [self.file]

    def read(self, source: Source) -> Interactions:
        rows, where = [], source.where(self.file)
        with source.open(self.file) as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    play = json.loads(line)
                    rows.append((int(play["who"]), int(play["song"]), int(play["at"])))
                except (ValueError, LookupError, TypeError) as error:
                    raise UserError(f"{where}, line {number}: not a play with who, song and at ({error})") from error
        return Interactions(pd.DataFrame(rows, columns=[USER, ITEM, TIMESTAMP]), where)
