"""Ranks against a slow plain version, an oracle, a constant, and scores that are no numbers."""

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
        assert users_B.dtype == torch.long and again_B1.dtype == torch.float32, "numbers alone are made single"
        assert torch.equal(users_B, again_B1[:, 0].long()), "the parts of a state belong together"
        return users_B

    def score(self, states: State, items: Tensor) -> Tensor:
        return self.scores_UM[self.users(states)[:, None], items]

    def score_shared(self, states: State, items_C: Tensor) -> Tensor:
        raise NotImplementedError("every held-out item is ranked against candidates of its own")

    def score_all(self, states: State) -> Tensor:
        return self.scores_UM[self.users(states)]


@final
class Table(SequenceModel):
    """Has memory for ``room_for`` users at once."""

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


def split(n_users: int = 40, n_items: int = 50, longest: int = 20, seed: int = 0) -> Split:
    """Short and long users, repeated items, and some whose target they have had before."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(1, n_items + 1, length).tolist() for length in rng.integers(1, longest, n_users)]
    for sequence in sequences[::4]:
        if len(sequence) > 3:
            sequence[-1] = sequence[0]
    return small_data.split(sequences, n_items)


def parted(n_users: int = 40, n_items: int = 50, seed: int = 0) -> Split:
    """Any action after the training part may be to be found, in validation, the test, or neither; in any order."""
    data = split(n_users, n_items).dataset
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, np.diff(data.offsets) + 1)
    found: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    for user, length in enumerate(lengths.tolist()):
        for at in range(length, int(data.offsets[user + 1] - data.offsets[user])):
            # Of some users nothing is to be found in validation, in the test, or at all.
            found[int(rng.choice([part for part in range(3) if part != user % 4]))].append((user, at))
        if user % 8 == 3:
            found[0], found[1] = ([pair for pair in found[part] if pair[0] != user] for part in (0, 1))
    for pairs in found.values():
        rng.shuffle(pairs)
    return Split(data, lengths, small_data.targets(*found[0]), small_data.targets(*found[1]))


def evaluator(made: Split, settings: EvaluationSettings = ALL, max_len: int = 5) -> Evaluator:
    return Evaluator(made, SequenceStore(made, max_len, torch.device("cpu")), settings)


def scores(made: Split, distinct: int = 6) -> Tensor:
    """Random whole numbers: ties galore, and exact in whatever way they are computed."""
    generator = torch.Generator().manual_seed(0)
    size = (made.dataset.n_users, made.dataset.n_items + 1)
    return torch.randint(0, distinct, size, generator=generator).float()


def target(made: Split, user: int, part: Part) -> int:
    """The only one that there is."""
    targets = made.targets(part)
    (at,) = targets.positions_E[targets.users_E == user]
    return int(made.dataset.items[made.dataset.offsets[user] + at])


def listed(ranks: dict[str, Ranks]) -> dict[str, list[list[int]]]:
    return {name: [r.better_E.tolist(), r.tied_E.tolist()] for name, r in ranks.items()}


def slow(made: Split, drawn_UC: np.ndarray, scores_UM: Tensor, part: Part) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {name: [[], []] for name in ("sampled", "full", "full_with_history")}
    drawn = dict(zip(made.eval_users.tolist(), drawn_UC.tolist(), strict=True))
    targets = made.targets(part)
    for user, at in zip(targets.users_E.tolist(), targets.positions_E.tolist(), strict=True):
        sequence = made.dataset.items[made.dataset.offsets[user] : made.dataset.offsets[user + 1]].tolist()
        wanted, history = sequence[at], set(sequence[:at])
        others = set(range(1, made.dataset.n_items + 1)) - {wanted}
        against = {"sampled": set(drawn[user]) - {PAD}, "full": others - history}
        for name, items in (against | {"full_with_history": others}).items():
            values = [scores_UM[user, item].item() for item in items]
            found[name][0].append(sum(value > scores_UM[user, wanted].item() for value in values))
            found[name][1].append(sum(value == scores_UM[user, wanted].item() for value in values))
    return found


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("n_items", [12, 50])  # with 12 many users have fewer than 10 unseen items
def test_ranks_equal_the_slow_ones(part: Part, n_items: int) -> None:
    made = split(n_items=n_items)
    table = scores(made)
    model, whole = Table(table), evaluator(made)
    assert whole.drawn is not None
    assert (n_items == 12) == (whole.drawn.n_short > 0)
    expected = slow(made, whole.drawn.items_UC, table, part)
    assert listed(whole.rank(model, part)) == expected
    sampled_only = evaluator(made, EvaluationSettings(n_candidates=10, full=False))  # scored by another way
    assert listed(sampled_only.rank(model, part)) == {"sampled": expected["sampled"]}


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("n_items", [12, 50])
def test_several_targets_of_a_user_or_none_are_ranked_like_any(part: Part, n_items: int) -> None:
    made = parted(n_items=n_items)
    of_user = np.bincount(made.targets(part).users_E, minlength=40)
    other = np.bincount(made.targets(Part.TEST if part is Part.VALIDATION else Part.VALIDATION).users_E, minlength=40)
    assert of_user.max() > 3 and ((of_user > 0) & (other == 0)).sum() > 3 and ((of_user + other) == 0).sum() > 3
    assert (np.diff(made.targets(part).users_E) < 0).any(), "not in order of users"
    table = scores(made)
    model, whole = Table(table), evaluator(made)
    assert whole.drawn is not None and len(whole.drawn.items_UC) == ((of_user + other) > 0).sum()
    expected = slow(made, whole.drawn.items_UC, table, part)
    assert len(expected["full"][0]) == of_user.sum()
    assert listed(whole.rank(model, part)) == expected
    sampled_only = evaluator(made, EvaluationSettings(n_candidates=10, full=False))
    assert listed(sampled_only.rank(model, part)) == {"sampled": expected["sampled"]}


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_target_that_nothing_comes_before_is_ranked(batch_size: int) -> None:
    """Alone in a batch, and in one with others."""
    data = small_data.dataset([[1, 2, 3, 4], [3, 4, 5], [2, 5]], 9)
    made = Split(data, np.array([2, 2, 0]), small_data.targets((0, 2)), small_data.targets((0, 3), (2, 0)))
    settings = EvaluationSettings(n_candidates=3, full_with_history=True, batch_size=batch_size)
    torch.manual_seed(0)
    model = SASRec(n_items=9, n_users=3, max_len=5, d=8)
    found = evaluator(made, settings).rank(model, Part.TEST)
    assert found["full"].better_E[1] == found["full_with_history"].better_E[1]


@final
class Kept(Head):
    """Gives what it has given before for the same states: the same tensor."""

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
    made = split()
    table = scores(made)
    model, whole = Table(table), evaluator(made, replace(ALL, full_with_history=full_with_history))
    model.lookup = kept = Kept(model.lookup)
    first = listed(whole.rank(model, Part.TEST))
    assert kept.given and all(torch.equal(given, table[list(users)]) for users, given in kept.given.items())
    assert listed(whole.rank(model, Part.TEST)) == first


def test_popular_candidates_are_ranked_too() -> None:
    made = split()
    table = scores(made)
    model = Table(table)
    popular = evaluator(made, EvaluationSettings(n_candidates=10, candidates="popular"))
    assert popular.drawn is not None
    found = listed(popular.rank(model, Part.TEST))
    assert found["sampled"] == slow(made, popular.drawn.items_UC, table, Part.TEST)["sampled"]
    assert found["sampled"] != listed(evaluator(made).rank(model, Part.TEST))["sampled"]


@pytest.mark.parametrize("part", Part)
def test_an_oracle_is_perfect(part: Part) -> None:
    made = split()
    table = torch.zeros(made.dataset.n_users, made.dataset.n_items + 1)
    for user in made.eval_users.tolist():
        table[user, target(made, user, part)] = 1
    for ranks in evaluator(made).rank(Table(table), part).values():
        assert set(ranks.means(ALL.ks).values()) == {1.0}
        assert ranks.tie_share == 0


def test_a_constant_gets_exactly_chance() -> None:
    made = split(n_items=200)
    settings = EvaluationSettings(ks=(1, 10), n_candidates=100, full=True, full_with_history=True)
    found = evaluator(made, settings).rank(Table(torch.full((40, 201), 3.5)), Part.TEST)
    chance = {"hr@1": 1 / 101, "hr@10": 10 / 101, "mrr": float(np.mean(1 / np.arange(1, 102)))}
    chance |= {"ndcg@1": 1 / 101, "ndcg@10": float((1 / np.log2(np.arange(2, 12))).sum() / 101)}
    assert found["sampled"].means((1, 10)) == pytest.approx(chance)
    assert found["full_with_history"].means((10,))["hr@10"] == pytest.approx(10 / 200)
    assert found["sampled"].tie_share == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["target", "candidate"])
@pytest.mark.parametrize("full", [True, False])
def test_no_number_no_rank(bad: float, place: str, full: bool) -> None:
    made = split()
    whole = evaluator(made, EvaluationSettings(n_candidates=10, full=full))
    assert whole.drawn is not None
    row = 3
    user = int(made.eval_users[row])
    table = scores(made)
    item = target(made, user, Part.TEST) if place == "target" else int(whole.drawn.items_UC[row, 2])
    table[user, item] = bad
    model = Table(table).train()
    with pytest.raises(NonFiniteError, match=rf"^Table gives NaN or inf as a score of user number {user}$"):
        whole.rank(model, Part.TEST)
    assert model.training


def test_what_a_model_says_of_padding_means_nothing() -> None:
    made = split(n_items=12)
    clean, dirty = scores(made), scores(made)
    dirty[:, PAD] = float("nan")
    for settings in (ALL, EvaluationSettings(n_candidates=10, full=False)):
        whole = evaluator(made, settings)
        assert listed(whole.rank(Table(dirty), Part.TEST)) == listed(whole.rank(Table(clean), Part.TEST))


def test_neither_batch_size_nor_memory_limit_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    made = split(60)
    model = Table(scores(made))

    def found(batch_size: int) -> dict[str, list[list[int]]]:
        settings = EvaluationSettings(n_candidates=10, full_with_history=True, batch_size=batch_size)
        return listed(evaluator(made, settings).rank(model, Part.VALIDATION))

    expected = found(4096)
    assert found(1) == found(7) == expected
    for limit in (1, 4 * 51):
        monkeypatch.setattr(evaluator_module, "SCORES_AT_ONCE", limit)
        assert found(7) == found(4096) == expected


def test_too_little_memory_means_fewer_users_at_once() -> None:
    made = split()
    cramped, known = Table(scores(made), room_for=3), evaluator(made, replace(ALL, batch_size=16))
    assert listed(known.rank(cramped, Part.TEST)) == listed(evaluator(made).rank(Table(scores(made)), Part.TEST))
    assert cramped.refused == 3  # 16, 8 and 4 users: asked once each, not anew for every batch
    with pytest.raises(UserError, match="not enough memory to rank a single user"):
        known.rank(Table(scores(made), room_for=0), Part.TEST)


def test_a_real_model_is_as_good_in_any_batch() -> None:
    made = split(60)
    torch.manual_seed(0)
    model = SASRec(n_items=50, n_users=60, max_len=5, d=8)
    found = [
        evaluator(made, EvaluationSettings(n_candidates=10, batch_size=size)).rank(model, Part.TEST)
        for size in (1, 7, 4096)
    ]
    for ranks in found[1:]:
        for name in ("sampled", "full"):
            # Rounding depends on the batch's shape: a near-tie may fall either way, a misplaced user may not.
            assert ranks[name].means((10,)) == pytest.approx(found[0][name].means((10,)), abs=1e-3)
    assert found[0]["full"].tie_share < 0.1
    assert model.training


@pytest.mark.parametrize("training", [True, False])
def test_ranks_are_those_without_dropout_and_the_model_stays_in_its_mode(training: bool) -> None:
    made = split(60)
    torch.manual_seed(0)
    model = SASRec(n_items=50, n_users=60, max_len=5, d=8, dropout=0.5)
    expected = listed(evaluator(made).rank(model.eval(), Part.TEST))
    assert listed(evaluator(made).rank(model.train(training), Part.TEST)) == expected
    assert model.training == training and all(part.training == training for part in model.modules())


def test_against_everything_unseen_sampled_is_full() -> None:
    made = split()
    settings = EvaluationSettings(n_candidates=50, full=True)
    found = listed(evaluator(made, settings).rank(Table(scores(made)), Part.TEST))
    assert found["sampled"] == found["full"]


def test_the_order_of_candidates_changes_nothing() -> None:
    made = split()
    model, whole = Table(scores(made)), evaluator(made)
    before = listed(whole.rank(model, Part.TEST))
    shuffled = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    whole._drawn_EC = {part: drawn_EC[:, shuffled] for part, drawn_EC in whole._drawn_EC.items()}
    assert listed(whole.rank(model, Part.TEST)) == before


def test_who_ranks_only_the_seen_finds_nothing_new() -> None:
    # Item 2 is new and wanted; items 3.. are new; the model knows item 1 alone.
    made = small_data.split([[1, 1, 1, 2]] * 5, 12)
    scores_UM = torch.zeros(5, 13)
    scores_UM[:, 1] = 1
    found = evaluator(made).rank(Table(scores_UM), Part.TEST)
    assert found["full"].means((1,))["hr@1"] == pytest.approx(1 / 11)  # one of eleven that are level
    assert found["full_with_history"].means((1,))["hr@1"] == 0


def test_nothing_to_rank_against_is_said() -> None:
    with pytest.raises(UserError, match="have had all items"):
        evaluator(small_data.split([[1, 2, 3, 4, 5]], 5))


def test_candidates_do_not_depend_on_the_model_or_the_run() -> None:
    made = split()
    first, second = evaluator(made), evaluator(made, max_len=3)
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


def test_a_split_with_nothing_to_be_found_is_refused() -> None:
    made = split()
    with pytest.raises(UserError, match="nothing to be found in its test part"):
        evaluator(replace(made, test=small_data.targets()))
