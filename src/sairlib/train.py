"""``python -m sairlib.train``: data to trained model to honest table, all of it kept in one run directory."""

import os
import shlex
import shutil
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from sairlib import build, checkpoint, report, runtime
from sairlib.commands import CONFIG_PATH, plain_errors, run_command
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part, Split
from sairlib.errors import UserError
from sairlib.evaluator import EvaluationSettings, Evaluator
from sairlib.models.recommender import Recommender
from sairlib.runlog import RunLog, write_json, write_whole
from sairlib.trainer import Trainer, TrainingSettings


def train(config: DictConfig, directory: Path) -> float:
    """Train and test one model; the test split is touched once, after training, with the weights validation chose.

    Returns the best VALIDATION figure of ``training.monitor``, which is all that a search over settings may see.
    """
    started = time.perf_counter()
    build.check_run(config)
    training = build.settings(config, "training", TrainingSettings)
    evaluation = build.settings(config, "evaluation", EvaluationSettings)
    state = _state_to_resume(config, directory)
    device = runtime.choose_device(config.device)
    runtime.seed_everything(config.seed)
    runtime.keep_freed_memory()
    split = build.split(config)
    model = build.model(config, split, device)
    store = SequenceStore(split, config.max_len, device)
    evaluator = Evaluator(split, store, evaluation)
    objective = build.objective(config, store, training)
    trainer = Trainer(model, objective, store, evaluator, training, config.seed, build.identity(config, split))
    if state is not None:
        trainer.restore(state, directory / "last.pt")
    record = {
        "command": shlex.join(["python", "-m", "sairlib.train", *sys.argv[1:]]),
        **runtime.describe(device),
        "seed": config.seed,
        "dataset": config.dataset.name,
        "dataset_sha256": split.dataset.sha256(),
        "split_sha256": split.sha256(),
        "candidates_sha256": evaluator.drawn.sha256() if evaluator.drawn else None,
        "n_parameters": model.n_parameters(),
        "seconds": {"preparing": round(time.perf_counter() - started, 3)},
    }
    try:
        _open_directory(config, directory, record)
        with closing(RunLog(directory, trainer.progress.epoch, trainer.progress.step)) as log:
            _introduce(config, split, evaluator, model, device, log)
            if objective.full:
                log.say("the loss is over all items: no negatives are drawn, training.n_negatives is without effect")
            trainer.fit(log, directory)
            _test(config, directory, record, split, trainer, log)
            return trainer.progress.best[training.monitor]
    except KeyboardInterrupt:
        if (directory / "last.pt").exists():
            print(f"go on with resume=true run_dir={os.path.relpath(directory)}", file=sys.stderr)
        raise
    finally:
        if not (directory / "last.pt").exists():
            _forget(directory)


def _test(
    config: DictConfig, directory: Path, record: dict[str, Any], split: Split, trainer: Trainer, log: RunLog
) -> None:
    """Rank the test items with the best weights, write down what comes, and show it."""
    started = time.perf_counter()
    best = checkpoint.load(directory / "best.pt", trainer.store.device)
    checkpoint.load_weights(trainer.model, best, trainer.identity, directory / "best.pt")
    ranks = trainer.evaluator.rank(trainer.model, Part.TEST)
    found = report.results(trainer.evaluator, ranks, split, best["epoch"])
    report.save_ranks(directory / "ranks.npz", ranks, split)
    write_json(directory / "test.json", found)
    record["seconds"] |= {
        "training_and_validation": round(trainer.progress.seconds, 3),
        "test": round(time.perf_counter() - started, 3),
    }
    write_json(directory / "run.json", {**record, "peak_memory_bytes": runtime.peak_memory_bytes()})
    log.final(_flat(config), {f"test/{r}/{name}": value for r in ranks for name, value in found[r].items()})
    if best["epoch"] == trainer.settings.epochs:
        log.say("the best epoch is the last: more epochs would likely give better figures")
    log.say(f"\n{report.table(found)}")
    log.say(f"\nbest epoch {best['epoch']}; everything is kept in {os.path.relpath(directory)}")


def _forget(directory: Path) -> None:
    """Remove what a run has written that has come to nothing, so that its directory can be used again."""
    for written in ("config.yaml", "run.json", "metrics.jsonl", "best.pt", "events.out.tfevents.*"):
        for path in directory.glob(written):
            path.unlink(missing_ok=True)
    shutil.rmtree(directory / ".hydra", ignore_errors=True)


def _state_to_resume(config: DictConfig, directory: Path) -> dict[str, object] | None:
    """The state to go on from, or None for a fresh run; UserError if the directory does not fit the wish."""
    held = (directory / "config.yaml").exists() or (directory / "last.pt").exists()
    if config.resume:
        return checkpoint.load(directory / "last.pt")
    if held:
        raise UserError(f"run_dir={directory} already holds a run: choose another, or go on with it by resume=true")
    return None


def _open_directory(config: DictConfig, directory: Path, record: dict[str, object]) -> None:
    write_whole(directory / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    write_json(directory / "run.json", record)
    hydra_config = HydraConfig.get()
    with suppress(FileExistsError):
        (directory / ".hydra").mkdir()
    for name, part in (("config", config), ("hydra", hydra_config), ("overrides", hydra_config.overrides.task)):
        text = OmegaConf.to_yaml(OmegaConf.create({"hydra": part}) if name == "hydra" else part)
        write_whole(directory / ".hydra" / f"{name}.yaml", text)


def _introduce(
    config: DictConfig, split: Split, evaluator: Evaluator, model: Recommender, device: torch.device, log: RunLog
) -> None:
    data = split.dataset
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        log.say(f"\njob {HydraConfig.get().job.num}: {' '.join(HydraConfig.get().overrides.task)}")
    log.text("config", OmegaConf.to_yaml(config, resolve=True))
    log.say(
        f"{config.dataset.name}: {data.n_users:,} users, {data.n_items:,} items, {len(data.items):,} actions,"
        f" {data.n_categories} categories; split {split.sha256()}"
    )
    if split.n_short:
        log.say(f"{split.n_short:,} users have fewer than 3 actions: they train and are not evaluated")
    if evaluator.drawn and evaluator.drawn.n_short:
        log.say(
            f"{evaluator.drawn.n_short:,} users have fewer unseen items than asked for, and are ranked against those"
        )
    if "interests" in config and "n_interests" not in config.model:
        log.say(f"{type(model).__name__} takes nothing from interests.*")
    log.say(f"{type(model).__name__}: {model.n_parameters():,} parameters on {device}")


def _flat(config: DictConfig) -> dict[str, object]:
    groups = ("model", "interests", "training", "dataset.name", "max_len", "seed")
    flat: dict[str, object] = {}
    for group in groups:
        value = OmegaConf.select(config, group)
        if isinstance(value, DictConfig):
            flat |= {f"{group}.{key}": value[key] for key in map(str, value)}
        else:
            flat[group] = value
    return flat


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="train")
def _hydra_main(config: DictConfig) -> float:
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        with plain_errors():
            return train(config, directory)
    except BaseException:
        # Hydra has made the directory before anything could be checked; what is empty is not worth keeping.
        here = Path.cwd()
        for made in (directory, *directory.parents[:2]):
            if made not in (here, *here.parents):
                with suppress(OSError):
                    made.rmdir()
        raise


def _as_it_began(words: list[str]) -> list[str]:
    """The command line; where a run is to go on, after what that run was started with and is not said anew."""

    def keys(of: list[str]) -> dict[str, str]:
        return {name.lstrip("+~"): value for name, _, value in (word.partition("=") for word in of)}

    said = keys(words)
    kept = Path(said.get("run_dir", "").strip("'\"")) / ".hydra" / "overrides.yaml"
    if said.get("resume", "").lower() != "true" or not kept.exists():
        return words
    begun = [str(word) for word in build.read_kept(kept, ListConfig)]
    return [*(word for word in begun if not keys([word]).keys() & said.keys()), *words]


def main() -> None:
    """The console script ``sairlib-train``."""
    with plain_errors():
        sys.argv[1:] = _as_it_began(sys.argv[1:])
    run_command(_hydra_main)


if __name__ == "__main__":
    main()
