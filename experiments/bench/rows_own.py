"""Rows of sairlib alone."""

import os
import statistics
import time

import generate
from harness import HERE, Answer, Bench, alternate, close, median, worktree
from tables import ratio, spread, summary
from workloads import GAMES, MILLION, ML_1M, ML_20M, PROTOCOL, SESSIONS

SASREC = "sasrec-table3/sasrec-ml-1m-sasrec"


def sair(bench: Bench) -> Answer:
    """An epoch of SAIR (L 10, K 3) and one of SASRec, both in sairlib: n 150, d 64, batch 256."""
    systems = [bench.ours(*PROTOCOL, f"model={model}") for model in ("sair", "sasrec")]
    for system, name in zip(systems, ("sair", "sasrec"), strict=True):
        system.name = name
    timed = alternate(systems, "epoch", bench.rounds)
    close(*systems)
    return {"reach": "<= 1.4 x SASRec", "seconds": spread(timed), "ratio": ratio(timed, "sair", "sasrec")}


def models(bench: Bench) -> Answer:
    """Every other model with its preset for ML-1M (its own batch, loss and negatives), compared with SASRec's preset:
    seconds an epoch, from a tenth of one; seconds to rank all users; peak memory of the process."""
    folder = HERE.parents[1] / "conf" / "experiment"
    sasrec = bench.ours(f"experiment={SASREC}")
    sasrec.name = SASREC
    tables = ("sasrec-table3/*-ml-1m-sasrec", "sasrec-protocol/*-ml-1m-sasrec", "sair-table2/sair*-ml-1m")
    paths = sorted(path for table in tables for path in folder.glob(f"{table}.yaml"))
    presets = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    figures: dict[str, Answer] = {}
    for preset in presets:
        if preset in (SASREC, "sasrec-table3/poprec-ml-1m-sasrec"):  # nothing to train in the latter
            continue
        system = bench.ours(f"experiment={preset}")
        system.name = preset
        print(f"  {preset}")
        epochs = alternate([sasrec, system], "tenth", bench.rounds)
        ranked = alternate([sasrec, system], "evaluate", 2)
        close(system)
        figures[preset] = {
            "epoch": round(median(epochs[preset], "epoch_seconds"), 1),
            "of sasrec's": ratio(epochs, preset, sasrec.name, "epoch_seconds"),
            "rank": round(median(ranked[preset]), 2),
            "rank, of sasrec's": ratio(ranked, preset, sasrec.name),
            "peak_gb": round(ranked[preset][-1]["peak_bytes"] / 1e9, 2),
        }
    close(sasrec)
    return {"reach": "none", "systems": figures}


def prepare(bench: Bench) -> Answer:
    """Seconds to read, filter (5-core), split and index 20 M rows from csv, and to load them from the cache."""
    data = generated(bench, "ml-20m")
    cache = bench.work / f"cache-{os.getpid()}"
    figures = {}
    for name in ("from csv", "from the cache"):
        filters = ("dataset.filters.user_core=5", "dataset.filters.item_core=5")
        system = bench.ours(*ML_20M, *data, f"data.cache={cache}", *filters, only="split")
        answer = system.ask("split")
        close(system)
        figures[name] = {"seconds": round(answer["seconds"], 2), "peak_gb": round(answer["peak_bytes"] / 1e9, 2)}
    return {"reach": "<= 20 s and <= 3 GB; from the cache <= 1 s", "systems": figures}


def train_20m(bench: Bench) -> Answer:
    """Training steps on ML-20M's shape and on ml-1m, the same model (SASRec, n 150, d 64, batch 256)."""
    large = bench.ours(*ML_20M, *generated(bench, "ml-20m"), f"data.cache={bench.work / 'cache'}", batches=40)
    small = bench.ours(*PROTOCOL, "model=sasrec", batches=40)
    large.name, small.name = "ml-20m's shape", "ml-1m"
    timed = alternate([large, small], "few", bench.rounds)
    close(large, small)
    speeds = {name: round(statistics.median(a["tokens_per_second"] for a in timed[name])) for name in timed}
    return {
        "reach": "memory <= 4 GB, tokens/s within 20 % of ml-1m's",
        "tokens_per_second": speeds,
        "ratio": round(speeds["ml-20m's shape"] / speeds["ml-1m"], 2),
        "peak_memory_gb": {name: round(answers[-1]["peak_bytes"] / 1e9, 2) for name, answers in timed.items()},
    }


def million(bench: Bench) -> Answer:
    """1 M items, 10 M actions: training steps and full ranking of 1,000 users, with 1 M and with 100 k users. Only the
    newest 7 steps of each train, so that batches are equally large."""
    shapes = {"1 M users": (1_000_000, 10_000_000), "100 k users": (100_000, 10_000_000)}
    systems = []
    for name, (users, actions) in shapes.items():
        data = generated(bench, name.replace(" ", "-"), users, 1_000_000, actions, 10)
        cache = f"data.cache={bench.work / 'cache'}"
        systems.append(bench.ours(*MILLION, *data, cache, batches=100, eval_users=1000))
        systems[-1].name = name
    steps = alternate(systems, "few", bench.rounds)
    ranked = alternate(systems, "evaluate", 2)
    close(*systems)
    return {
        "reach": "within 12 GB; cost of a step independent of the number of users; 1,000 users ranked in 1.5 s",
        "seconds_per_step": {name: round(median(answers) / 100, 4) for name, answers in steps.items()},
        "ratio": ratio(steps, "1 M users", "100 k users"),
        "seconds_to_rank_1000_users": {name: round(median(answers), 2) for name, answers in ranked.items()},
        "peak_memory_gb": {name: round(answers[-1]["peak_bytes"] / 1e9, 2) for name, answers in ranked.items()},
    }


def start(bench: Bench) -> Answer:
    """Seconds from the start of the process to the end of its first training step; ml-1m-sasrec from the cache."""
    seconds = []
    for _ in range(bench.rounds + 1):
        before = time.perf_counter()
        system = bench.ours(*ML_1M, batches=1)
        system.ask("few")
        seconds.append(time.perf_counter() - before)
        close(system)
    return {"reach": "<= 4 s", "seconds": {"sairlib": summary(seconds[1:])}}


def commits(bench: Bench) -> Answer:
    """Epochs and ranking at several commits of sairlib (BENCH_COMMITS="OLD NEW"), which would show a slowdown."""
    commit_names = os.environ.get("BENCH_COMMITS", "d3f4ea7 HEAD").split()
    tasks: dict[str, tuple[tuple[str, ...], str]] = {
        "epoch-ml-1m": (ML_1M, "epoch"),
        "epoch-games": (GAMES, "epoch"),
        "sair": ((*PROTOCOL, "model=sair"), "epoch"),
        "evaluation": (ML_1M, "evaluate"),
    }
    figures: dict[str, Answer] = {}
    for name, (overrides, task) in tasks.items():
        systems = []
        for commit in commit_names:
            systems.append(bench.ours(*overrides, checkout=worktree(bench, commit)))
            systems[-1].name = commit
        answers = alternate(systems, task, bench.rounds)
        close(*systems)
        figures[name] = {"seconds": spread(answers), "ratio": ratio(answers, commit_names[0], commit_names[-1])}
    return {"reach": "no slowdown", "systems": figures}


def shares(bench: Bench) -> Answer:
    """The time of a training step, or of a ranking of all users, by groups of operators: of rows that miss their reach
    and of comparable ones."""
    wanted = {
        "SASRec, ml-1m": (ML_1M, "shares"),
        "SASRec, games": (GAMES, "shares"),
        "SASRec, n 150": ((*PROTOCOL, "model=sasrec"), "shares"),
        "SAIR, n 150": ((*PROTOCOL, "model=sair"), "shares"),
        "SASRec, softmax": ((*ML_1M, "loss=softmax"), "shares"),
        "GRU4Rec, BPR-max, 128 lanes": (SESSIONS, "shares"),
        "SASRec, ml-1m, ranking": (ML_1M, "shares of ranking"),
    }
    figures: dict[str, Answer] = {}
    for name, (overrides, task) in wanted.items():
        system = bench.ours(*overrides)
        answer = system.ask(task)
        close(system)
        figures[name] = {key: answer[key] for key in ("milliseconds", "operators", "shares")}
    return {"reach": "none", "systems": figures}


def generated(bench: Bench, name: str, *shape: int) -> tuple[str, ...]:
    """Overrides for generated data of this shape (default: MovieLens-20M's), which is generated if it is missing."""
    folder = bench.work / "generated" / name / "ml-20m"
    if not (folder / "ratings.csv").exists():
        print(f"  generating {name}")
        users, items, actions, shortest = shape or (138_493, 26_744, 20_000_263, 20)
        generate.write(folder, users, items, actions, shortest, seed=1)
    return (f"data.root={folder.parent}",)
