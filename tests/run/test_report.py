"""The ranks that a run saves reproduce its reported figures."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_data

from sairlib.data.split import Split
from sairlib.errors import UserError
from sairlib.evaluation.rankings import Ranks
from sairlib.run.report import read_ranks, save_ranks

SPLIT = small_data.make_split([[1, 2, 3, 4], [2, 3], [5, 6, 1, 2, 3]], 9)  # the user in the middle is not evaluated
TIED = {
    "sampled": Ranks(np.array([2, 1]), np.array([3, 1])),
    "full_with_history": Ranks(np.array([0, 8]), np.array([0, 0])),
}


def test_ranks_come_back_with_the_users_of_the_file(tmp_path: Path) -> None:
    save_ranks(tmp_path / "ranks.npz", TIED, SPLIT)
    users, by_ranking = read_ranks(tmp_path / "ranks.npz")
    assert users.tolist() == [0, 2]
    assert list(by_ranking) == list(TIED)
    for name, ranks in TIED.items():
        assert np.array_equal(by_ranking[name].better_E, ranks.better_E)
        assert np.array_equal(by_ranking[name].tied_E, ranks.tied_E)
        assert by_ranking[name].means((1, 5)) == ranks.means((1, 5))


def test_a_user_is_listed_once_for_each_target(tmp_path: Path) -> None:
    data = small_data.make_dataset([[1, 2, 3, 4], [2, 3], [5, 6, 1, 2, 3]], 9)
    split = Split(
        data, np.array([2, 2, 2]), small_data.make_targets((0, 2)), small_data.make_targets((2, 4), (0, 3), (2, 3))
    )
    better = np.array([4, 5, 6])
    save_ranks(tmp_path / "ranks.npz", {"full": Ranks(better, np.zeros(3, np.int64))}, split)
    users, by_ranking = read_ranks(tmp_path / "ranks.npz")
    assert users.tolist() == [2, 0, 2] and by_ranking["full"].better_E.tolist() == [4, 5, 6]


def test_under_ties_the_figures_are_not_those_of_the_mean_rank(tmp_path: Path) -> None:
    """Worked out by hand: 2 better and 3 tied is any rank of 3, 4, 5 and 6; 1 better and 1 tied is 2 or 3."""
    save_ranks(tmp_path / "ranks.npz", TIED, SPLIT)
    _, by_ranking = read_ranks(tmp_path / "ranks.npz")
    means, ranks = by_ranking["sampled"].means((2, 3, 4)), by_ranking["sampled"]
    assert means["hr@2"] == pytest.approx((0 + 1 / 2) / 2)
    assert means["hr@3"] == pytest.approx((1 / 4 + 1) / 2)
    assert means["hr@4"] == pytest.approx((2 / 4 + 1) / 2)
    assert means["mrr"] == pytest.approx(((1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 4 + (1 / 2 + 1 / 3) / 2) / 2)
    ndcg = (1 / np.log2(4)) / 4, (1 / np.log2(3) + 1 / np.log2(4)) / 2
    assert means["ndcg@3"] == pytest.approx(sum(ndcg) / 2)
    mean_ranks = 1 + ranks.better_E + ranks.tied_E / 2  # 4.5 and 2.5: a tie across the cut-off is all in or all out
    for k in (2, 3, 4):
        assert abs((mean_ranks <= k).mean() - means[f"hr@{k}"]) > 0.1


@pytest.mark.parametrize("content", [b"", b"PK\3\4 half", b"users", None])
def test_a_file_without_ranks_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ranks.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"ranks\.npz holds no ranks of a run"):
        read_ranks(tmp_path / "ranks.npz")


def test_arrays_of_something_else_are_no_ranks(tmp_path: Path) -> None:
    path = tmp_path / "ranks.npz"
    np.savez(path, full_better=np.ones(3))
    with pytest.raises(UserError, match="holds no ranks of a run"):
        read_ranks(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(UserError, match="holds no ranks of a run"):
        read_ranks(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"full_better": np.array([-1, 2])}, "negative ranks"),
        ({"full_better": np.array([1.5, 2.0])}, "an array is float64"),
        ({"full_better": np.array([[1, 2]])}, "an array is int64"),
        ({"full_tied": np.array([1, 2, 3])}, "do not fit together"),
        ({"user": np.array([b"a", b"b"])}, r"an array is \|S1"),
        ({"more": np.array([1, 2])}, "it holds full_better, full_tied, more, user"),
        ({"full_better": None, "full_tied": None}, "do not fit together"),
        ({"full_tied": None}, "it holds"),
    ],
)
def test_arrays_that_are_no_ranks_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    good = {"user": np.array([1, 2]), "full_better": np.array([1, 2]), "full_tied": np.array([0, 2])}
    changed = {name: array for name, array in {**good, **change}.items() if array is not None}
    np.savez(tmp_path / "ranks.npz", **changed)
    with pytest.raises(UserError, match=f"holds no ranks of a run .*{says}") as error:
        read_ranks(tmp_path / "ranks.npz")
    assert "\n" not in str(error.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    many = np.zeros(10_000_000, np.int64)
    np.savez_compressed(tmp_path / "ranks.npz", user=many, full_better=many, full_tied=many)
    assert (tmp_path / "ranks.npz").stat().st_size < 300_000
    with pytest.raises(UserError, match="bytes that unpack to over"):
        read_ranks(tmp_path / "ranks.npz")


@pytest.mark.skipif(os.name != "posix", reason="no FIFOs there")
def test_what_is_not_a_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ranks.npz")
    with pytest.raises(UserError, match=r"holds no ranks of a run \(it is not a file\)"):
        read_ranks(tmp_path / "ranks.npz")


def test_damage_to_the_content_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ranks.npz"
    save_ranks(path, {"full": TIED["sampled"]}, SPLIT)
    whole, messages = path.read_bytes(), []
    for at in range(0, whole.index(b"PK\1\2"), 3):  # up to the archive's directory
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            users, by_ranking = read_ranks(path)
        except UserError as error:
            messages.append(str(error))
        else:  # a byte that nobody reads
            assert users.tolist() == [0, 2] and by_ranking["full"].better_E.tolist() == [2, 1]
            assert by_ranking["full"].tied_E.tolist() == [3, 1]
    assert len(messages) > 80 and not any("\n" in message for message in messages)
