"""What a trained model makes of histories: the interests it retrieves and what its attention looks at, for one person
and over many."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sairlib.batch import PAD, History, lengths, nobody
from sairlib.data.dataset import Dataset
from sairlib.data.ids import Ints
from sairlib.errors import UserError
from sairlib.evaluation.metrics import Floats
from sairlib.evaluation.statistics import bootstrap_interval
from sairlib.models.recommender import Explanation
from sairlib.run.finished import Run
from sairlib.run.histories import Histories
from sairlib.run.recommendations import Recommendations

STEPS_BACK = 15
"""Of attention by relative position: so many newest steps, and how far back each of them looks."""


class Interval(NamedTuple):
    """A mean over people, and its 95 % bootstrap interval over them."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Person:
    """What the model makes of the N newest actions of one person, oldest first.

    Of a model without interests, the L and K of the arrays are 0.
    """

    id: object
    n_actions: int
    """All actions; the model sees N of them."""
    names: list[str]
    """Of the N items: titles, or ids where there are none."""
    before_NL: Floats
    """Softmax over the interests of the relevance before the interaction: each row sums to 1."""
    after_NL: Floats
    """The same after the interaction."""
    kept_NK: Ints
    """The interests that each step keeps, strongest first."""
    weights_NK: Floats
    """Their weights; each row sums to 1."""
    attention: dict[str, Floats]
    """By the name of the attention: the weights (N) with which the newest step attends to each, mean over heads."""


@dataclass(frozen=True)
class Along:
    """Means over people at each step of their window, from its oldest item (N steps)."""

    people_N: Ints
    """How many people have that step."""
    before_N: Floats
    after_N: Floats
    """Entropy before and after the interaction."""
    changes_N: Floats
    """How often the strongest interest is not that of the step before; NaN at step 0."""
    share_NL: Floats
    """Each interest's share of the weight."""


@dataclass(frozen=True)
class InterestFigures:
    """How L interests are used over many people's steps.

    An entropy is that of softmax over the L interests, divided by log L: 0 if one has everything, 1 if all are equal.
    It is a mean over a person's steps, then over people. The strongest interest of a step is the one with the highest
    weight of those kept.
    """

    n_people: int
    n_steps: int
    before: Interval
    """Entropy of the relevance before the interaction."""
    after: Interval
    """Entropy after it."""
    difference: Interval
    """After less before, person by person: below 0, the interaction concentrates the relevance."""
    standardised: Interval
    """The same difference if the L values of every step first get mean 0 and deviation 1. A softmax is also sharper
    where its values are larger; this looks at their shape alone."""
    changes: Interval | None
    """Share of a person's steps, from the second, whose strongest interest is not that of the step before; None if
    nobody has two steps."""
    effective: float
    """exp of the entropy of ``share_L``: how many interests are in use, over all."""
    effective_of_one: Interval
    """The same of a single person's weights."""
    share_L: Floats
    """Each interest's share of the weight over all steps."""
    strongest_L: Floats
    """The share of the steps at which each interest is the strongest."""
    along: Along
    next_LM: Ints
    """How often each item (M + 1, PAD first) came next, after a step at which the interest was the strongest."""


@dataclass(frozen=True)
class AttentionFigures:
    """One attention of H heads by relative position, a mean over people, after the SASRec paper's Figure 4."""

    name: str
    n_people: int
    mean_HQR: Floats
    """Weight with which the Q-th newest step looks R steps back (0: at itself), over those who have both steps; NaN
    if nobody has."""
    newest_HR: Floats
    """The newest step's, over everybody: with what lies farther back, each head's sum to 1."""


def require(run: Run) -> None:
    """UserError for a model that has neither interests nor causal attention over steps."""
    nothing = nobody(run.store.device)
    if run.model.explain(nothing) is None and next(run.model.attentions(nothing), None) is None:
        raise UserError(f"{type(run.model).__name__} has neither interests nor causal attention: nothing to explain")


@torch.no_grad()
def over(run: Run, people: Histories) -> tuple[InterestFigures | None, list[AttentionFigures]]:
    """Figures over people, each with a history of at least one item, batch by batch.

    (None, []) for a model with neither interests nor causal attention.
    """
    interests: _InterestSums | None = None
    attentions: dict[str, _AttentionSums] = {}
    with tqdm(total=len(people), unit=" people", disable=None, leave=False) as bar:
        for rows_B, history in _batches(run, people):
            explained = run.model.explain(history)
            if explained is not None:
                if interests is None:
                    interests = _InterestSums(len(people), explained.relevance_BNL.shape[-1], run.store.max_len, run)
                interests.add(rows_B, explained, history.items_BN)
            for name, weights_BHNN in run.model.attentions(history):
                if name not in attentions:
                    attentions[name] = _AttentionSums(weights_BHNN)
                attentions[name].add(weights_BHNN, history.items_BN)
            bar.update(len(rows_B))
    found = None if interests is None else interests.figures()
    return found, [sums.figures(name) for name, sums in attentions.items()]


@torch.no_grad()
def person(run: Run, people: Histories, row: int) -> Person:
    """What the model makes of one of these people, whose history has at least one item."""
    history = _recommendations(run).history(people, np.array([row]))
    items_N = history.items_BN[0].cpu().numpy()
    explained, nothing = run.model.explain(history), np.zeros((len(items_N), 0))
    attention = {
        name: weights[0, :, -1].float().mean(0).cpu().numpy() for name, weights in run.model.attentions(history)
    }
    about = people.ids[row], int(people.lengths[row]), item_names(run.split.dataset, items_N)
    if explained is None:
        return Person(*about, nothing, nothing, nothing.astype(np.int64), nothing, attention)
    before_NL, after_NL, weights_NK = (
        part[0].float().cpu().numpy()
        for part in (explained.relevance_BNL.softmax(-1), explained.interacted_BNL.softmax(-1), explained.weights_BNK)
    )
    return Person(*about, before_NL, after_NL, explained.kept_BNK[0].cpu().numpy(), weights_NK, attention)


def item_names(data: Dataset, items_X: Ints) -> list[str]:
    """Titles of items, or ids where there are none."""
    titles = [""] * len(items_X) if data.titles_M is None else data.titles_M[items_X].tolist()
    return [title or str(data.item_ids[item - 1]) for title, item in zip(titles, items_X.tolist(), strict=True)]


def entropy(values: Tensor) -> Tensor:
    """Entropy of softmax over the last dimension, divided by the log of its size: 0 to 1; 0 if its size is 1."""
    log_p = values.double().log_softmax(-1)
    entropies: Tensor = -(log_p.exp() * log_p).sum(-1) / math.log(max(2, values.shape[-1]))
    return entropies


def standardised(values: Tensor) -> Tensor:
    """Values with mean 0 and deviation 1 over the last dimension; 0 where all are equal."""
    centred = values.double() - values.double().mean(-1, keepdim=True)
    result: Tensor = centred / centred.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
    return result


def effective_number(shares: Tensor) -> Tensor:
    """exp of the entropy of shares, which sum to 1 over the last dimension: 1 if one has all, L if all are equal."""
    entropies: Tensor = -(shares * shares.clamp_min(1e-300).log()).sum(-1)
    return entropies.exp()


class _InterestSums:
    """Sums over people of what ``InterestFigures`` says; only a few numbers of each person are kept."""

    def __init__(self, n_people: int, n_interests: int, max_len: int, run: Run) -> None:
        device = run.store.device
        self.of_people_UX = np.full((n_people, 5), np.nan)  # before, after, standardised, changes, effective number
        # Of each step of the window: people, before, after, changes, then the weight of each interest.
        self.along_NX = torch.zeros((max_len, 4 + n_interests), dtype=torch.float64, device=device)
        self.strongest_L = torch.zeros(n_interests, dtype=torch.int64, device=device)
        self.next_LM = torch.zeros((n_interests, run.model.n_items + 1), dtype=torch.int32, device=device)

    def add(self, rows_B: NDArray[np.intp], explained: Explanation, items_BN: Tensor) -> None:
        real_BN = items_BN != PAD
        n_steps_B, size = real_BN.sum(1), explained.relevance_BNL.shape[-1]
        both = explained.relevance_BNL, explained.interacted_BNL
        before_BN, after_BN = (entropy(part) * real_BN for part in both)
        even_before_BN, even_after_BN = (entropy(standardised(part)) * real_BN for part in both)
        kept_BNK, weights_BNK = explained.kept_BNK, explained.weights_BNK.double() * real_BN[..., None]
        weight_BNL = weights_BNK.new_zeros((*items_BN.shape, size)).scatter_add_(2, kept_BNK, weights_BNK)
        strongest_BN = kept_BNK.gather(2, weights_BNK.argmax(2, keepdim=True))[..., 0]
        pairs_BN = real_BN[:, 1:]
        changed_BN = torch.zeros_like(before_BN)
        changed_BN[:, 1:] = (strongest_BN[:, 1:] != strongest_BN[:, :-1]) & pairs_BN
        of_people = (
            before_BN.sum(1) / n_steps_B,
            after_BN.sum(1) / n_steps_B,
            (even_after_BN - even_before_BN).sum(1) / n_steps_B,
            torch.where(n_steps_B > 1, changed_BN.sum(1) / (n_steps_B - 1), torch.nan),
            effective_number(weight_BNL.sum(1) / n_steps_B[:, None]),
        )
        self.of_people_UX[rows_B] = torch.stack(of_people, 1).cpu().numpy()
        along_BN4 = torch.stack([real_BN.double(), before_BN, after_BN, changed_BN], -1)
        self.along_NX[: items_BN.shape[1]] += torch.cat([along_BN4.sum(0), weight_BNL.sum(0)], 1)
        self.strongest_L += torch.bincount(strongest_BN[real_BN], minlength=size)
        places = strongest_BN[:, :-1][pairs_BN] * self.next_LM.shape[1] + items_BN[:, 1:][pairs_BN]
        self.next_LM.view(-1).index_add_(0, places, torch.ones_like(places, dtype=torch.int32))

    def figures(self) -> InterestFigures:
        along_NX = self.along_NX.cpu().numpy()
        along_NX = along_NX[along_NX[:, 0] > 0]
        people_N, weight_NL = along_NX[:, 0], along_NX[:, 4:]
        before_N, after_N, changes_N = (along_NX[:, 1:4] / people_N[:, None]).T
        changes_N[0] = np.nan
        before_U, after_U, standardised_U, changes_U, effective_U = self.of_people_UX.T
        share_L = weight_NL.sum(0) / weight_NL.sum()
        strongest_L = self.strongest_L.cpu().numpy()
        changes_U = changes_U[~np.isnan(changes_U)]
        return InterestFigures(
            len(before_U),
            int(people_N.sum()),
            _interval(before_U),
            _interval(after_U),
            _interval(after_U - before_U),
            _interval(standardised_U),
            _interval(changes_U) if len(changes_U) else None,
            float(effective_number(torch.from_numpy(share_L))),
            _interval(effective_U),
            share_L,
            strongest_L / strongest_L.sum(),
            Along(people_N.astype(np.int64), before_N, after_N, changes_N, weight_NL / people_N[:, None]),
            self.next_LM.cpu().numpy(),
        )


class _AttentionSums:
    """Sums over people of one attention's weights by relative position."""

    def __init__(self, weights_BHNN: Tensor) -> None:
        back = (STEPS_BACK, STEPS_BACK)
        self.sum_HQR = weights_BHNN.new_zeros((weights_BHNN.shape[1], *back), dtype=torch.float64)
        self.people_QR = weights_BHNN.new_zeros(back, dtype=torch.int64)
        self.n_people = 0

    def add(self, weights_BHNN: Tensor, items_BN: Tensor) -> None:
        back = torch.arange(STEPS_BACK, device=items_BN.device)
        query_BQ1 = lengths(items_BN)[:, None, None] - 1 - back[:, None]
        key_BQR = query_BQ1 - back
        there_BQR = key_BQR >= 0
        rows_B11 = torch.arange(len(items_BN), device=items_BN.device)[:, None, None]
        by_place_BNNH = weights_BHNN.permute(0, 2, 3, 1)
        found_BQRH = by_place_BNNH[rows_B11, query_BQ1.clamp(min=0), key_BQR.clamp(min=0)]
        self.sum_HQR += (found_BQRH * there_BQR[..., None]).double().sum(0).permute(2, 0, 1)
        self.people_QR += there_BQR.sum(0)
        self.n_people += len(items_BN)

    def figures(self, name: str) -> AttentionFigures:
        mean_HQR = torch.where(self.people_QR > 0, self.sum_HQR / self.people_QR, torch.nan)
        newest_HR = self.sum_HQR[:, 0] / self.n_people
        return AttentionFigures(name, self.n_people, mean_HQR.cpu().numpy(), newest_HR.cpu().numpy())


def _interval(values_U: Floats) -> Interval:
    low, high = bootstrap_interval(values_U[:, None])
    return Interval(float(values_U.mean()), float(low[0]), float(high[0]))


def _recommendations(run: Run) -> Recommendations:
    return Recommendations(run.split.dataset, run.store, run.model, run.evaluator.settings.batch_size)


def _batches(run: Run, people: Histories) -> Iterator[tuple[NDArray[np.intp], History]]:
    """Row numbers and histories, those of similar length together, as many at once as the run evaluates."""
    ranked, order = _recommendations(run), np.argsort(people.lengths, kind="stable")
    for rows_B in ranked.batches(people, order):
        yield rows_B, ranked.history(people, rows_B)
