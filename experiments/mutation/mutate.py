"""Mutation run: find small changes of the code that no test notices.

    python experiments/mutation/mutate.py --list                      the mutants, none run
    python experiments/mutation/mutate.py --module losses --sample 20 --seed 1
    python experiments/mutation/mutate.py --jobs 2 --resume           all of them, continuing a stopped run

Each mutant is one change in one file of a temporary copy of the tree, never of the working tree. It is killed if a test
fails or takes far too long. This process imports the modules that are slow to import, but nothing of sairlib, and forks
for each call of pytest, so that a mutant costs no more than its tests. It needs Linux or macOS.
"""

import argparse
import collections
import importlib.util
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from mutants import Mutant, mutants

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before torch is loaded

GOLDEN = "tests/golden/test_golden.py::test_a_golden_run"
SAIR = [f"{GOLDEN}[{case}]" for case in ("sair", "sair-full", "sair-label", "sair, raw", "sair, categories")]
BASIC = [f"{GOLDEN}[{case}]" for case in ("sasrec", "bert4rec")]
SAMPLED = [f"{GOLDEN}[sasrec, {case}]" for case in ("gbce", "sampled softmax", "shared")]
WHOLE = "tests/contracts/test_command.py"
COMMAND = [f"{WHOLE}::test_the_whole_command[{model}]" for model in ("sair", "poprec")]
COMMAND += [f"{WHOLE}::test_the_best_weights_are_tested_not_the_last"]
TRAINED = ["tests/training/test_trainer.py", "-k", "not compiled"]
MONITOR = "tests/training/test_trainer.py::test_a_monitor_that_is_not_measured_is_refused"
RANKED = ["tests/evaluation/test_evaluator.py"]
LOSSES = [["tests/training/test_losses.py"], ["tests/training/test_objectives.py"], SAMPLED]
OBJECTIVES = [
    ["tests/training/test_objectives.py"],
    ["tests/training/test_guards.py", "-k", "large_tables or weighs"],
    [*BASIC, f"{GOLDEN}[lightsans]"],
]
TRAINER = [
    BASIC[:1],
    [*TRAINED, "tests/training/test_guards.py", "tests/training/test_figures.py"],
    [f"{GOLDEN}[sasrec, {case}]" for case in ("pieces", "by rows", "softmax", "adagrad")],
    ["tests/training/test_resume.py", "tests/run/test_checkpoint.py"],
    ["tests/test_train.py", "tests/test_resuming.py", "-k", "search or never_overwritten or no_number"],
]

# name -> its file under src/sairlib, and the tests that should notice, in stages: the fastest first, the first failure
# ends it.
MODULES: dict[str, tuple[str, list[list[str]]]] = {
    "metrics": ("evaluation/metrics.py", [["tests/evaluation/test_metrics.py"]]),
    "statistics": ("evaluation/statistics.py", [["tests/evaluation/test_metrics.py"]]),
    "rankings": (
        "evaluation/rankings.py",
        [RANKED, ["tests/evaluation/test_metrics.py", "tests/run/test_report.py", MONITOR], ["tests/test_evaluate.py"]],
    ),
    "candidates": ("evaluation/candidates.py", [["tests/evaluation/test_candidates.py"], RANKED]),
    "evaluator": ("evaluation/evaluator.py", [RANKED, BASIC[:1], ["tests/test_evaluate.py"]]),
    "losses": ("training/losses.py", LOSSES),
    "gbce": ("training/gbce.py", LOSSES),
    "pairwise": ("training/pairwise_losses.py", LOSSES),
    "softmax": ("training/softmax_losses.py", LOSSES),
    "negatives": ("training/negatives.py", [["tests/training/test_negatives.py"], RANKED, SAMPLED]),
    "objectives": ("training/objectives.py", OBJECTIVES),
    "whole": ("training/whole_objectives.py", OBJECTIVES),
    "settings": ("training/settings.py", [TRAINED, ["tests/test_build.py", "-k", "setting or default"]]),
    "optimisers": (
        "training/optimisers.py",
        [["tests/training/test_optimisers.py", "tests/training/test_guards.py"], TRAINED],
    ),
    "step": ("training/step.py", TRAINER),
    "trainer": ("training/trainer.py", TRAINER),
    "split": ("data/split.py", [["tests/data/test_split.py"], ["tests/data/test_sequences.py"]]),
    "sequences": (
        "data/sequences.py",
        [
            ["tests/data/test_sequences.py"],
            ["tests/training/test_objectives.py"],
            [*BASIC, f"{GOLDEN}[sasrec, pieces]"],
        ],
    ),
    "interests": ("nn/interests.py", [["tests/nn/test_interests.py"], ["tests/models/test_sair.py"], SAIR]),
    "sair": (
        "models/sair.py",
        [["tests/models/test_sair.py"], SAIR, ["tests/test_defaults.py", "tests/contracts", "-k", "sair"]],
    ),
    "study": ("run/study.py", [COMMAND, ["tests/test_train.py", "tests/test_resuming.py"]]),
    "build": (
        "build.py",
        [["tests/test_build.py", "-k", "not compose"], COMMAND, ["tests/test_train.py", "tests/test_evaluate.py"]],
    ),
}

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
KEPT = HERE / "results.jsonl"
MEMORY = 16 * 2**30
"""Limit of the address space, for mutants that would allocate all memory."""
ANOTHER = 99
PYTEST = [
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "--hypothesis-seed=0",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
]
SLOW = ("torch._dynamo", "torch.utils.tensorboard", "numpy", "pandas", "hydra", "hypothesis", "pytest")


def copy_tree(to: Path) -> None:
    """Copy the tracked files and those that git would add, as they are now, without the records of runs."""
    for name in git("ls-files", "-coz", "--exclude-standard").split("\0"):
        if name and not name.startswith("experiments/runs/") and (TOP / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, to / name)


def of(module: str) -> list[Mutant]:
    file = f"src/sairlib/{MODULES[module][0]}"
    return mutants(module, file, (TOP / file).read_text())


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=TOP, check=True, capture_output=True, text=True).stdout


def pytest_in(tree: Path, words: list[str], limit: float, show: bool) -> str:
    """Run these tests in ``tree`` in a separate process: 'passed', 'killed' or 'timeout'."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()  # a new process group, so that processes started by tests end with it
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            os.chdir(tree)
            sys.path.insert(0, str(tree / "src"))
            os.environ["PYTHONPATH"] = str(tree / "src")
            if not show:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1), os.dup2(nowhere, 2)
            spec = importlib.util.find_spec("sairlib")
            if not (spec and str(spec.origin).startswith(str(tree))):
                os._exit(ANOTHER)
            import pytest

            code = int(pytest.main([*PYTEST, *words]))
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done and os.waitstatus_to_exitcode(status) == ANOTHER:
            raise RuntimeError("the tests would import another sairlib than the copy's")
        if done:
            return "killed" if status else "passed"
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def start(root: str) -> None:
    """Give a worker a copy of the tree, and import slow modules, so that its forks need not."""
    global tree
    for name in SLOW:
        importlib.import_module(name)
    tree = Path(tempfile.mkdtemp(dir=root))
    copy_tree(tree)


def run(mutant: Mutant, limits: list[float], show: bool = False) -> dict[str, Any]:
    file, outcome, seconds = tree / mutant.file, "survived", []
    original = file.read_text()
    for cached in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        cached.unlink()  # Python would use it if size and time in seconds are equal
    file.write_text(mutant.source or original)
    for words, limit in zip(MODULES[mutant.module][1], limits, strict=True):
        begin = time.monotonic()
        found = pytest_in(tree, words, limit, show)
        seconds.append(round(time.monotonic() - begin, 2))
        if found != "passed":
            outcome = found
            break
    file.write_text(original)
    for cached in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        cached.unlink()
    shown = {"id": mutant.id, **mutant._asdict()}
    del shown["source"]
    return {**shown, "outcome": outcome, "seconds": seconds}


def summary(rows: list[dict[str, Any]], head: str) -> str:
    lines = ["# Mutation run", "", "Generated by `mutate.py`; [how to read it](README.md).", "", head, ""]
    lines += [
        "| module | mutants | run | killed | timeout | survived | seconds each |",
        "|---|---|---|---|---|---|---|",
    ]
    survivors: list[str] = []
    for module in MODULES:
        own = [row for row in rows if row["module"] == module]
        if own:
            n = collections.Counter(row["outcome"] for row in own)
            each = sum(sum(row["seconds"]) for row in own) / len(own)
            counts = f"{n['killed']} | {n['timeout']} | {n['survived']}"
            lines.append(f"| {module} | {len(of(module))} | {len(own)} | {counts} | {each:.1f} |")
        alive = sorted((row["line"], row["what"], row["id"]) for row in own if row["outcome"] == "survived")
        survivors += ["", f"### {module}", ""] if alive else []
        survivors += [f"- line {line}, {name}: `{what}`" for line, what, name in alive]
    return "\n".join([*lines, "", "## Survivors", *survivors]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", choices=list(MODULES), help="again for more (default: all)")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of each module, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="run none")
    parser.add_argument("--resume", action="store_true", help="keep what results.jsonl has of this commit")
    parser.add_argument("--survivors", action="store_true", help="again those of results.jsonl that survived")
    parser.add_argument("--id", help="this one alone, with pytest's output; nothing is written")
    told = parser.parse_args()
    chosen: list[Mutant] = []
    for module in told.module or MODULES:
        found = [mutant for mutant in of(module) if told.id in (None, mutant.id)]
        n = min(told.sample or len(found), len(found))
        chosen += sorted(random.Random(f"{told.seed} {module}").sample(found, n), key=lambda mutant: mutant.line)
    if told.list:
        return print("\n".join(f"{each.id} {each.file}:{each.line}  {each.what}" for each in chosen))
    changed = git("status", "--porcelain", "--", "src", "tests", "conf", "data", "pyproject.toml")
    commit = git("rev-parse", "--short=10", "HEAD").strip() + (" and changes" if changed else "")
    rows = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    if told.survivors:
        alive = {row["id"] for row in rows if row["outcome"] == "survived"}
        chosen = [each for each in chosen if each.id in alive]
        rows = [row for row in rows if row["id"] not in {each.id for each in chosen}]
    else:
        rows = [row for row in rows if told.resume and row["commit"] == commit and not changed]
        chosen = [each for each in chosen if each.id not in {row["id"] for row in rows}]
    if not told.id:
        KEPT.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # The tests' own default is beside the checkout, which the copies are not in.
    os.environ.setdefault("SAIRLIB_TEST_DATA", str(TOP.parent / "shared" / "data"))

    def record(found: dict[str, Any]) -> None:
        """At once, so that what is interrupted can be resumed."""
        row = {**found, "commit": commit}
        print(f"{row['outcome']:8} {row['id']} {row['file']}:{row['line']}  {row['what']}", flush=True)
        if not told.id:
            rows.append(row)
            with KEPT.open("a") as kept:
                kept.write(json.dumps(row) + "\n")

    with (
        tempfile.TemporaryDirectory() as root,
        multiprocessing.get_context("fork").Pool(told.jobs, start, (root,)) as pool,
    ):
        asked = []
        for module in dict.fromkeys(each.module for each in chosen):
            whole = Mutant(module, f"src/sairlib/{MODULES[module][0]}", 0, "nothing", "")
            plain = pool.apply(run, (whole, [600.0] * len(MODULES[module][1]), bool(told.id)))
            print(f"{module}: the tests on the code as it is take {plain['seconds']} s", flush=True)
            if plain["outcome"] != "survived":
                sys.exit(f"{module}: the tests fail on the code as it is: call it with --id and any mutant to see how")
            limits = [20 + 5 * seconds for seconds in plain["seconds"]]
            own = [each for each in chosen if each.module == module]
            asked += [pool.apply_async(run, (each, limits, bool(told.id)), callback=record) for each in own]
        for answer in asked:
            answer.get()
    if not told.id:
        sample = f"{told.sample} of each module, seed {told.seed}" if told.sample else "all mutants"
        head = f"Commit {commit}; {sample}; {os.cpu_count()} cores, {platform.platform()}."
        (HERE / "RESULTS.md").write_text(summary(rows, head))


if __name__ == "__main__":
    main()
