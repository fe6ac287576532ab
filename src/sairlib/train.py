"""``python -m sairlib.train``: data to trained model to honest table, all of it kept in one run directory."""

import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sairlib import build, checkpoint, report, runtime
from sairlib.commands import CONFIG_PATH, run_command
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Part, Split
from sairlib.errors import UserError
from sairlib.evaluator import EvaluationSettings, Evaluator
from sairlib.models.recommender import Recommender
from sairlib.objectives import NextItem
from sairlib.runlog import RunLog, write_json, write_whole
from sairlib.trainer import Trainer


def train(config: DictConfig, directory: Path) -> dict[str, object]:
    """Train and test one model; the test split is touched once, after training, with the weights validation chose."""
    started = time.perf_counter()
    training, evaluation = build.training(config), build.settings(config, "evaluation", EvaluationSettings)
    state = _state_to_resume(config, directory)
    device = runtime.choose_device(config.device)
    runtime.seed_everything(config.seed)
    split = build.split(config)
    model = build.model(config, split, device)
    store = SequenceStore(split, config.max_len, device)
    evaluator = Evaluator(split, store, evaluation)
    objective = NextItem(training.n_negatives)
    trainer = Trainer(model, objective, store, evaluator, training, config.seed, build.identity(config, split))
    if state is not None:
        trainer.restore(state, directory / "last.pt")
    prepared = time.perf_counter()

    record = {
        "command": shlex.join(["python", "-m", "sairlib.train", *sys.argv[1:]]),
        **runtime.describe(device),
        "seed": config.seed,
        "dataset": config.dataset.name,
        "dataset_sha256": split.dataset.sha256(),
        "split_sha256": split.sha256(),
        "candidates_sha256": evaluator.drawn.sha256() if evaluator.drawn else None,
        "n_parameters": model.n_parameters(),
    }
    _open_directory(config, directory, record)
    log = RunLog(directory, trainer.progress.epoch, trainer.progress.step)
    try:
        _introduce(config, split, evaluator, model, device, log)
        try:
            trainer.fit(log, directory)
        except KeyboardInterrupt:
            log.say(f"interrupted; go on with resume=true run_dir={directory}")
            raise
        trained = time.perf_counter()

        best = checkpoint.load(directory / "best.pt", device)
        checkpoint.load_weights(model, best, trainer.identity, directory / "best.pt")
        ranks = evaluator.rank(model, Part.TEST)
        found = report.results(evaluator, ranks, split, best["epoch"])
        report.save_ranks(directory / "ranks.npz", ranks, split)
        write_json(directory / "test.json", found)
        seconds = {
            "preparing": prepared - started,
            "training_and_validation": trainer.progress.seconds,
            "test": time.perf_counter() - trained,
        }
        record["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        record["peak_memory_bytes"] = runtime.peak_memory_bytes()
        write_json(directory / "run.json", record)
        log.final(_flat(config), {f"test/{r}/{name}": value for r in ranks for name, value in found[r].items()})
        if best["epoch"] == training.epochs:
            log.say("the best epoch is the last: more epochs would likely give better figures")
        log.say(f"\n{report.table(found)}\n\nbest epoch {best['epoch']}; everything is kept in {directory}")
    finally:
        log.close()
    return found


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
    config: DictConfig, split: Split, evaluator: Evaluator, model: Recommender, device: object, log: RunLog
) -> None:
    data = split.dataset
    log.text("config", OmegaConf.to_yaml(config, resolve=True))
    log.say(
        f"{config.dataset.name}: {data.n_users:,} users, {data.n_items:,} items, {len(data.items):,} actions,"
        f" {data.n_categories} categories; split {split.sha256()}"
    )
    if split.n_short:
        log.say(f"{split.n_short:,} users have fewer than 3 actions: they train and are not evaluated")
    if evaluator.drawn and evaluator.drawn.n_short:
        log.say(f"{evaluator.drawn.n_short:,} users have fewer unseen items than asked for, and are ranked against those")
    if "interests" in config and "n_interests" not in config.model:
        log.say(f"{type(model).__name__} has no interest pool: interests.* is without effect")
    log.say(f"{type(model).__name__}: {model.n_parameters():,} parameters on {device}")


def _flat(config: DictConfig) -> dict[str, object]:
    groups = ("model", "interests", "training", "dataset.name", "max_len", "seed")
    flat: dict[str, object] = {}
    for group in groups:
        value = OmegaConf.select(config, group)
        if isinstance(value, DictConfig):
            flat |= {f"{group}.{key}": value[key] for key in value}
        else:
            flat[group] = value
    return flat


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="train")
def _hydra_main(config: DictConfig) -> float:
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        found = train(config, directory)
    except BaseException:
        # Hydra has made the directory before anything could be checked; an empty one is not worth keeping.
        for made in (directory, directory.parent):
            with suppress(OSError):
                made.rmdir()
        raise
    ranking, _, metric = config.training.monitor.partition("/")
    return float(found[ranking][metric])  # type: ignore[index]


def main() -> None:
    """The console script ``sairlib-train``."""
    run_command(_hydra_main)


if __name__ == "__main__":
    main()
