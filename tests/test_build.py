"""Every yaml composes with every other, its settings are valid, and a bad value is refused by its name."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from objective_helpers import batch_of
from omegaconf import DictConfig, OmegaConf

from sairlib import build, make
from sairlib.batch import History
from sairlib.data.dataset import Dataset
from sairlib.data.filters import Filters
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import leave_one_out
from sairlib.errors import UserError
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.training.settings import TrainingSettings

CONF = Path(build.CONFIG_PATH)
pytestmark = pytest.mark.skipif(not CONF.is_dir(), reason="needs a checkout: the names come from its conf/")


def names(group: str) -> list[str]:
    """The options of a group; experiments as folder/name."""
    paths = (CONF / group).rglob("*.yaml") if group == "experiment" else (CONF / group).glob("*.yaml")
    return sorted(path.relative_to(CONF / group).with_suffix("").as_posix() for path in paths)


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    return compose("train", list(overrides))


def validate(config: DictConfig) -> None:
    build.check_run(config)
    make.settings(config, "training", TrainingSettings)
    make.settings(config, "evaluation", EvaluationSettings)
    make.settings(config, "dataset.filters", Filters)
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("model", names("model"))
def test_every_dataset_model_interests_and_protocol_compose(model: str) -> None:
    # The groups do not look at one another: all values of one against the defaults of the rest would show the same,
    # but pairs with a model (its interests, its data) may clash.
    for dataset in names("dataset"):
        validate(composed(f"model={model}", f"dataset={dataset}"))
    for protocol in names("protocol"):
        validate(composed(f"model={model}", f"protocol={protocol}"))
    for interests in names("interests"):
        if "n_interests" not in composed(f"model={model}").model:
            with pytest.raises(HydraException, match="interests"):  # rather than to be without effect
                composed(f"model={model}", f"interests={interests}")
            continue
        config = composed(f"model={model}", f"interests={interests}")
        validate(config)
        assert (config.model.n_interests, config.model.top_k) == (config.interests.n_interests, config.interests.top_k)


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_composes_and_can_be_overridden(experiment: str) -> None:
    config = composed(f"experiment={experiment}", "training.lr=0.125", "max_len=7", "seed=9")
    validate(config)
    assert (config.training.lr, config.max_len, config.seed) == (0.125, 7, 9)
    own = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")
    assert isinstance(own, DictConfig)
    plain = composed(f"experiment={experiment}")
    for key in own.keys() - {"defaults"}:  # the preset wins over what it stands on
        assert OmegaConf.is_config(own[key]) or plain[key] == own[key]


@pytest.mark.parametrize("table", names("table"))
def test_every_table_sweeps_over_what_composes_and_has_a_place_for_each_job(table: str) -> None:
    params = compose("train", [f"table={table}"], return_hydra_config=True).hydra.sweeper.params
    values = {name: str(values).split(",") for name, values in params.items()}
    seeds = values.pop("split.order.ties_seed" if table == "ties" else "seed", None)
    few = {"best-ml-1m": None, "systems": ["1"]}  # a search has one; so have the figures of the README
    assert seeds == few[table] if table in few else seeds[:3] == ["1", "2", "3"]
    for job in product(*values.values()):
        words = [f"{name}={value}" for name, value in zip(values, job, strict=True)]
        config = composed(f"table={table}", *words)
        validate(config)
        if job != tuple(column[0] for column in values.values()):  # each job differs from the first
            assert config != composed(f"table={table}", *(f"{n}={column[0]}" for n, column in values.items()))


@pytest.mark.parametrize("variant", names("variant"))
def test_every_variant_is_in_a_table_and_changes_its_model(variant: str) -> None:
    tables = [path.read_text() for path in (CONF / "table").glob("*.yaml")]
    assert any(variant in re.split(r"[\s,]", table) for table in tables)
    kind = variant.partition("-")[0]
    if kind == "search":
        base = ("experiment=full-ranking/sasrec-softmax-ml-1m-sasrec", "run_dir=x")
        assert composed(*base, f"variant={variant}") != composed(*base)
    elif kind != "none":
        model = kind
        assert composed(f"model={model}", f"variant={variant}").model != composed(f"model={model}").model


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("sair-table2/sasrec-ml-1m", ["protocol=sair-table2", "model=sasrec", "dataset=ml-1m"]),
        ("sasrec-table3/sasrec-ml-1m-sasrec", ["protocol=sasrec", "model=sasrec", "dataset=ml-1m-sasrec"]),
    ],
)
def test_a_protocol_says_all_that_its_presets_share(experiment: str, words: list[str]) -> None:
    assert composed(f"experiment={experiment}", "run_dir=x") == composed(*words, "run_dir=x")  # else it holds the time


def test_a_protocol_wins_over_the_groups_and_yields_to_the_command_line() -> None:
    # AttRec's protocol chooses another option of a group (split) and other values of one (evaluation).
    config = composed("protocol=attrec", "evaluation.ks=[7]")
    assert (config.split._target_, config.training.monitor) == ("sairlib.data.split.chronological", "full/mrr")
    assert (config.evaluation.n_candidates, config.evaluation.ks) == (0, [7])
    assert composed("protocol=attrec", "split=leave-one-out").split._target_ == "sairlib.data.split.leave_one_out"


@pytest.mark.parametrize("protocol", names("protocol"))
def test_every_protocol_says_what_figures_hang_on(protocol: str) -> None:
    # Else another default of the library would change what a paper's table compares by.
    own = OmegaConf.load(CONF / "protocol" / f"{protocol}.yaml")
    assert isinstance(own, DictConfig)
    assert {"monitor", "epochs", "patience", "eval_every"} <= own.training.keys()
    assert {"n_candidates", "full"} <= own.evaluation.keys() and "max_len" in own
    assert [list(line) for line in own.defaults] == [["override /split"]]


@pytest.mark.parametrize("loss", names("loss"))
def test_every_loss_trains(loss: str) -> None:
    split = small_split(with_categories=False)
    config = composed(f"loss={loss}", "model=sasrec", "model.d=4", "max_len=5")
    store = SequenceStore(split, 5, torch.device("cpu"))
    objective = build.objective(config, store, 16)
    model = build.model(config, split, torch.device("cpu"))
    parts = objective.loss(model, batch_of(objective, store.train_users))
    assert list(parts) == [loss]
    parts[loss].backward()
    assert parts[loss] > 0 and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_unknown_option_of_a_loss_is_refused() -> None:
    store = SequenceStore(small_split(with_categories=False), 5, torch.device("cpu"))
    with pytest.raises(UserError, match="margin") as caught:
        build.objective(composed("loss=bpr", "+loss.margin=0.5"), store, 16)
    assert "\n" not in str(caught.value)


def small_split(with_categories: bool, timed: bool = True) -> Any:
    sequences = np.arange(60) % 12 + 1
    categories = np.full((13, 1 if with_categories else 0), 0)
    if with_categories:
        categories[1:, 0] = np.arange(12) % 4 + 1
    names = tuple("abcd") if with_categories else ()
    offsets = np.arange(0, 61, 10)
    times = np.arange(60) if timed else None
    return leave_one_out(Dataset(sequences, offsets, np.arange(6), np.arange(1, 13), categories, names, times))


@pytest.mark.parametrize("name", names("model"))
def test_every_model_is_built(name: str) -> None:
    config = composed(f"model={name}", "max_len=5")
    model = build.model(config, small_split(True), torch.device("cpu"))
    shown = History(torch.tensor([0]), torch.tensor([[1, 2, 3]]), torch.tensor([[5, 6, 9]]))
    scores = model.head.score_all(model.newest(shown))
    assert scores.shape == (1, 13) and torch.isfinite(scores).all()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("time_bias", ("model=hstu",)),
        ("encoder.time_bias", ("model=sair", "model/encoder=hstu", "interests.top_k=2")),
        ("time_channel", ("model=fuxi-alpha",)),
        ("encoder.time_channel", ("model=sair", "model/encoder=fuxi-alpha", "interests.top_k=2")),
        ("intervals", ("model=tisasrec",)),
        ("encoder.intervals", ("model=sair", "model/encoder=tisasrec", "interests.top_k=2")),
    ],
)
def test_data_without_times_is_refused_by_a_model_that_looks_at_them(option: str, words: tuple[str, ...]) -> None:
    build.model(composed(*words, "max_len=5"), small_split(True), torch.device("cpu"))
    without = f"model.{option}=false"
    with pytest.raises(UserError, match=rf"has no times, .* with {without}$") as caught:
        build.model(composed(*words, "max_len=5"), small_split(True, timed=False), torch.device("cpu"))
    assert "\n" not in str(caught.value)
    model = build.model(composed(*words, without, "max_len=5"), small_split(True, timed=False), torch.device("cpu"))
    assert not model.needs_times


def test_every_setting_is_in_the_yaml_and_nothing_else() -> None:
    # A setting that is missing there could not be overridden without a +.
    config = composed()
    assert set(config.training) == set(TrainingSettings.__dataclass_fields__)
    assert set(config.evaluation) == set(EvaluationSettings.__dataclass_fields__)
    evaluate = OmegaConf.load(CONF / "evaluate.yaml")
    assert set(evaluate.evaluation) == set(EvaluationSettings.__dataclass_fields__)
    assert set(evaluate.data) == set(config.data)


@pytest.mark.parametrize(("group", "kind"), [("training", TrainingSettings), ("evaluation", EvaluationSettings)])
def test_a_default_is_the_same_on_the_command_line_and_in_python(group: str, kind: type) -> None:
    assert composed()[group] == OmegaConf.structured(kind)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.lr", "fast", r"^training\.lr: "),
        ("training.epochs", 1.5, r"^training\.epochs: "),
        ("training.epochs", None, r"^training\.epochs: "),
        ("training.typo", 1, r"training\.typo"),
        ("training.lr", -1, r"^training\.lr=-1"),
    ],
)
def test_a_bad_setting_is_named(key: str, value: object, message: str) -> None:
    config = composed()
    OmegaConf.set_struct(config, False)
    OmegaConf.update(config, key, value)
    with pytest.raises(UserError, match=message) as error:
        make.settings(config, "training", TrainingSettings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", ["4", "x", "[1,a]", "[]"])
def test_a_setting_that_is_a_list_is_checked(words: str) -> None:
    config = composed("model=nextitnet", f"model.dilations={words}")
    with pytest.raises(UserError, match=r"^model.*dilations=.*: (must be a list|give one or more)") as error:
        build.model(config, small_split(with_categories=False), torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_a_missing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run \(no config\.yaml in it\)"):
        build.load_run(tmp_path)
