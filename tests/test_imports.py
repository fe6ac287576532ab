"""Which package may import which, checked in the source; and importing sairlib changes no global state."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "sairlib"

COMMANDS = {"train", "evaluate", "report", "export", "describe", "recommend", "serve", "explain"}
LAYERS = [
    {"errors", "batch", "processes"},
    {"files", "commands"},
    {"configuration"},
    {"configured"},
    {"nn", "data"},
    {"models"},
    {"evaluation"},
    {"training"},
    {"run"},
    {"make", "exporting", "serving"},
    {"stored", "build_data"},
    {"build"},
    {"resuming"},
    {"resume", "grid"},
    {"job"},
    COMMANDS | {"__init__"},
    {"__main__"},
]
"""Rooms import from their own folder and from lower layers, never sideways or up. A new module is placed here."""

LEVEL = {room: level for level, layer in enumerate(LAYERS) for room in layer}
KNOW_HYDRA = {
    "configuration",
    "configured",
    "make",
    "stored",
    "build",
    "build_data",
    "resuming",
    "grid",
    "job",
} | COMMANDS
PURE = {
    "nn": {"errors", "batch", "processes"},
    "models": {"errors", "batch", "nn"},
    "training/losses.py": {"errors", "batch", "nn", "models"},
    "training/gbce.py": {"errors", "batch", "nn", "models"},
    "training/pairwise_losses.py": {"errors", "batch", "nn", "models"},
    "training/softmax_losses.py": {"errors", "batch", "nn", "models"},
    "evaluation/lists.py": {"batch", "data"},
    "evaluation/metrics.py": set(),
    "evaluation/statistics.py": set(),
}
"""What may be used in a notebook without the rest: the sairlib rooms, beside its own, that it may import."""
STANDARD = {"abc", "collections", "dataclasses", "enum", "functools", "itertools", "math", "typing"}
PLAIN_MODULES = STANDARD | {"numpy", "torch"}
READS_THE_ENVIRONMENT = {"nn/kernels/switch.py": {"os", "contextlib"}}
"""A switch for finding faults must work from outside, whatever runs; no other file of these rooms knows of it."""
TOUCHES_THE_WORLD = {"open", "print", "input", "cuda", "save", "load", "set_num_threads", "set_default_dtype"}

FILES = sorted(SOURCE.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[-1] if parts[-1] == "__main__" else parts[0]  # of a room: what `python -m` runs


def place_of(path: Path) -> str:
    """The file, or the room, if that is in ``PURE``."""
    place = path.relative_to(SOURCE).as_posix()
    return place if place in PURE else room_of(path)


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that is imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(tree: ast.AST) -> set[str]:
    return {name.split(".")[1] for name in imported(tree) if name.startswith("sairlib.")}


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(path) for path in FILES}
    assert len(FILES) > 40 and rooms <= set(LEVEL), f"place {sorted(rooms - set(LEVEL))} in LAYERS"


@every_file
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    others = rooms_imported(ast.parse(path.read_text())) - {room}
    lower = {other for other in LEVEL if room in LEVEL and LEVEL[other] < LEVEL[room]}
    allowed = PURE.get(place_of(path), lower)
    assert others <= lower and others <= allowed


@every_file
def test_only_build_and_the_commands_know_hydra(path: Path) -> None:
    packages = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
    assert room_of(path) in KNOW_HYDRA or not packages & {"hydra", "omegaconf"}


@pytest.mark.parametrize("path", [p for p in FILES if place_of(p) in PURE], ids=lambda p: str(p.relative_to(SOURCE)))
def test_layers_models_losses_and_metrics_know_no_files_devices_or_loggers(path: Path) -> None:
    tree = ast.parse(path.read_text())
    also = READS_THE_ENVIRONMENT.get(path.relative_to(SOURCE).as_posix(), set())
    assert {name.split(".")[0] for name in imported(tree)} <= PLAIN_MODULES | {"sairlib"} | also
    assert not any(name.startswith("torch.utils") and "checkpoint" not in name for name in imported(tree))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {f.id if isinstance(f, ast.Name) else f.attr for f in calls if isinstance(f, ast.Name | ast.Attribute)}
    assert not names & TOUCHES_THE_WORLD


def test_the_rules_would_be_noticed() -> None:
    tree = ast.parse(
        "def f():\n    import sairlib.data.source\n    from sairlib import build, run\n    import hydra.utils"
    )
    assert rooms_imported(tree) == {"data", "build", "run"}
    assert "hydra.utils" in set(imported(tree))


def python(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)


LIGHT = """
import sys
import sairlib.{module}
sys.argv = ["sairlib", *{words}]
try:
    sairlib.{module}.main()
except SystemExit as stop:
    assert not stop.code
finally:
    loaded = {{"torch", "numpy", "pandas", *{without}}} & set(sys.modules)
    sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""


@pytest.mark.parametrize(
    ("module", "words", "without", "shows"),
    [
        (
            "train",
            ["--help"],
            ["hydra"],
            ["experiment=sasrec-table4/", "self_attention", "outputs/DATE/TIME", "seed=1,2,3"],
        ),
        ("resume", ["-h"], ["hydra"], ["sairlib-resume", "trust="]),
        ("evaluate", ["--help"], ["hydra"], ["sairlib-evaluate", "trust=", "evaluation.n_candidates"]),
        ("export", ["--help"], ["hydra"], ["sairlib-export", "format=torch", "trust="]),
        ("describe", ["--help"], ["hydra"], ["sairlib-data", "picture", "ml-latest-small", "leave-one-out"]),
        ("serve", ["--help"], ["hydra", "uvicorn"], ["sairlib-serve", "trust=", "port"]),
        ("train", ["--cfg", "job", "model=sasrec"], [], ["sairlib.models.sasrec.SASRec", "run_dir: outputs/"]),
        ("evaluate", ["--cfg", "job"], [], ["n_candidates: null"]),
        ("recommend", ["--help"], ["hydra"], ["sairlib-recommend", "history=-", "users=all"]),
        ("explain", ["--help"], ["hydra", "matplotlib"], ["sairlib-explain", "user=42", "projector"]),
    ],
)
def test_help_and_the_configuration_are_shown_without_torch(
    module: str, words: list[str], without: list[str], shows: list[str]
) -> None:
    done = python("-c", LIGHT.format(module=module, words=words, without=without))
    assert (done.returncode, done.stderr) == (0, "")
    assert all(text in done.stdout for text in shows)


def test_importing_sairlib_loads_torch_when_a_name_is_used() -> None:
    program = "import sys, sairlib; assert 'torch' not in sys.modules; sairlib.Run; assert 'torch' in sys.modules"
    assert python("-c", program).returncode == 0


PROBE = """
import logging, random, sys, warnings
import numpy as np, torch

def state():
    return {
        "default dtype": torch.get_default_dtype(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "matmul precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": [str(part) for part in np.random.get_state()],
        "python generator": random.getstate(),
        "numpy errors": np.geterr(),
        "numpy printing": np.get_printoptions(),
        "numpy names": {name for name in ("float", "int", "bool", "object") if name in vars(np)},
        "root logger": (logging.getLogger().level, len(logging.getLogger().handlers)),
        "excepthook": sys.excepthook is sys.__excepthook__,
    }

before = state()
for module in sys.argv[1:]:
    __import__(module)
after = state()
changed = [name for name in before if before[name] != after[name]]
sys.exit(f"changed by import: {changed}" if changed else 0)
"""


def test_importing_changes_no_global_state() -> None:
    parts = (path.relative_to(SOURCE.parent).with_suffix("").parts for path in FILES)
    modules = [".".join(p).removesuffix(".__init__") for p in parts]
    finished = python("-c", PROBE, *modules)
    assert finished.returncode == 0, finished.stderr
