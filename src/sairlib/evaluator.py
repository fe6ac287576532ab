"""Model + split -> ranks -> numbers. Owns the tie rule: ties are counted, never broken (see ``metrics.py``)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sairlib import runtime
from sairlib.batch import PAD, EvalBatch
from sairlib.data.negatives import Candidates, candidates
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part, Split
from sairlib.errors import UserError
from sairlib.metrics import Ints, all_metrics, bootstrap_interval
from sairlib.models.recommender import Recommender

SCORES_AT_ONCE = 2**23
"""Scores held at once in full ranking: 32 MB in fp32, whatever the number of users and items."""


class NonFiniteError(ArithmeticError):
    """A model produced NaN or inf: a rank made from it would be a lie."""


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
        if self.candidates not in ("uniform", "popular"):
            raise UserError(f"evaluation.candidates={self.candidates}: choose uniform or popular")
        if not (self.n_candidates or self.full or self.full_with_history):
            raise UserError("evaluation: nothing to measure; set n_candidates > 0, full=true or full_with_history=true")
        if self.batch_size < 1:
            raise UserError(f"evaluation.batch_size={self.batch_size}: must be 1 or more")

    @property
    def rankings(self) -> tuple[str, ...]:
        """Names of the rankings made, in the order of reporting."""
        wanted = {"sampled": self.n_candidates, "full": self.full, "full_with_history": self.full_with_history}
        return tuple(name for name, on in wanted.items() if on)


@dataclass(frozen=True)
class Ranks:
    """Each evaluated user's candidates above the positive and level with it (U each), in ``eval_users`` order."""

    better_U: Ints
    tied_U: Ints

    def means(self, ks: tuple[int, ...]) -> dict[str, float]:
        """Metrics averaged over users."""
        return {name: float(values.mean()) for name, values in all_metrics(self.better_U, self.tied_U, ks).items()}

    def intervals(self, ks: tuple[int, ...]) -> dict[str, list[float]]:
        """95 % bootstrap intervals over users."""
        values = all_metrics(self.better_U, self.tied_U, ks)
        low, high = bootstrap_interval(np.stack(list(values.values()), axis=1))
        return {name: [float(a), float(b)] for name, a, b in zip(values, low, high, strict=True)}

    @property
    def tie_share(self) -> float:
        """Share of users whose positive ties with something."""
        return float((self.tied_U > 0).mean())


class Evaluator:
    """Ranks every evaluated user's held-out item, by all rankings from one representation."""

    def __init__(self, split: Split, store: SequenceStore, settings: EvaluationSettings) -> None:
        self.store = store
        self.settings = settings
        self._users_at_once = settings.batch_size
        self.drawn: Candidates | None = None
        if settings.n_candidates:
            self.drawn = candidates(split, settings.n_candidates, settings.candidates, settings.candidates_seed)
            if not self.drawn.items_UC.any():
                raise UserError(
                    "the evaluated users have had all items: there is nothing to rank the held-out ones against;"
                    " check the data and the filters"
                )
            self._drawn_UC = torch.from_numpy(self.drawn.items_UC).to(store.device)

    @torch.no_grad()
    def rank(self, model: Recommender, part: Part) -> dict[str, Ranks]:
        """Ranks by the name of the ranking. NonFiniteError, naming model and user, if a score is NaN or inf."""
        n_users = len(self.store.eval_users)
        counts = {
            name: torch.zeros(2, n_users, dtype=torch.long, device=self.store.device) for name in self.settings.rankings
        }
        training = model.training
        model.eval()
        try:
            for rows_B, batch in self.store.evaluation(part, self.settings.batch_size):
                self._rank_batch(model, part, rows_B, batch, counts)
        finally:
            model.train(training)
        return {name: Ranks(*count.cpu().numpy()) for name, count in counts.items()}

    def _rank_batch(
        self, model: Recommender, part: Part, rows_B: Tensor, batch: EvalBatch, counts: dict[str, Tensor]
    ) -> None:
        """As many users at once as the memory takes: where it does not, half as many, from then on."""
        start = 0
        while start < len(rows_B):
            piece = torch.arange(start, min(start + self._users_at_once, len(rows_B)), device=rows_B.device)
            try:
                taken = _take(batch, piece)
                states_BD = model.encode_newest(taken.items_BN, taken.users_B).float()
                at_once = max(1, SCORES_AT_ONCE // (model.n_items + 1))
                for part_of in torch.arange(len(piece), device=piece.device).split(at_once):
                    self._count(model, part, rows_B[piece[part_of]], _take(taken, part_of), states_BD[part_of], counts)
            except (RuntimeError, MemoryError) as error:
                if not runtime.out_of_memory(error):
                    raise
                if len(piece) == 1:
                    raise UserError(
                        "no memory to rank a single user; lower max_len, or the width of the model"
                    ) from error
                self._users_at_once = len(piece) // 2
                continue
            start += len(piece)

    def _count(
        self,
        model: Recommender,
        part: Part,
        rows_B: Tensor,
        batch: EvalBatch,
        states_BD: Tensor,
        counts: dict[str, Tensor],
    ) -> None:
        targets_B1 = batch.targets_B[:, None]
        if self.settings.full or self.settings.full_with_history:
            all_BM = model.score_all(states_BD).float()
            target_B1 = all_BM.gather(1, targets_B1)
            sampled_BC = all_BM.gather(1, self._drawn_UC[rows_B]) if self.drawn else None
        else:
            all_BM = None
            scored_BC = model.score(states_BD, torch.cat([targets_B1, self._drawn_UC[rows_B]], 1)).float()
            target_B1, sampled_BC = scored_BC[:, :1], scored_BC[:, 1:]
        if all_BM is not None:
            _require_finite(all_BM[:, 1:], target_B1, model, batch.users_B)  # what column PAD holds means nothing
        if sampled_BC is not None:
            real_BC = self._drawn_UC[rows_B] != PAD
            if all_BM is None:
                _require_finite(sampled_BC.where(real_BC, 0.0), target_B1, model, batch.users_B)
            counts["sampled"][:, rows_B] = _better_and_tied(sampled_BC.where(real_BC, -torch.inf), target_B1)
        if all_BM is not None:
            all_BM[:, PAD] = -torch.inf
            all_BM.scatter_(1, targets_B1, -torch.inf)
            if self.settings.full_with_history:
                counts["full_with_history"][:, rows_B] = _better_and_tied(all_BM, target_B1)
            if self.settings.full:
                all_BM.scatter_(1, self.store.histories(batch.users_B, part), -torch.inf)
                counts["full"][:, rows_B] = _better_and_tied(all_BM, target_B1)


def _better_and_tied(scores_BC: Tensor, target_B1: Tensor) -> Tensor:
    # Ones are added up as floats, which is exact below 2^24 items and on CPU takes a fifth of the time of booleans.
    ones_BC = torch.empty_like(scores_BC)
    better_B = torch.gt(scores_BC, target_B1, out=ones_BC).sum(1)
    at_least_B = torch.ge(scores_BC, target_B1, out=ones_BC).sum(1)
    return torch.stack([better_B, at_least_B - better_B]).long()


def _take(batch: EvalBatch, rows: Tensor) -> EvalBatch:
    return EvalBatch(*(tensor[rows] for tensor in batch))


def _require_finite(scores_BC: Tensor, target_B1: Tensor, model: Recommender, users_B: Tensor) -> None:
    # A sum is finite iff (barring overflow, which is a fault too) all its terms are: one pass, no mask in memory.
    sums_B = scores_BC.sum(1) + target_B1[:, 0]
    if not torch.isfinite(sums_B).all():
        user = int(users_B[int((~torch.isfinite(sums_B)).nonzero()[0])])
        raise NonFiniteError(f"{type(model).__name__} gives NaN or inf as a score of user number {user}")
