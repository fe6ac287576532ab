"""What is ranked, and the ranks that come of it."""

from dataclasses import dataclass

import numpy as np

from sairlib.errors import UserError
from sairlib.evaluation.candidates import KINDS
from sairlib.evaluation.metrics import Floats, Ints, all_metrics
from sairlib.evaluation.statistics import bootstrap_interval


@dataclass(frozen=True)
class EvaluationSettings:
    """How the held-out item is ranked.

    ks: cut-offs of HR and NDCG.
    n_candidates: size of the sample each positive is ranked against (0: no sampled ranking).
    candidates: ``uniform``, or ``popular`` (in proportion to training counts).
    candidates_seed: with the split, all that decides the candidates; on purpose apart from ``seed``.
    full: rank against all items, the user's history removed.
    full_with_history: also rank against all items, the history kept.
    batch_size: users encoded at once.
    """

    ks: tuple[int, ...] = (5, 10, 20)
    n_candidates: int = 100
    candidates: str = "uniform"
    candidates_seed: int = 2022
    full: bool = True
    full_with_history: bool = False
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise UserError(f"evaluation.ks={list(self.ks)}: give cut-offs of 1 or more")
        if self.n_candidates < 0:
            raise UserError(f"evaluation.n_candidates={self.n_candidates}: must be 0 (no sampled ranking) or more")
        if self.candidates not in KINDS:
            raise UserError(f"evaluation.candidates={self.candidates}: choose one of {', '.join(KINDS)}")
        if not (self.n_candidates or self.full or self.full_with_history):
            raise UserError("evaluation: nothing to measure; set n_candidates > 0, full=true or full_with_history=true")
        if self.batch_size < 1:
            raise UserError(f"evaluation.batch_size={self.batch_size}: must be 1 or more")

    @property
    def rankings(self) -> tuple[str, ...]:
        """Names of the rankings made, in the order of reporting."""
        wanted = {"sampled": self.n_candidates, "full": self.full, "full_with_history": self.full_with_history}
        return tuple(name for name, on in wanted.items() if on)

    def check_measured(self, figure: str, setting: str) -> None:
        """UserError if ``figure`` (ranking/metric), the value of ``setting``, is not among those measured."""
        ranking, _, metric = figure.partition("/")
        known = {f"{name}@{k}" for name in ("hr", "ndcg") for k in self.ks} | {"mrr"}
        if ranking not in self.rankings or metric not in known:
            raise UserError(
                f"{setting}={figure} is not measured: rankings are {', '.join(self.rankings)},"
                f" metrics {', '.join(sorted(known))}"
            )


@dataclass(frozen=True)
class Ranks:
    """Of each held-out item: how many candidates score higher (``better_E``), and how many the same (``tied_E``).

    All orders of the tied count alike, so a metric of one item is its mean over the ranks better + 1 to
    better + tied + 1. That is not the metric of the mean rank: of a tie across the cut-off, HR counts a share.
    """

    better_E: Ints
    tied_E: Ints

    def values(self, ks: tuple[int, ...]) -> dict[str, Floats]:
        """Every metric of every held-out item (E): ``hr@10``, ``ndcg@10``, ..., ``mrr``."""
        return all_metrics(self.better_E, self.tied_E, ks)

    def means(self, ks: tuple[int, ...]) -> dict[str, float]:
        """Metrics averaged over held-out items: the reported figures."""
        return {name: float(values.mean()) for name, values in self.values(ks).items()}

    def intervals(self, ks: tuple[int, ...]) -> dict[str, list[float]]:
        """95 % bootstrap intervals over held-out items (over users, where each has one)."""
        values = self.values(ks)
        low, high = bootstrap_interval(np.stack(list(values.values()), axis=1))
        return {name: [float(a), float(b)] for name, a, b in zip(values, low, high, strict=True)}

    @property
    def tie_share(self) -> float:
        """Share of the held-out items that tie with something."""
        return float((self.tied_E > 0).mean())
