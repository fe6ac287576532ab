"""Ranks against a slow plain version, an oracle, a constant model, and scores that are NaN or infinite."""

from dataclasses import replace
from typing import final

import numpy as np
import pytest
import small_data
import torch
from torch import Tensor

from sairlib.batch import PAD, History, State
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part, Split
from sairlib.errors import NonFiniteError, UserError
from sairlib.evaluation import counts
from sairlib.evaluation import evaluator as evaluator_module
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings, Ranks
from sairlib.models.recommender import Head, SequenceModel
from sairlib.models.sasrec import SASRec

ALL = EvaluationSettings(ks=(1, 5, 10), n_candidates=10, full=True, full_with_history=True, batch_size=7)


@final
class Lookup(Head):
    """Scores each item for each user by a given table (U, M + 1). A state is the user, twice."""

    log_odds = True

    def __init__(self, scores_UM: Tensor) -> None:
        self.scores_UM = scores_UM

    def users(self, states: State) -> Tensor:
        users_B, again_B1 = states
        assert users_B.dtype == torch.long and again_B1.dtype == torch.float32, "only floats become float32"
        assert torch.equal(users_B, again_B1[:, 0].long()), "the parts of a state belong together"
        return users_B

    def score(self, states: State, items: Tensor) -> Tensor:
        return self.scores_UM[self.users(states)[:, None], items]

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        return self.scores_UM[self.users(states)][:, items_C]

    def score_all(self, states: State) -> Tensor:
        return self.scores_UM[self.users(states)]


@final
class Table(SequenceModel):
    """Scores by a table; has memory for ``room_for`` users at once."""

    def __init__(self, scores_UM: Tensor, room_for: int = 1000) -> None:
        super().__init__()
        self.n_items = scores_UM.shape[1] - 1
        self.lookup: Head = Lookup(scores_UM)
        self.room_for = room_for
        self.refused = 0

    @property
    def head(self) -> Head:
        return self.lookup

    def newest(self, history: History) -> State:
        if len(history.users_B) > self.room_for:
            self.refused += 1
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes")
        return history.users_B, history.users_B[:, None].double()


def make_split(n_users: int = 40, n_items: int = 50, longest: int = 20, seed: int = 0) -> Split:
    """Short and long sequences with repeated items; some users have had their target before."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(1, n_items + 1, length).tolist() for length in rng.integers(1, longest, n_users)]
    for sequence in sequences[::4]:
        if len(sequence) > 3:
            sequence[-1] = sequence[0]
    return small_data.make_split(sequences, n_items)


def split_with_many_targets(n_users: int = 40, n_items: int = 50, seed: int = 0) -> Split:
    """Each action after the training part is a target of validation, of the test, or of neither; in any order."""
    data = make_split(n_users, n_items).dataset
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, np.diff(data.offsets) + 1)
    targets: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    for user, length in enumerate(lengths.tolist()):
        for at in range(length, int(data.offsets[user + 1] - data.offsets[user])):
            # Some users have no target in validation, in the test, or in both.
            targets[int(rng.choice([part for part in range(3) if part != user % 4]))].append((user, at))
        if user % 8 == 3:
            targets[0], targets[1] = ([pair for pair in targets[part] if pair[0] != user] for part in (0, 1))
    for pairs in targets.values():
        rng.shuffle(pairs)
    return Split(data, lengths, small_data.make_targets(*targets[0]), small_data.make_targets(*targets[1]))


def make_evaluator(split: Split, settings: EvaluationSettings = ALL, max_len: int = 5) -> Evaluator:
    return Evaluator(split, SequenceStore(split, max_len, torch.device("cpu")), settings)


def random_scores(split: Split, distinct: int = 6) -> Tensor:
    """Random whole numbers: many ties, and exact however they are computed."""
    generator = torch.Generator().manual_seed(0)
    size = (split.dataset.n_users, split.dataset.n_items + 1)
    return torch.randint(0, distinct, size, generator=generator).float()


def target(split: Split, user: int, part: Part) -> int:
    """The user's only target in this part."""
    targets = split.targets(part)
    (at,) = targets.positions_E[targets.users_E == user]
    return int(split.dataset.items[split.dataset.offsets[user] + at])


def listed(ranks: dict[str, Ranks]) -> dict[str, list[list[int]]]:
    return {name: [r.better_E.tolist(), r.tied_E.tolist()] for name, r in ranks.items()}


def slow_ranks(split: Split, drawn_UC: np.ndarray, scores_UM: Tensor, part: Part) -> dict[str, list[list[int]]]:
    ranks: dict[str, list[list[int]]] = {name: [[], []] for name in ("sampled", "full", "full_with_history")}
    drawn = dict(zip(split.eval_users.tolist(), drawn_UC.tolist(), strict=True))
    targets = split.targets(part)
    for user, at in zip(targets.users_E.tolist(), targets.positions_E.tolist(), strict=True):
        sequence = split.dataset.items[split.dataset.offsets[user] : split.dataset.offsets[user + 1]].tolist()
        target_item, history = sequence[at], set(sequence[:at])
        others = set(range(1, split.dataset.n_items + 1)) - {target_item}
        against = {"sampled": set(drawn[user]) - {PAD}, "full": others - history}
        for name, items in (against | {"full_with_history": others}).items():
            values = [scores_UM[user, item].item() for item in items]
            ranks[name][0].append(sum(value > scores_UM[user, target_item].item() for value in values))
            ranks[name][1].append(sum(value == scores_UM[user, target_item].item() for value in values))
    return ranks


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("n_items", [12, 50])  # with 12 many users have fewer than 10 unseen items
def test_ranks_equal_the_slow_ones(part: Part, n_items: int) -> None:
    split = make_split(n_items=n_items)
    table = random_scores(split)
    model, evaluator = Table(table), make_evaluator(split)
    assert evaluator.drawn is not None
    assert (n_items == 12) == (evaluator.drawn.n_short > 0)
    expected = slow_ranks(split, evaluator.drawn.items_UC, table, part)
    assert listed(evaluator.rank(model, part)) == expected
    sampled_only = make_evaluator(split, EvaluationSettings(n_candidates=10, full=False))  # scored by another way
    assert listed(sampled_only.rank(model, part)) == {"sampled": expected["sampled"]}


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("n_items", [12, 50])
def test_users_with_several_targets_or_none_are_ranked(part: Part, n_items: int) -> None:
    split = split_with_many_targets(n_items=n_items)
    of_user = np.bincount(split.targets(part).users_E, minlength=40)
    other = np.bincount(split.targets(Part.TEST if part is Part.VALIDATION else Part.VALIDATION).users_E, minlength=40)
    assert of_user.max() > 3 and ((of_user > 0) & (other == 0)).sum() > 3 and ((of_user + other) == 0).sum() > 3
    assert (np.diff(split.targets(part).users_E) < 0).any(), "not in order of users"
    table = random_scores(split)
    model, evaluator = Table(table), make_evaluator(split)
    assert evaluator.drawn is not None and len(evaluator.drawn.items_UC) == ((of_user + other) > 0).sum()
    expected = slow_ranks(split, evaluator.drawn.items_UC, table, part)
    assert len(expected["full"][0]) == of_user.sum()
    assert listed(evaluator.rank(model, part)) == expected
    sampled_only = make_evaluator(split, EvaluationSettings(n_candidates=10, full=False))
    assert listed(sampled_only.rank(model, part)) == {"sampled": expected["sampled"]}


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_target_with_an_empty_history_is_ranked(batch_size: int) -> None:
    """Alone in a batch, and in one with others."""
    data = small_data.make_dataset([[1, 2, 3, 4], [3, 4, 5], [2, 5]], 9)
    split = Split(data, np.array([2, 2, 0]), small_data.make_targets((0, 2)), small_data.make_targets((0, 3), (2, 0)))
    settings = EvaluationSettings(n_candidates=3, full_with_history=True, batch_size=batch_size)
    torch.manual_seed(0)
    model = SASRec(n_items=9, n_users=3, max_len=5, d=8)
    ranks = make_evaluator(split, settings).rank(model, Part.TEST)
    assert ranks["full"].better_E[1] == ranks["full_with_history"].better_E[1]


@final
class Cached(Head):
    """Returns the same tensor every time for the same states."""

    log_odds = True

    def __init__(self, head: Head) -> None:
        self.inner = head
        self.given: dict[tuple[int, ...], Tensor] = {}

    def score(self, states: State, items: Tensor) -> Tensor:
        return self.inner.score(states, items)

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        return self.inner.score_shared(states, items_C)

    def score_all(self, states: State) -> Tensor:
        key = tuple(states[0].tolist())
        return self.given.setdefault(key, self.inner.score_all(states))


@pytest.mark.parametrize("full_with_history", [False, True])
def test_scores_are_the_model_s_own_and_not_written_to(full_with_history: bool) -> None:
    split = make_split()
    table = random_scores(split)
    model, evaluator = Table(table), make_evaluator(split, replace(ALL, full_with_history=full_with_history))
    model.lookup = cached = Cached(model.lookup)
    first = listed(evaluator.rank(model, Part.TEST))
    assert cached.given and all(torch.equal(given, table[list(users)]) for users, given in cached.given.items())
    assert listed(evaluator.rank(model, Part.TEST)) == first


def test_popular_candidates_are_ranked_too() -> None:
    split = make_split()
    table = random_scores(split)
    model = Table(table)
    popular = make_evaluator(split, EvaluationSettings(n_candidates=10, candidates="popular"))
    assert popular.drawn is not None
    ranks = listed(popular.rank(model, Part.TEST))
    assert ranks["sampled"] == slow_ranks(split, popular.drawn.items_UC, table, Part.TEST)["sampled"]
    assert ranks["sampled"] != listed(make_evaluator(split).rank(model, Part.TEST))["sampled"]


@pytest.mark.parametrize("part", Part)
def test_an_oracle_is_perfect(part: Part) -> None:
    split = make_split()
    table = torch.zeros(split.dataset.n_users, split.dataset.n_items + 1)
    for user in split.eval_users.tolist():
        table[user, target(split, user, part)] = 1
    for ranks in make_evaluator(split).rank(Table(table), part).values():
        assert set(ranks.means(ALL.ks).values()) == {1.0}
        assert ranks.tie_share == 0


def test_a_constant_gets_exactly_chance() -> None:
    split = make_split(n_items=200)
    settings = EvaluationSettings(ks=(1, 10), n_candidates=100, full=True, full_with_history=True)
    ranks = make_evaluator(split, settings).rank(Table(torch.full((40, 201), 3.5)), Part.TEST)
    chance = {"hr@1": 1 / 101, "hr@10": 10 / 101, "mrr": float(np.mean(1 / np.arange(1, 102)))}
    chance |= {"ndcg@1": 1 / 101, "ndcg@10": float((1 / np.log2(np.arange(2, 12))).sum() / 101)}
    assert ranks["sampled"].means((1, 10)) == pytest.approx(chance)
    assert ranks["full_with_history"].means((10,))["hr@10"] == pytest.approx(10 / 200)
    assert ranks["sampled"].tie_share == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["target", "candidate"])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("by_tiles", [True, False])
def test_scores_that_are_no_numbers_are_refused(
    monkeypatch: pytest.MonkeyPatch, bad: float, place: str, full: bool, by_tiles: bool
) -> None:
    if by_tiles:
        monkeypatch.setattr(evaluator_module, "SCORES_AT_ONCE", 1)
    split = make_split()
    evaluator = make_evaluator(split, EvaluationSettings(n_candidates=10, full=full))
    assert evaluator.drawn is not None
    row = 3
    user = int(split.eval_users[row])
    table = random_scores(split)
    item = target(split, user, Part.TEST) if place == "target" else int(evaluator.drawn.items_UC[row, 2])
    table[user, item] = bad
    model = Table(table).train()
    with pytest.raises(NonFiniteError, match=rf"^Table gives NaN or inf as a score of user number {user}$"):
        evaluator.rank(model, Part.TEST)
    assert model.training


def test_scores_of_padding_are_ignored() -> None:
    split = make_split(n_items=12)
    clean, dirty = random_scores(split), random_scores(split)
    dirty[:, PAD] = float("nan")
    for settings in (ALL, EvaluationSettings(n_candidates=10, full=False)):
        evaluator = make_evaluator(split, settings)
        assert listed(evaluator.rank(Table(dirty), Part.TEST)) == listed(evaluator.rank(Table(clean), Part.TEST))


def test_neither_batch_size_nor_memory_limit_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "COLUMNS", 7)
    split = make_split(60)
    model = Table(random_scores(split))

    def ranked(batch_size: int) -> dict[str, list[list[int]]]:
        settings = EvaluationSettings(n_candidates=10, full_with_history=True, batch_size=batch_size)
        return listed(make_evaluator(split, settings).rank(model, Part.VALIDATION))

    expected = ranked(4096)
    assert ranked(1) == ranked(7) == expected
    for rows, limit in ((1, 51), (1, 4 * 51), (3, 51)):  # one row at once, four, and tiles
        monkeypatch.setattr(evaluator_module, "ROWS", rows)
        monkeypatch.setattr(evaluator_module, "SCORES_AT_ONCE", limit)
        assert ranked(7) == ranked(4096) == expected


def test_too_little_memory_means_fewer_users_at_once() -> None:
    split = make_split()
    cramped, evaluator = Table(random_scores(split), room_for=3), make_evaluator(split, replace(ALL, batch_size=16))
    assert listed(evaluator.rank(cramped, Part.TEST)) == listed(
        make_evaluator(split).rank(Table(random_scores(split)), Part.TEST)
    )
    assert cramped.refused == 3  # for 16, 8 and 4 users: each size is tried once, not again for every batch
    with pytest.raises(UserError, match="not enough memory to rank a single user"):
        evaluator.rank(Table(random_scores(split), room_for=0), Part.TEST)


def test_a_real_model_is_as_good_in_any_batch() -> None:
    split = make_split(60)
    torch.manual_seed(0)
    model = SASRec(n_items=50, n_users=60, max_len=5, d=8)
    by_batch_size = [
        make_evaluator(split, EvaluationSettings(n_candidates=10, batch_size=size)).rank(model, Part.TEST)
        for size in (1, 7, 4096)
    ]
    for ranks in by_batch_size[1:]:
        for name in ("sampled", "full"):
            # Rounding depends on the batch's shape: a near-tie may fall either way, a misplaced user may not.
            assert ranks[name].means((10,)) == pytest.approx(by_batch_size[0][name].means((10,)), abs=1e-3)
    assert by_batch_size[0]["full"].tie_share < 0.1
    assert model.training


@pytest.mark.parametrize("training", [True, False])
def test_ranks_are_those_without_dropout_and_the_model_stays_in_its_mode(training: bool) -> None:
    split = make_split(60)
    torch.manual_seed(0)
    model = SASRec(n_items=50, n_users=60, max_len=5, d=8, dropout=0.5)
    expected = listed(make_evaluator(split).rank(model.eval(), Part.TEST))
    assert listed(make_evaluator(split).rank(model.train(training), Part.TEST)) == expected
    assert model.training == training and all(part.training == training for part in model.modules())


def test_against_everything_unseen_sampled_is_full() -> None:
    split = make_split()
    settings = EvaluationSettings(n_candidates=50, full=True)
    ranks = listed(make_evaluator(split, settings).rank(Table(random_scores(split)), Part.TEST))
    assert ranks["sampled"] == ranks["full"]


def test_the_order_of_candidates_changes_nothing() -> None:
    split = make_split()
    model, evaluator = Table(random_scores(split)), make_evaluator(split)
    before = listed(evaluator.rank(model, Part.TEST))
    shuffled = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    evaluator._drawn_EC = {part: drawn_EC[:, shuffled] for part, drawn_EC in evaluator._drawn_EC.items()}
    assert listed(evaluator.rank(model, Part.TEST)) == before


def test_a_model_that_ranks_only_seen_items_is_at_chance_among_new_ones() -> None:
    # Item 2 is the target; items 3.. are unseen too; the model scores only item 1 above the rest.
    split = small_data.make_split([[1, 1, 1, 2]] * 5, 12)
    scores_UM = torch.zeros(5, 13)
    scores_UM[:, 1] = 1
    ranks = make_evaluator(split).rank(Table(scores_UM), Part.TEST)
    assert ranks["full"].means((1,))["hr@1"] == pytest.approx(1 / 11)  # one of eleven equal scores
    assert ranks["full_with_history"].means((1,))["hr@1"] == 0


def test_a_split_without_unseen_items_is_refused() -> None:
    with pytest.raises(UserError, match="have seen all items"):
        make_evaluator(small_data.make_split([[1, 2, 3, 4, 5]], 5))


def test_candidates_do_not_depend_on_the_model_or_the_run() -> None:
    split = make_split()
    first, second = make_evaluator(split), make_evaluator(split, max_len=3)
    assert first.drawn is not None and second.drawn is not None
    assert first.drawn.sha256() == second.drawn.sha256()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ks": ()}, "evaluation.ks"),
        ({"ks": (0, 10)}, "evaluation.ks"),
        ({"n_candidates": -1}, "evaluation.n_candidates=-1"),
        ({"candidates": "best"}, "evaluation.candidates=best: choose one of uniform, popular"),
        ({"n_candidates": 0, "full": False}, "nothing to measure"),
        ({"batch_size": 0}, "evaluation.batch_size=0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EvaluationSettings(**settings)  # type: ignore[arg-type]


def test_a_split_without_targets_is_refused() -> None:
    split = make_split()
    with pytest.raises(UserError, match="no targets in its test part"):
        make_evaluator(replace(split, test=small_data.make_targets()))
