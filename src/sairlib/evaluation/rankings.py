"""Settings of the evaluation, and its result: ranks."""

from dataclasses import dataclass

import numpy as np

from sairlib.errors import UserError
from sairlib.evaluation.candidates import KINDS
from sairlib.evaluation.metrics import Floats, Ints, all_metrics
from sairlib.evaluation.statistics import bootstrap_interval

TARGETS, USERS = "targets", "users"
TIME, SHUFFLED = "time", "shuffled"


@dataclass(frozen=True)
class EvaluationSettings:
    """How targets are ranked. UserError for a value out of range.

    ks: cut-offs of HR and NDCG.
    n_candidates: how many sampled items each target is ranked against (0: no sampled ranking).
    candidates: ``uniform``, or ``popular`` (in proportion to training counts).
    candidates_seed: together with the split it determines the candidates; independent of ``seed``.
    full: rank against all items except the user's history.
    full_with_history: also rank against all items including the history.
    batch_size: how many histories are encoded at once.
    lists: of the final evaluation: also report metrics of the lists of this many items that the model recommends to the
        test users (``sairlib.evaluation.lists``); 0: none.
    passes: ``targets``: a history is encoded for each target. ``users``: one for all targets of a user, whose states at
        earlier steps rank the earlier targets. Where a user has several targets this is faster, and another measurement
        for models whose states depend on where the history ends or begins (docs/evaluation.md).
    histories: ``time``; or ``shuffled``: of each history that a model sees the items in a random order, which
        ``histories_seed`` determines, to ask how much of a figure is order.
    """

    ks: tuple[int, ...] = (5, 10, 20)
    n_candidates: int = 100
    candidates: str = "uniform"
    candidates_seed: int = 2022
    full: bool = True
    full_with_history: bool = False
    batch_size: int = 256
    lists: int = 0
    passes: str = TARGETS
    histories: str = TIME
    histories_seed: int = 1

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise UserError(f"evaluation.ks={list(self.ks)}: give cut-offs of 1 or more")
        if self.n_candidates < 0:
            raise UserError(f"evaluation.n_candidates={self.n_candidates}: must be 0 (no sampled ranking) or more")
        if self.candidates_seed < 0:
            raise UserError(f"evaluation.candidates_seed={self.candidates_seed}: must be 0 or more")
        if self.candidates not in KINDS:
            raise UserError(f"evaluation.candidates={self.candidates}: choose one of {', '.join(KINDS)}")
        if not (self.n_candidates or self.full or self.full_with_history):
            raise UserError("evaluation: nothing to measure; set n_candidates > 0, full=true or full_with_history=true")
        if not 1 <= self.batch_size < 2**31:
            raise UserError(f"evaluation.batch_size={self.batch_size}: must be 1 or more, and less than 2^31")
        if self.lists < 0:
            raise UserError(f"evaluation.lists={self.lists}: must be 0 (no lists) or more")
        if self.passes not in (TARGETS, USERS):
            raise UserError(f"evaluation.passes={self.passes}: choose one of {TARGETS}, {USERS}")
        if self.histories not in (TIME, SHUFFLED):
            raise UserError(f"evaluation.histories={self.histories}: choose one of {TIME}, {SHUFFLED}")
        if self.histories_seed < 0:
            raise UserError(f"evaluation.histories_seed={self.histories_seed}: must be 0 or more")
        if self.histories == SHUFFLED and self.passes == USERS:
            raise UserError(
                "evaluation.histories=shuffled: a shuffled history has no earlier targets; passes=targets has"
            )

    @property
    def rankings(self) -> tuple[str, ...]:
        """Names of the rankings that these settings ask for, in the order of reporting."""
        enabled = {"sampled": self.n_candidates, "full": self.full, "full_with_history": self.full_with_history}
        return tuple(name for name, on in enabled.items() if on)

    def check_measured(self, figure: str, setting: str) -> None:
        """UserError if ``figure`` (ranking/metric), the value of ``setting``, is not measured."""
        ranking, _, metric = figure.partition("/")
        metrics = {f"{name}@{k}" for name in ("hr", "ndcg") for k in self.ks} | {"mrr"}
        if ranking not in self.rankings or metric not in metrics:
            raise UserError(
                f"{setting}={figure} is not measured: rankings are {', '.join(self.rankings)},"
                f" metrics {', '.join(sorted(metrics))}"
            )


@dataclass(frozen=True)
class Ranks:
    """For each target: how many candidates score above it (``better_E``), and equal to it (``tied_E``).

    All orders of tied items are equally likely, so the metric of a target is its mean over the ranks better + 1 to
    better + tied + 1. That is not the metric of the mean rank: HR counts a fraction for a tie across the cut-off.
    """

    better_E: Ints
    tied_E: Ints

    def values(self, ks: tuple[int, ...]) -> dict[str, Floats]:
        """Every metric of every target (E), by name: ``hr@10``, ``ndcg@10``, ..., ``mrr``; ``ks`` are the cut-offs."""
        return all_metrics(self.better_E, self.tied_E, ks)

    def means(self, ks: tuple[int, ...]) -> dict[str, float]:
        """Metrics averaged over targets: the reported figures."""
        return {name: float(values.mean()) for name, values in self.values(ks).items()}

    def intervals(self, ks: tuple[int, ...], users_E: Ints | None = None) -> dict[str, list[float]]:
        """95 % bootstrap intervals [low, high] over users, who have the targets ``users_E``; None: one each."""
        values = self.values(ks)
        low, high = bootstrap_interval(np.stack(list(values.values()), axis=1), users_E)
        return {name: [float(a), float(b)] for name, a, b in zip(values, low, high, strict=True)}

    @property
    def tie_share(self) -> float:
        """Share of the targets that tie with a candidate."""
        return float((self.tied_E > 0).mean())
