"""The smallest model of each type, for tests: a table of scores of 12 items."""

from typing import final

import torch
from torch import Tensor, nn

from sairlib.batch import Batch, History, State
from sairlib.models.recommender import ClozeModel, Head, SequenceModel, StepModel, one_tensor

M = 12


@final
class Scores(Head):
    """A state is the score of every item."""

    def __init__(self, log_odds: bool = True) -> None:
        self.log_odds = log_odds

    def score(self, states: State, items: Tensor) -> Tensor:
        return one_tensor(states).gather(-1, items)

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        return one_tensor(states)[..., items_C]

    def score_all(self, states: State) -> Tensor:
        return one_tensor(states)


class Table(nn.Embedding):
    """A score for every pair (item, next item); the last row is the mask's."""

    def __init__(self) -> None:
        super().__init__(M + 2, M + 1)


@final
class Bigram(StepModel):
    """Predicts the next item from the newest one."""

    n_items = M
    memory = 1

    def __init__(self, log_odds: bool = True) -> None:
        super().__init__()
        self.table = Table()
        self.scores = Scores(log_odds)

    @property
    def head(self) -> Head:
        return self.scores

    def encode(self, history: History) -> Tensor:
        states_BND: Tensor = self.table(history.items_BN)
        return states_BND

    def auxiliary(self, batch: Batch, states: State) -> dict[str, Tensor]:
        return {"size": 0.5 * self.table.weight.square().sum()}


@final
class Filler(ClozeModel):
    """Scores a hidden item by the mask's row alone; stores the items it was given in ``shown_BN``."""

    n_items = M
    mask_item = M + 1

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.shown_BN = torch.zeros(0)

    @property
    def head(self) -> Head:
        return Scores()

    def encode(self, history: History) -> Tensor:
        self.shown_BN = history.items_BN
        states_BND: Tensor = self.table(history.items_BN)
        return states_BND

    def newest(self, history: History) -> State:
        raise NotImplementedError("nothing is evaluated here")


@final
class Whole(SequenceModel):
    """Predicts the next item from the sum over the history."""

    n_items = M

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()

    @property
    def head(self) -> Head:
        return Scores()

    def newest(self, history: History) -> Tensor:
        sums_BD: Tensor = self.table(history.items_BN).sum(1)
        return sums_BD
