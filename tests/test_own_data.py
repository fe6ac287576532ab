"""From a file or frame of one's own to recommendations, by the command and from Python."""

import json
from pathlib import Path

import pandas as pd
import pytest
from train_helpers import TINY, Command, walks

import sairlib
from sairlib import Interactions, build, configuration

WORDS = [word for word in TINY if not word.startswith("run_dir")]
OWN = ["dataset=table", "dataset.columns.user=uid", "dataset.columns.item=sku", "dataset.columns.time=when"]


def frame() -> pd.DataFrame:
    days = pd.date_range("2024-01-01", periods=len(walks()), freq="h", tz="UTC")
    return pd.DataFrame([(f"u{u:02d}", f"s{i}", when) for (u, i), when in zip(walks(), days, strict=True)]).set_axis(
        ["uid", "sku", "when"], axis=1
    )


def test_a_file_of_one_s_own_by_the_command(command: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame().to_csv(home / "my.logs.csv.gz", index=False)
    code, out, err = command(*OWN, "dataset.path=my.logs.csv.gz", "model=sasrec")
    assert code == 0, err
    assert out.startswith("my.logs: 20 users, 25 items, 180 actions")
    assert json.loads((home / "run" / "run.json").read_text())["dataset"] == "my.logs"
    code, out, _ = command("resume=true", tiny=["run_dir=run", *OWN, "dataset.path=my.logs.csv.gz"])
    assert code == 0 and "is finished" in out and "keeps" not in out
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    top = sairlib.load(home / "run", device="cpu").recommend(users=["u03"], k=2)
    assert top["user"].tolist() == ["u03"] * 2 and set(top["item"]) <= {f"s{n}" for n in range(25)}


def test_a_bad_file_of_one_s_own_is_one_line(command: Command, home: Path) -> None:
    (home / "my.csv").write_text("uid,sku,when\nu,s,yesterday\n")
    for words, says in (
        (["dataset.path=my.csv"], f"error: {home}/my.csv, line 2: when is 'yesterday'; expected a number"),
        ([], "error: dataset.path is missing: give your file, such as dataset.path=my.csv"),
        (["dataset.path=my.csv", "dataset.missing=maybe"], "missing=maybe: choose one of error, drop"),
        (["dataset.path=my.csv", "dataset.columns.usr=uid"], "usr"),
        (["dataset.path=7"], "error: dataset.path=7: must be the path of a file, or a list of paths"),
    ):
        code, _, err = command(*OWN, *words)
        assert code == 1 and says in err and err.count("\n") == 1, err
    code, _, err = command("dataset=python")
    assert code == 1 and "this data is given from Python" in err
    assert not (home / "run" / "last.pt").exists()


def test_data_from_python(home: Path) -> None:
    data = Interactions.from_pandas(frame(), user="uid", item="sku", time="when")
    study = sairlib.study(*WORDS, "model=sasrec", "dataset.filters.user_core=2", data=data)
    study.run(home / "run")
    run = sairlib.load(home / "run", device="cpu", data=data)
    assert run.split.sha256() == study.split.sha256() and run.recommend(users=["u03"], k=1)["user"].tolist() == ["u03"]
    with pytest.raises(sairlib.UserError, match=r"sairlib\.load\(DIR, data=interactions\)"):
        sairlib.load(home / "run")
    other = Interactions.from_pandas(frame()[9:], user="uid", item="sku", time="when")
    with pytest.raises(sairlib.UserError, match="data and split"):
        sairlib.load(home / "run", data=other)
    with pytest.raises(sairlib.UserError, match="the run is of the data set ml-1m; leave data out"):
        sairlib.study("dataset=ml-1m", data=data)


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/my.csv", "my"), ("[a.b.tsv.gz,c.csv]", "a.b"), ("'logs-*.csv'", "logs"), ("x.parquet", "x"), ("'*'", "table")],
)
def test_the_name_of_a_data_set_is_its_file_s(path: str, name: str) -> None:
    assert configuration.compose(["dataset=table", f"dataset.path={path}"]).dataset.name == name


@pytest.mark.parametrize(
    "words",
    [
        ["dataset=anime", "dataset.archive=anime-tail.zip", "dataset.files.actions=rating_tail.csv"],
        ["dataset=amazon-beauty-s3rec"],
    ],
)
def test_presets_read_the_published_files(
    words: list[str], real_data: "object", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = next((word.partition("=")[2] for word in words if "archive" in word), "amazon-beauty-s3rec.zip")
    root = real_data(archive).parent  # type: ignore[operator]
    config = configuration.compose([*words, f"data.root={root}", "data.cache=null"])
    data = build.split(config).dataset
    assert (data.n_users, data.n_items, len(data.items)) in ((956, 5560, 97470), (22363, 12101, 198502))
    assert data.n_categories in (44, 637)


def test_amazon_s_csv_of_2023(home: Path) -> None:
    rows = "".join(f"AE{user},B0{item},5.0,{1588687728923 + n}\n" for n, (user, item) in enumerate(walks()))
    (home / "All_Beauty.csv").write_text("user_id,parent_asin,rating,timestamp\n" + rows)
    data = build.split(configuration.compose(["dataset=amazon-2023", "dataset.path=All_Beauty.csv"])).dataset
    assert (data.n_users, data.n_items) == (20, 25) and data.notes == ()
    assert data.times is not None and data.times[0] == 1588687728923
