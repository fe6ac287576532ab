"""Every model is exported, and what is written computes what the model does; what does not is refused."""

import json
import sys
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "contracts"))

from all_models import MAX_LEN, MODELS, M, every_model, perturbed_model, split, store

from sairlib.batch import PAD, STRANGER, History
from sairlib.errors import UserError
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.exporting import folder
from sairlib.exporting.check import difference, real_histories
from sairlib.exporting.programs import FUNCTIONS, knows_users, scores, trace
from sairlib.models.heads import Distances
from sairlib.models.recommender import Recommender
from sairlib.models.transrec import TransRec
from sairlib.run.finished import Run

USERS = {"attrec", "attrec-inner", "bpr-mf", "caser", "fpmc", "shan", "transrec"}
"""Models with a vector for each user."""
NOT_EXPORTED = {"fuxi-alpha", "hstu", "tisasrec"}
"""Models that look at times, which a program does not take."""


def run_of(model: Recommender) -> Run:
    evaluator = Evaluator(split(), store(), EvaluationSettings(n_candidates=2, ks=(1,), batch_size=4))
    return Run({"dataset": {"name": "made up"}}, split(), store(), model, evaluator, 1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").write_bytes(b"weights")
    return tmp_path / "run"


@every_model
def test_torch_exports_every_model(name: str) -> None:
    """Of any batch size and any length up to max_len, for people, strangers and empty histories."""
    if name in NOT_EXPORTED:
        with pytest.raises(UserError, match="cannot be exported"):
            trace(perturbed_model(name), "scores", MAX_LEN)
        return
    model = perturbed_model(name)
    assert knows_users(model) == (name in USERS)
    program = trace(model, "scores", MAX_LEN).module()

    def call(items_BN: Tensor, users_B: Tensor) -> Tensor:
        found: Tensor = program(items_BN, users_B) if name in USERS else program(items_BN)
        assert (found[:, PAD] == -torch.inf).all()
        return found

    found = difference(run_of(model), lambda history: scores(model, model.newest(history)), call)
    assert (found.shortest, found.longest) == (1, MAX_LEN) and found.relative < 1e-5


def test_the_histories_of_the_check_have_all_lengths_strangers_and_an_empty_one() -> None:
    batches = list(real_histories(run_of(perturbed_model("fmc"))))
    sizes, widths = zip(*(batch.items_BN.shape for batch in batches), strict=True)
    assert {1, MAX_LEN} <= set(widths) and len(set(sizes)) > 1
    assert sum(sizes) == split().dataset.n_users + 3
    assert (batches[-1].users_B == STRANGER).any() and (batches[-1].items_BN == PAD).all(1).any()


@pytest.mark.parametrize("format", ["torch", "safetensors", "vectors"])
def test_a_model_that_looks_at_times_is_refused(format: str, directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="HSTU cannot be exported: it looks at times"):
        folder.export(run_of(perturbed_model("hstu")), directory, format, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["attrec", "bert4rec", "caser", "sair", "transrec"])
def test_products_of_vectors_rank_as_the_model_does(name: str) -> None:
    """A distance, a mixture, biases, and plain products."""
    model = perturbed_model(name)
    items_MD = folder.item_vectors(model.head)[1:]
    for history in real_histories(run_of(model)):
        with torch.no_grad():
            state = model.newest(history)
            apart_BM = FUNCTIONS["user_vectors"](model, state) @ items_MD.T - model.head.score_all(state)[:, 1:]  # type: ignore[operator]
        torch.testing.assert_close(apart_BM, apart_BM[:, :1].expand_as(apart_BM), rtol=0, atol=2e-5)


def test_the_l1_distance_is_no_product(directory: Path, tmp_path: Path) -> None:
    model = TransRec(M, split().dataset.n_users, distance="l1").eval()
    assert isinstance(model.head, Distances)
    with pytest.raises(UserError, match=r"the L1 distance, which is no product.*format=torch and format=onnx"):
        folder.export(run_of(model), directory, "vectors", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def about(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "export.json").read_text())
    return content


def test_a_folder_of_vectors_holds_what_an_index_needs(directory: Path, tmp_path: Path) -> None:
    model, out = perturbed_model("caser"), tmp_path / "out"
    returned = folder.export(run_of(model), directory, "vectors", out)
    assert returned == about(out) and set(returned["checks"]) == {"user_vectors.pt2", "item_vectors.npy"}
    assert returned["run"]["split_sha256"] == split().sha256() and returned["max_length"] == MAX_LEN
    assert [one["name"] for one in returned["inputs"]] == ["items", "users"]
    items_MD, users_UD = np.load(out / "item_vectors.npy"), np.load(out / "user_vectors.npy")
    data = split().dataset
    assert (len(items_MD), len(users_UD)) == (data.n_items, data.n_users)
    assert returned["outputs"]["user_vectors.pt2"] == [{"dtype": "float32", "shape": ["batch", items_MD.shape[1]]}]
    lines = (out / "items.csv").read_text().splitlines()
    assert lines[0] == "number,id" and lines[3] == f"3,{data.item_ids[2]}" and len(lines) == data.n_items + 1
    # A user of whom the arrays and the program, from the ids in the files alone, say the same.
    program = torch.export.load(out / "user_vectors.pt2").module()
    newest = data.items[data.offsets[3] : data.offsets[4]][-MAX_LEN:]
    vector = program(torch.from_numpy(newest[None]), torch.tensor([3]))[0]
    np.testing.assert_allclose(vector.detach().numpy(), users_UD[3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cocorec", "gru4rec", "sair-label"])
def test_onnx_computes_the_same(name: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from sairlib.exporting.formats import write_onnx

    model = perturbed_model(name)
    call = write_onnx(trace(model, "scores", MAX_LEN), tmp_path / "scores.onnx")
    found = difference(run_of(model), lambda history: scores(model, model.newest(history)), call)
    assert found.relative < 1e-5 and found.longest == MAX_LEN


def test_safetensors_holds_the_weights(directory: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    model, out = perturbed_model("sair"), tmp_path / "out"
    folder.export(run_of(model), directory, "safetensors", out)
    assert about(out)["checks"]["model.safetensors"]["max_absolute_difference"] == 0
    found, expected = library.load_file(out / "model.safetensors"), model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_a_program_that_differs_is_refused_and_nothing_is_left(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = perturbed_model("fmc")

    def wrong(*_: object) -> Any:
        return lambda items_BN, users_B: model.newest(History(users_B, items_BN)) + 1e-3 * (len(items_BN) == 1)

    monkeypatch.setattr(folder, "write_torch", wrong)
    with pytest.raises(UserError, match=r"differs from the model.*nothing is written"):
        folder.export(run_of(model), directory, "torch", tmp_path / "out")
    with pytest.raises(UserError, match="format=tf: choose one of torch, onnx, safetensors, vectors"):
        folder.export(run_of(model), directory, "tf", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"format=onnx needs the package onnx: pip install 'sairlib\[onnx\]'"):
        folder.export(run_of(model), directory, "onnx", tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    for taken in ("file", "run"):
        with pytest.raises(UserError, match=f"{taken} exists already"):
            folder.export(run_of(model), directory, "torch", tmp_path / taken)
    with pytest.raises(UserError, match="there is no directory"):
        folder.export(run_of(model), directory, "torch", tmp_path / "no" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_a_model_that_torch_cannot_follow_gets_one_line() -> None:
    model = perturbed_model("fmc")
    with pytest.raises(UserError) as found:
        trace(Stubborn(model), "scores", MAX_LEN)
    assert "Stubborn cannot be exported: torch.export cannot follow it" in str(found.value)
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


@final
class Stubborn(Recommender):
    """Asks for a number in the middle of its tensors."""

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model, self.n_items = model, model.n_items

    @property
    def head(self) -> Any:
        return self.model.head

    def newest(self, history: History) -> Any:
        return self.model.newest(history) * (2 if int(history.items_BN.max()) > 3 else 1)


def test_every_model_is_tried() -> None:
    assert set(MODELS) >= USERS | NOT_EXPORTED
