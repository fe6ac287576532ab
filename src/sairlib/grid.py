"""Grids: what ``-m`` adds to ``python -m sairlib.train``. A job that fails does not end the others.

``python -m sairlib.grid DIR`` prints the table of the grid in DIR, also while it runs.
"""

import logging
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sairlib.commands import plain_errors, run_command
from sairlib.errors import NonFiniteError, UserError, one_line
from sairlib.run.jobs import OUTPUT, Job, read_job, read_jobs, report
from sairlib.run.median import MedianRule, MedianSettings
from sairlib.run.progress import ENDED, Progress

EXTRAS = {
    "joblib": "joblib",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "optuna": "optuna",
    "ray": "ray",
}
"""Which optional extra of this package brings a launcher or a sweeper."""
MAY_DIFFER = ("device", "threads", "evaluation.batch_size")
"""What may be other in a job that is finished already: where it ran, not what it computed."""
NO_BEST_TRIAL = ("No trials are completed yet.", "Record does not exist.")
"""What Optuna's sweeper raises at its end if all trials failed, without and with a file for the study."""
_THREADS = "OMP_NUM_THREADS"


Train = Callable[[DictConfig, Path, MedianRule | None], float]


class _Running:
    """The grid that this process conducts, if it does."""

    progress: Progress | None = None
    set_threads = False


class Grid(Callback):
    """Hydra's callback (``hydra.callbacks`` in ``conf/train.yaml``): starts what ``conduct`` ends.

    ``median``, the values of ``MedianSettings``, is read by ``median_rule`` in each job.
    """

    def __init__(self, median: Mapping[str, Any] | None = None) -> None:
        pass

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Begin to watch the directory of the grid, and give each of its jobs its share of the cores."""
        with plain_errors():  # its exit passes through Hydra, which turns any exception of a callback into a warning
            sweep = Path(config.hydra.sweep.dir)
            try:
                sweep.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=sweep):
                    pass
            except OSError as error:
                raise UserError(f"cannot write in hydra.sweep.dir={sweep} ({error.strerror or error})") from error
            _median_settings(OmegaConf.select(config, "hydra.callbacks.grid.median"))
            swept = _swept(config)
            n_jobs = OmegaConf.select(config, "hydra.sweeper.n_trials")
            if n_jobs is None:
                n_jobs = None if None in swept.values() else math.prod(n for n in swept.values() if n)
            batch = OmegaConf.select(config, "hydra.sweeper.max_batch_size") or n_jobs
            if "n_trials" in config.hydra.sweeper:
                batch = config.hydra.sweeper.n_jobs
            threads = threads_of_a_job(config.hydra.launcher, batch, _n_cpus())
            if threads is not None and _THREADS not in os.environ:
                os.environ[_THREADS] = str(threads)
                _Running.set_threads = True
            logging.getLogger("hydra_plugins").addHandler(logging.NullHandler())  # a failure has its line already
            _Running.progress = Progress(sweep, n_jobs, list(swept), sys.stdout)
            _Running.progress.start()


def conduct(hydra_main: Callable[[], object]) -> None:
    """Run a Hydra main, as the inside of ``run_command``. If that was a grid, end with its table.

    Exit code 1 if a job failed. UserError if a plugin is missing, or the process of a job was killed.
    """
    try:
        _explained(hydra_main)
    finally:
        n_failed = _end()
    if n_failed:
        sys.exit(1)


def median_rule(config: DictConfig) -> MedianRule | None:
    """The rule by which this job of a grid may stop early; None without ``hydra.callbacks.grid.median``."""
    own = HydraConfig.get()
    settings = _median_settings(own.callbacks.get("grid", {}).get("median"))
    if own.mode != RunMode.MULTIRUN or settings is None:
        return None
    return MedianRule(Path(own.sweep.dir), config.training.monitor, settings)


def run_job(train: Train, config: DictConfig, directory: Path) -> float | None:
    """A job of a grid: what it prints goes to ``output.txt`` in its directory, how it ended to ``job.json``.

    Returns what ``train`` returns: the best validation figure. None if the job failed: the basic sweeper goes on with
    the next, and Optuna's counts a failed trial. A job that finished in an earlier grid is not run again.
    UserError if the directory holds a run of other settings, or cannot be written.
    """
    own = HydraConfig.get()
    rule = median_rule(config)
    job = Job(own.job.num, words_of_job())
    check_same(config, directory)
    before = read_job(directory)
    if before is not None and before.value is not None and (directory / "test.json").exists():
        replace(before, number=job.number, words=job.words, again=True, ended=time.time()).write(directory)
        return before.value
    job.write(directory)
    start = time.perf_counter()

    def end(status: str, **values: Any) -> None:
        seconds = round(time.perf_counter() - start, 3)
        replace(job, status=status, seconds=seconds, ended=time.time(), **values).write(directory)

    try:
        with open(directory / OUTPUT, "a", buffering=1) as output, redirect_stdout(output), redirect_stderr(output):
            try:
                value = train(config, directory, rule)
            except (UserError, NonFiniteError, HydraException, OmegaConfBaseException) as error:
                reason = one_line(error)
                print(f"error: {reason}", file=output)
            except Exception as error:  # a bug: it must not end the other jobs either
                reason = f"{type(error).__name__}: {one_line(error)}"
                traceback.print_exc(file=output)
            else:
                end("finished", value=value, monitor=config.training.monitor, reason=rule.verdict if rule else "")
                return value
    except BaseException:
        end("interrupted")
        raise
    end("failed", reason=reason)
    return None


def check_same(config: DictConfig, directory: Path) -> None:
    """UserError if ``directory`` holds a run of other settings than ``config``, with the first differences."""
    from sairlib.run import changes

    path = directory / "config.yaml"
    if not path.exists():
        return
    here = changes.flat(OmegaConf.to_yaml(config, resolve=True), path)
    other = {
        name: pair for name, pair in changes.differences(changes.read(path), here).items() if name not in MAY_DIFFER
    }
    if other:
        shown = ", ".join(f"{name}={there} there, {now} here" for name, (there, now) in list(other.items())[:3])
        raise UserError(
            f"{directory} holds a run of other settings ({shown}{', ...' if len(other) > 3 else ''}): the same"
            " hydra.sweep.dir takes the same grid; choose another for another grid"
        )


def threads_of_a_job(launcher: Mapping[str, Any], n_jobs: int | None, n_cpus: int) -> int | None:
    """How many threads each of the jobs that run at once may take; None where the launcher or the cluster decides.

    ``n_jobs``: the most that can run at once, if it is known.
    """
    kind = str(launcher["_target_"]).rpartition(".")[2]
    if kind == "JoblibLauncher":
        workers: int = launcher["n_jobs"] if launcher["n_jobs"] > 0 else max(1, n_cpus + 1 + launcher["n_jobs"])
        return max(1, n_cpus // min(workers, n_jobs or workers))
    if kind in ("LocalLauncher", "SlurmLauncher") and launcher["cpus_per_task"]:
        return int(launcher["cpus_per_task"])
    if kind == "LocalLauncher":  # it starts all jobs at once
        return max(1, n_cpus // (n_jobs or n_cpus))
    return None


def words_of_job() -> list[str]:
    """The words of the command line that run this job alone, on any machine: without those of the grid."""
    return [word for word in map(str, HydraConfig.get().overrides.task) if not word.startswith("grid=")]


def _median_settings(values: object) -> MedianSettings | None:
    if values is None:
        return None
    from sairlib import make  # here: it loads torch

    return make.settings(OmegaConf.create({"median": values}), "median", MedianSettings)


def _explained(hydra_main: Callable[[], object]) -> None:
    """Run a Hydra main; UserError for a launcher that is not installed, and where the process of a job was killed."""
    try:
        hydra_main()
    except Exception as error:
        # Before a job has begun in this process, all errors are taken for errors in the words.
        cause = error.__cause__ if isinstance(error, UserError) and error.__cause__ is not None else error
        if isinstance(cause, MissingConfigException):
            option = str(cause.missing_cfg_file).rpartition("/")[2]
            if option in EXTRAS:
                raise UserError(f"{option} is not installed: pip install 'sairlib[{EXTRAS[option]}]'") from error
        if isinstance(cause, _killed()):
            reason = one_line(cause)[:160]
            raise UserError(f"the process of a job was killed (out of memory, or of time?): {reason}") from error
        if not (isinstance(cause, ValueError) and str(cause) in NO_BEST_TRIAL):
            raise


def _killed() -> tuple[type[Exception], ...]:
    """What launchers raise if the process of a job is gone."""
    try:
        from submitit.core.utils import FailedJobError, UncompletedJobError
    except ImportError:
        return (BrokenProcessPool,)
    return (BrokenProcessPool, UncompletedJobError, FailedJobError)


def _end() -> int:
    """Stop watching the grid, if there is one; write and print its table. Returns how many of its jobs failed."""
    progress, _Running.progress = _Running.progress, None
    if _Running.set_threads:
        del os.environ[_THREADS]
        _Running.set_threads = False
    if progress is None:
        return 0
    with plain_errors():
        progress.stop()
        if progress.done:
            result = report(progress.sweep, progress.n_jobs)
            result.write(progress.sweep)
            print(f"\n{result.text}; this table stands in {progress.sweep / 'grid.md'}", flush=True)
        if any(job.status not in ENDED for job in read_jobs(progress.sweep).values()):
            print(f"the same command with hydra.sweep.dir={progress.sweep} goes on with what is left", file=sys.stderr)
    n_failed = sum(job.status == "failed" for job in progress.done.values())
    if n_failed:
        print(f"error: {n_failed} of {len(progress.done)} jobs failed", file=sys.stderr)
    return n_failed


def _swept(config: DictConfig) -> dict[str, int | None]:
    """The settings that the sweep changes, and how many values each takes; None for a range of real numbers."""
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    given = {word.partition("=")[0] for word in config.hydra.overrides.task}  # these replace what a table sweeps
    words = [*(f"{key}={value}" for key, value in params.items() if key not in given), *config.hydra.overrides.task]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return {
        override.get_key_element().lstrip("+~"): (
            len(list(override.sweep_string_iterator())) if override.is_discrete_sweep() else None
        )
        for override in parser.parse_overrides(words)
        if override.is_sweep_override()
    }


def _n_cpus() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _command(words: list[str]) -> None:
    if len(words) != 1:
        raise UserError("which grid? Give its directory: python -m sairlib.grid DIR")
    print(report(Path(words[0])).text)


def main() -> None:
    """``python -m sairlib.grid DIR``."""
    run_command(_command, lambda: str(__doc__))


if __name__ == "__main__":
    main()
