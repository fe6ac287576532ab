"""What may happen to a grid: jobs that fail, a process that is killed, records that are damaged."""

import io
import json
import os
import random
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from command_helpers import write_ratings
from fault import LostError, fault
from hydra.core.global_hydra import GlobalHydra

from sairlib import job, train
from sairlib.errors import UserError
from sairlib.run.jobs import report

TINY = ("device=cpu", "model=sasrec", "model.d=8", "max_len=8", "training.batch_size=16", "evaluation.n_candidates=5")
TEST = {"full": {"ndcg@10": 0.25, "hr@10": 0.5}, "ci95": {"full": {}}}
ERRORS: tuple[BaseException, ...] = (
    *(UserError("no luck"), UserError("two\nlines"), ZeroDivisionError("a bug"), AssertionError(), MemoryError()),
    *(OSError(28, "No space left on device"), RecursionError("too deep")),
)


@fault("a job of a grid fails, or has a bug", tries=20, few=1)
def a_job_fails(home: Path, generator: random.Random) -> None:
    n_jobs = generator.randint(1, 5)
    failing = {seed: generator.choice(ERRORS) for seed in range(n_jobs) if generator.random() < 0.5}

    def trained(config: Any, directory: Path, rule: Any) -> float:
        if config.seed in failing:
            raise failing[config.seed]
        (directory / "test.json").write_text(json.dumps(TEST))
        return 0.5

    out, err = io.StringIO(), io.StringIO()
    words = ["-m", f"hydra.sweep.dir={home / 'sweep'}", f"seed={','.join(map(str, range(n_jobs)))}"]
    with (
        patch.object(job, "train", trained),
        patch.object(sys, "argv", ["train", *words]),
        patch.dict(os.environ),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            train.main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            GlobalHydra.instance().clear()
    if code != min(1, len(failing)):
        raise LostError(f"exit code {code} with {len(failing)} failed jobs: {err.getvalue()}")
    if "Traceback" in out.getvalue() + err.getvalue() or err.getvalue().count("\n") != bool(failing):
        raise LostError(f"more than a line on the terminal: {err.getvalue()}")
    jobs = json.loads((home / "sweep" / "grid.json").read_text())["jobs"]
    if [job["status"] for job in jobs] != ["failed" if seed in failing else "finished" for seed in range(n_jobs)]:
        raise LostError(f"the table says {jobs}")


@fault("the records of a grid's jobs are damaged", tries=300, few=5)
def damaged_records(home: Path, generator: random.Random) -> None:
    for number in range(3):
        (home / str(number)).mkdir()
        record = {"number": number, "words": [f"seed={number}"], "status": "finished", "value": 0.5, "monitor": "x@1"}
        for name, values in (("job.json", record), ("test.json", TEST)):
            text = _damaged(json.dumps(values), generator) if generator.random() < 0.7 else json.dumps(values)
            (home / str(number) / name).write_bytes(text.encode(errors="surrogateescape"))
    try:
        report(home).write(home)
    except UserError as error:
        if "holds no jobs" not in str(error):
            raise LostError(str(error)) from error


def _damaged(text: str, generator: random.Random) -> str:
    kind = generator.randrange(4)
    if kind == 0:
        return text[: generator.randrange(len(text))]
    if kind == 1:
        place = generator.randrange(len(text))
        return text[:place] + chr(generator.randrange(1, 256)) + text[place + 1 :]
    if kind == 2:
        return generator.choice(["", "null", "[]", "3", '"x"', "[" * 5000, "{}", '{"number": 1}', "\udcff"])
    values = json.loads(text)
    values[generator.choice(list(values))] = generator.choice([None, [], {}, "x", 1e400, -1, [None], {"a": []}, True])
    return json.dumps(values)


@fault("a grid is killed and started again", tries=10, few=0)
def killed(home: Path, generator: random.Random) -> None:
    walks = [(user, (3 * user + step) % 25) for user in range(20) for step in range(9)]
    write_ratings(home / "data" / "ml-latest-small" / "ratings.csv", walks)
    environment = {**os.environ, "SAIRLIB_DATA": str(home / "data"), "SAIRLIB_CACHE": str(home / "cache")}

    def command(sweep: str) -> "subprocess.Popen[str]":
        words = ["-m", *TINY, "training.epochs=15", "seed=1,2,3", f"hydra.sweep.dir={sweep}"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        arguments = [sys.executable, "-m", "sairlib.train", *words]
        return subprocess.Popen(arguments, env=environment, cwd=home, **pipes)

    start = time.perf_counter()
    unharmed = command("unharmed")
    unharmed.communicate(timeout=250)
    took = time.perf_counter() - start
    for _ in range(2):
        with command("killed") as process:
            time.sleep(generator.uniform(0.2, 1.0) * took)
            process.kill()
    again = command("killed")
    text, _ = again.communicate(timeout=250)
    if again.returncode != 0 or "Traceback" in text:
        raise LostError(text)
    for number in range(3):
        one, other = (home / sweep / str(number) / "test.json" for sweep in ("unharmed", "killed"))
        if one.read_text() != other.read_text():
            raise LostError(f"job {number} has other figures than without the kill")
