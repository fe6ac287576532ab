"""Wrong or hostile words and stored configurations: a study or a run is assembled, or one line says what is wrong.

Nothing trains."""

import functools
import io
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from types import FrameType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import yaml
from command_helpers import TINY, Commands, actions_with_new_last_items, call, write_data
from fault import LostError, fault

import sairlib
from sairlib import evaluate, resume, train
from sairlib.run.study import Study

SECONDS = 240
"""More is taken for a hang. Most tries take some hundredths of one, the slowest eleven, or many more where others
want the cores."""
WORDS = (*TINY, "model.d=4")
GROUPS = {
    "model": [
        "sair",
        "sasrec",
        "caser",
        "gru4rec",
        "bert4rec",
        "sine",
        "attrec",
        "fpmc",
        "poprec",
        "lightsans",
        "transrec",
    ],
    "loss": ["bce", "bpr", "bpr_max", "gbce", "hinge", "sampled_softmax", "softmax", "top1", "top1_max"],
    "negatives": ["uniform", "shared", "popular", "none"],
    "objective": ["next_item", "prefix", "cloze", "session_parallel"],
    "split": ["leave-one-out", "chronological"],
    "protocol": ["sair-table2", "attrec", "full-ranking"],
}
PLAIN = [
    *("null", "true", "0", "-1", "1", "2", "7", "1.5", "-0.0", "nan", "inf", "-inf", "1e308", "1e-320", "1e999"),
    *("10000000", "1000000000", "1000000000000", "100000000000000000000", "-9223372036854775808", "9" * 4301),
    *("[]", "[1]", "[null]", "[a,b]", "[[1]]", "{}", "{a:1}", "{_target_:os.getcwd}", "[{_target_:os.getcwd}]", "''"),
    *(
        "' '",
        "'\"'",
        '"it\'s"',
        "é漢字\u202e",
        "'\t'",
        "???",
        "'a b'",
        "../..",
        "/",
        "/dev/null",
        "a" * 5000,
        "~nobody/x",
    ),
    *(
        "${seed}",
        "${nosuch}",
        "${model}",
        "${oc.env:HOME}",
        "${oc.env:NOSUCH}",
        "${oc.decode:'[1'}",
        "${",
        "$",
        "${seed",
        "[" * 200,
    ),
    *(
        "sasrec",
        "uniform",
        "cpu",
        "meta",
        "cuda:99",
        "cpu:3",
        "1_000",
        "0x10",
        "1e3",
        "yes",
        "on",
        "full/ndcg@10",
        "\\",
        "(",
        "a=b",
        "a,b",
    ),
]
HOSTILE = [
    *(
        "os.system",
        "os.mkdir",
        "builtins.open",
        "pathlib.Path.touch",
        "subprocess.run",
        "torch.load",
        "pandas.read_pickle",
    ),
    *("sairlib.files.write_text", "sairlib.files.os.mkdir", "sairlib.run.log.RunLog", "sairlib.run.log.SummaryWriter"),
    *(
        "sairlib.batch.torch.load",
        "sairlib.study",
        "sairlib.train.main",
        "stolen.Thing",
        "hydra.utils.instantiate",
        "builtins.eval",
    ),
    *(
        "sairlib.models.sair.SAIR.__class__",
        "sairlib.data.split.Path.touch",
        "sairlib",
        "sairlib.",
        "",
        ".",
        "sairlib..x",
    ),
]


@functools.cache
def base() -> Path:
    """A directory with tiny data and a run on it, made once."""
    home = Path(tempfile.mkdtemp(prefix="sairlib-faults-"))
    write_data(home, actions_with_new_last_items())
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        Commands(home, patch).train("run", "model.d=4", "training.epochs=1", "training.lr=0.01", "data.root=data")
    return home


@contextmanager
def at_home(home: Path) -> Iterator[pytest.MonkeyPatch]:
    """Work in ``home`` with the tiny data; a study does not train; what takes too long is lost."""

    def late(signum: int, frame: FrameType | None) -> None:
        raise LostError(f"nothing after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SAIRLIB_DATA", str(base() / "data"))
            patch.setenv("SAIRLIB_CACHE", str(base() / "cache"))
            patch.setenv("HYDRA_FULL_ERROR", "0")
            patch.setenv("SECRET", "geheim")
            patch.chdir(home)
            patch.syspath_prepend(str(home))
            patch.setattr("urllib.request.urlopen", mock.Mock(side_effect=OSError("offline")))
            patch.setattr(Study, "run", lambda *_, **__: SimpleNamespace(validation=mock.MagicMock()))
            yield patch
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(error: str, what: Any) -> None:
    if not error.strip() or "\n" in error or not error.isprintable() or len(error) > 2000:
        raise LostError(f"{what}: not one clear line: {error[:400]!r}")


def command(main: Any, patch: pytest.MonkeyPatch, *words: str) -> None:
    """Run a command, which may end with one line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = call(main, patch, *words)
    said = err.getvalue()
    if code == 2 and said.startswith("usage:"):
        return
    if code or said:
        refused(said.removesuffix("\n"), words)
        if not code or not said.startswith("error: "):
            raise LostError(f"{words}: exit code {code}, {said!r}")


def leaves(config: Any, place: str = "") -> list[str]:
    if not isinstance(config, dict):
        return [place]
    return [leaf for key, value in config.items() for leaf in leaves(value, f"{place}.{key}".lstrip("."))]


@functools.cache
def keys() -> list[str]:
    """Every setting and every group of the configuration."""
    config = yaml.safe_load((base() / "run" / "config.yaml").read_text())
    return [
        *leaves(config),
        *config,
        "dataset.filters",
        "dataset.reader",
        "model.encoder",
        "protocol",
        "experiment",
        "trust",
        "hydra",
    ]


def random_word(rng: Random) -> str:
    if rng.random() < 0.1:
        group = rng.choice(list(GROUPS))
        return f"{group}={rng.choice(GROUPS[group])}"
    key = rng.choice(keys())
    prefix = rng.choices(["", "+", "++", "~", "-"], [20, 2, 2, 1, 0.3])[0]
    if rng.random() < 0.05:
        key = rng.choice([key + ".x", key + "@y", key.replace(".", "/"), key.upper(), "=", "", "é"])
    if prefix == "~" and rng.random() < 0.7:
        return prefix + key
    return f"{prefix}{key}={rng.choice(PLAIN)}"


@fault("wrong words on the command line", tries=600, few=6)
def wrong_words(home: Path, rng: Random) -> None:
    words = [random_word(rng) for _ in range(rng.choice([1, 1, 2, 3]))]
    with at_home(home) as patch:
        if rng.random() < 0.5:
            flags = ["-m", "--cfg=job", "--resolve", "--info", "-c", "-x", "--package=model", *[""] * 60]
            words += [flag for flag in rng.sample(flags, 2) if flag]
            command(train.main, patch, *WORDS, "run_dir=run", *words)
            return
        try:
            sairlib.study(*WORDS, *words)
        except sairlib.UserError as error:
            refused(str(error) if len(str(error)) < 2000 else str(error)[:1900], words)


def random_value(rng: Random, home: Path) -> Any:
    kind = rng.random()
    if kind < 0.5:
        text = rng.choice(PLAIN)
        try:
            return yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            return text
    if kind < 0.9:
        stolen = str(home / "stolen")
        target = {"_target_": rng.choice(HOSTILE)}
        arguments: list[Any] = [
            {"_args_": [f"touch {stolen}"]},
            {"_args_": [stolen], "_partial_": rng.choice([True, False])},
            {"command": f"touch {stolen}", "path": stolen, "file": stolen, "mode": "w"},
            {"directory": stolen, "_recursive_": False},
            {"_args_": [stolen, "x"], "_convert_": "all"},
            {"_args_": [f"open({stolen!r}, 'w')"]},
        ]
        value: Any = {**target, **rng.choice(arguments)}
        for _ in range(rng.choice([0, 0, 1, 2])):
            value = rng.choice([[value], {"inner": value}, {"_target_": "sairlib.nn.layers.Dropout", "p": value}])
        return value
    return rng.choice(
        [
            "${oc.env:SECRET}",
            "${oc.env:HOME}",
            "${${a}:b}",
            "a${seed}",
            "${oc.create:{a:1}}",
            b"\0",
            "\0",
            "\x1b[2J",
            {1: 2},
        ]
    )


def edit(config: Any, rng: Random, home: Path) -> None:
    """Change one place of a stored configuration."""
    place = rng.choice(leaves(config)).split(".")
    *folders, last = place[: rng.randint(1, len(place))]
    for folder in folders:
        config = config[folder]
    action = rng.random()
    if action < 0.1:
        del config[last]
    elif action < 0.2:
        config[rng.choice(["x", "_target_", "_args_", "_partial_", "_convert_", "é", 3, None, True])] = random_value(
            rng, home
        )
    else:
        config[last] = random_value(rng, home)


def damaged(text: str, rng: Random) -> bytes:
    """Text with a place cut out, doubled, or replaced by other bytes."""
    data = text.encode()
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([1, 5, 50]))
    middle = rng.choice(
        [
            b"",
            data[start:end] * 3,
            bytes(rng.randrange(256) for _ in range(3)),
            b"&a [*a]",
            b"{" * 500,
            b"!!python/name:os.system ",
        ]
    )
    return data[:start] + middle + data[end:]


def not_stolen(home: Path, what: Any) -> None:
    if (home / "stolen").exists() or "stolen" in sys.modules:
        raise LostError(f"{what}: it ran")
    for path in home.rglob("*"):
        if path.is_file() and b"geheim" in path.read_bytes():
            raise LostError(f"{what}: a variable of the environment stands in {path.name}")


def link(home: Path) -> Path:
    """A run like the base's, whose texts may be changed."""
    run = home / "run"
    (run / ".hydra").mkdir(parents=True)
    for name in ("config.yaml", ".hydra/overrides.yaml", "best.pt", "last.pt"):
        (run / name).write_bytes((base() / "run" / name).read_bytes())
    (home / "stolen.py").write_text("class Thing: pass\n")
    return run


@fault("a stranger's config.yaml", tries=600, few=6)
def strange_configuration(home: Path, rng: Random) -> None:
    run = link(home)
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for _ in range(rng.choice([1, 1, 2])):
        edit(config, rng, home)
    text = yaml.safe_dump(config, allow_unicode=True)
    path.write_bytes(damaged(text, rng) if rng.random() < 0.2 else text.encode())
    with at_home(home) as patch:
        if rng.random() < 0.5:
            command(evaluate.main, patch, "run", "device=cpu", "data.root=" + str(base() / "data"))
        else:
            try:
                sairlib.load(run, device="cpu")
            except sairlib.UserError as error:
                refused(str(error) if len(str(error)) < 2000 else str(error)[:1900], text)
    not_stolen(home, path.read_bytes()[:3000])


@fault("a stranger's overrides.yaml", tries=300, few=4)
def strange_words(home: Path, rng: Random) -> None:
    run = link(home)
    path = run / ".hydra" / "overrides.yaml"
    words = yaml.safe_load(path.read_text())
    stolen = home / "stolen"
    for _ in range(rng.choice([1, 1, 2])):
        key = rng.choice(keys())
        target = rng.choice(HOSTILE)
        words.insert(
            rng.randrange(len(words) + 1),
            rng.choice(
                [
                    random_word(rng),
                    f"{key}._target_={target}",
                    f"++{key}={{_target_:{target},_args_:['touch {stolen}']}}",
                    f"++{key}={{_target_:{target},_args_:['{stolen}'],_partial_:false}}",
                    f"++{key}.x=[{{_target_:{target},path:'{stolen}'}}]",
                    "++dataset.homepage=${oc.env:SECRET}",
                    "++dataset.homepage=${${dataset.url}:SECRET}",
                    "hydra.searchpath=[pkg://stolen]",
                    "+hydra.searchpath=[pkg://stolen]",
                    f"hydra.run.dir={stolen}",
                    3,
                    None,
                    {"a": 1},
                ]
            ),
        )
    text = yaml.safe_dump(words, allow_unicode=True)
    path.write_bytes(damaged(text, rng) if rng.random() < 0.2 else text.encode())
    with at_home(home) as patch:
        command(resume.main, patch, "run", "training.epochs=2")
    not_stolen(home, path.read_bytes()[:3000])
