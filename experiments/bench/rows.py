"""What the benchmark measures: a function for each row."""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import generate
from harness import HERE, Answer, Bench, System, alternate, close, median, worktree
from tables import ratio, spread, summary

# Single settings instead of a protocol, so that commits older than the protocols can be timed too.
ML_1M = ("dataset=ml-1m-sasrec", "model=sasrec", "max_len=200", "model.d=64")
GAMES = ("dataset=amazon-games", "model=sasrec", "max_len=50", "model.d=64")
BATCHES = ("training.batch_size=256", "training.betas=[0.9,0.999]")
PROTOCOL = ("dataset=ml-1m", *BATCHES, "max_len=150", "model.d=64")
ML_20M = ("dataset=ml-20m", *BATCHES, "max_len=150", "model.d=64", "model=sasrec")
MILLION = ("dataset=ml-20m", "max_len=7", "model=sasrec", "model.d=64")
SASREC = "sasrec-table3/sasrec-ml-1m-sasrec"
LOSSES: dict[str, tuple[tuple[str, ...], Answer]] = {
    "softmax": (("loss=softmax",), {"loss": "softmax"}),
    "sampled softmax, 256": (
        ("loss=sampled_softmax", "negatives.n=256"),
        {"loss": "sampled_softmax", "n_negatives": 256},
    ),
    "gBCE, 256": (("loss=gbce", "negatives.n=256"), {"loss": "gBCE", "n_negatives": 256, "gbce_t": 0.75}),
    "sampled softmax, 2,048": (
        ("loss=sampled_softmax", "negatives.n=2048"),
        {"loss": "sampled_softmax", "n_negatives": 2048},
    ),
}
"""sairlib's settings of a loss, and RecTools'. Both draw negatives for each step anew, uniformly."""
RECBOLE = {
    "SASRec": {
        "n_layers": 2,
        "n_heads": 1,
        "hidden_size": 64,
        "inner_size": 64,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.2,
        "attn_dropout_prob": 0.2,
    },
    "Caser": {"embedding_size": 50, "n_h": 16, "n_v": 4, "dropout_prob": 0.5, "reg_weight": 0.0},
    "GRU4Rec": {"embedding_size": 100, "hidden_size": 100, "num_layers": 1, "dropout_prob": 0.2},
}
"""RecBole's names and settings of models: the defaults of sairlib's."""


def epochs(bench: Bench, overrides: tuple[str, ...], n: int, reach: float) -> Answer:
    """A training epoch of SASRec (d 64, batch 128, 1 negative) in sairlib and in RecTools."""
    ours = bench.ours(*overrides)
    theirs = bench.peer("rectools", data=bench.exchange(*overrides), n=n, d=64, batch_size=128, dropout=0.2)
    timed = alternate([ours, theirs], "epoch", bench.rounds)
    flops = ours.ask("flops")
    peak = statistics.median(ours.ask("matmul")["flops_per_second"] for _ in range(5))
    close(ours, theirs)
    mine = median(timed["sairlib"])
    return {
        "reach": f">= {reach:g} x RecTools",
        "seconds": spread(timed),
        "ratio": ratio(timed, "rectools", "sairlib"),
        "tokens_per_second": round(median(timed["sairlib"], "tokens_per_second")),
        "padding_share": round(median(timed["sairlib"], "padding_share"), 3),
        "utilisation": {name: round(flops[name] / mine / peak, 3) for name in ("needed", "quoted")},
        "peak_gflops": round(peak / 1e9),
        "peak_memory_gb": {name: round(answers[-1]["peak_bytes"] / 1e9, 2) for name, answers in timed.items()},
    }


def evaluation(bench: Bench) -> Answer:
    """Ranking for all 6,040 users: sampled-100 and full together in sairlib, recommend() of 20 items in RecTools."""
    ours = bench.ours(*ML_1M)
    theirs = bench.peer("rectools", data=bench.exchange(*ML_1M), n=200, d=64, batch_size=128, dropout=0.2)
    for system in (ours, theirs):
        system.ask("epoch")
    timed = alternate([ours, theirs], "evaluate", bench.rounds)
    close(ours, theirs)
    return {"reach": ">= 12 x RecTools", "seconds": spread(timed), "ratio": ratio(timed, "rectools", "sairlib")}


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


def recbole(bench: Bench) -> Answer:
    """An epoch of ml-100k, n 50, in sairlib and in RecBole (every prefix is a sample: an epoch learns more)."""
    overrides = ("dataset=ml-100k", "model=sasrec", "max_len=50", "model.d=64")
    ours = bench.ours(*overrides)
    theirs = bench.peer("recbole", data=bench.exchange(*overrides), n=50, model="SASRec", config=RECBOLE["SASRec"])
    timed = alternate([ours, theirs], "epoch", 2)
    close(ours, theirs)
    return {"reach": "none: not the same work", "seconds": spread(timed), "ratio": ratio(timed, "recbole", "sairlib")}


def target(bench: Bench, wanted: float = 0.585, longest: float = 5.0) -> Answer:
    """Seconds of training, without validation, until NDCG@10 (sampled-100) on validation is ``wanted``; it is measured
    every 5 epochs.

    sairlib and RecTools train one epoch in turn; RecTools stops after ``longest`` times the seconds of sairlib. Of
    RecBole only a few batches are timed. They give the time of its first epoch, after which it validates for the first
    time: the least time it could need.
    """
    data = bench.exchange(*ML_1M)
    ours = bench.ours(*ML_1M)
    theirs = bench.peer("rectools", data=data, n=200, d=64, batch_size=128, dropout=0.2)
    figures = race(ours, theirs, wanted, longest)
    close(ours, theirs)
    recbole = bench.peer("recbole", data=data, n=200, model="SASRec", config=RECBOLE["SASRec"])
    recbole.ask("few")  # the first one warms up
    few_batches = recbole.ask("few")
    close(recbole)
    figures["recbole"] = {
        "seconds": round(few_batches["seconds"] * few_batches["epoch_batches"] / few_batches["batches"]),
        "epochs": 1,
        "timed": f"{few_batches['batches']} of {few_batches['epoch_batches']} batches",
    }
    mine = figures[ours.name]["seconds"]
    ratios = {name: round(figures[name]["seconds"] / mine, 1) for name in ("rectools", "recbole")}
    return {"reach": ">= 4 x RecTools, >= 20 x RecBole", "systems": figures, "ratio": ratios}


def race(ours: System, theirs: System, wanted: float, longest: float) -> dict[str, Answer]:
    """Seconds and epochs of training until NDCG@10 on validation is ``wanted``; it is measured every 5 epochs.

    The two train one epoch in turn; the peer stops after ``longest`` times the seconds of sairlib.
    """
    figures: dict[str, Answer] = {
        system.name: {"seconds": 0.0, "epochs": 0, "ndcg@10": 0.0} for system in (ours, theirs)
    }
    while training := [s for s in (ours, theirs) if figures[s.name]["ndcg@10"] < wanted]:
        if training == [theirs] and figures[theirs.name]["seconds"] > longest * figures[ours.name]["seconds"]:
            break
        for system in training:
            so_far = figures[system.name]
            so_far["seconds"] = round(so_far["seconds"] + system.ask("epoch")["seconds"], 1)
            so_far["epochs"] += 1
            if so_far["epochs"] % 5 == 0:
                so_far["ndcg@10"] = round(system.ask("evaluate")["ndcg@10"], 4)
                print(f"  {system.name}  {so_far}")
    return figures


def losses(bench: Bench) -> Answer:
    """A tenth of an epoch of SASRec with other losses (n 200, d 64, batch 128; with 2,048 negatives batch 16, because
    RecTools holds the vectors of all negatives at once): seconds of an epoch at that speed."""
    data = bench.exchange(*ML_1M)
    figures: dict[str, Answer] = {}
    for name, (overrides, options) in LOSSES.items():
        size = 16 if options.get("n_negatives", 0) > 256 else 128
        part = 0.1 * size / 128
        ours = bench.ours(*ML_1M, *overrides, f"training.batch_size={size}")
        theirs = bench.peer(
            "rectools", data=data, n=200, d=64, batch_size=size, dropout=0.2, part=part, options=options
        )
        print(f"  {name}")
        timed = alternate([ours, theirs], "tenth", bench.rounds)
        close(ours, theirs)
        seconds = {system: round(median(answers, "epoch_seconds"), 1) for system, answers in timed.items()}
        figures[name] = {**seconds, "ratio": ratio(timed, "rectools", "sairlib", "epoch_seconds")}
    return {"reach": ">= 12 x RecTools (softmax), >= 5 x (the others)", "systems": figures}


def bpr_max(bench: Bench) -> Answer:
    """A tenth of an epoch of GRU4Rec by session-parallel mini-batches (128 lanes, d 100, BPR-max, 2,048 negatives by
    count ^ 0.75) in sairlib and in its authors' PyTorch code: thousand sequence steps a second.

    ``BENCH_GRU4REC`` names a checkout of https://github.com/hidasib/GRU4Rec_PyTorch_Official.
    """
    code = os.environ.get("BENCH_GRU4REC", "")
    if not code:
        raise FileNotFoundError("BENCH_GRU4REC does not name a checkout of GRU4Rec's authors' PyTorch code")
    size, part = 128, 0.1
    options = ("model=gru4rec-plus", "objective=session_parallel", "negatives=popular", "negatives.n=2048")
    steps = (f"training.batch_size={size}", "max_len=200")
    ours = bench.ours("dataset=ml-1m-sasrec", *options, *steps)
    theirs = bench.peer(
        "gru4rec",
        data=bench.exchange(*ML_1M),
        code=code,
        n=200,
        d=100,
        batch_size=size,
        negatives=2048,
        power=0.75,
        part=part,
    )
    timed = alternate([ours, theirs], "tenth", bench.rounds)
    close(ours, theirs)
    speeds = {name: round(median(answers, "tokens_per_second") / 1e3, 1) for name, answers in timed.items()}
    return {
        "reach": ">= 5 x the authors' code",
        "thousand_steps_a_second": speeds,
        "ratio": ratio(timed, "sairlib", "gru4rec", "tokens_per_second"),
    }


def bert4rec(bench: Bench) -> Answer:
    """A tenth of an epoch of BERT4Rec (n 200, d 64, 2 heads, batch 128, softmax over all items) in sairlib and in
    RecTools."""
    part = 0.1
    options = ("model=bert4rec", "objective.mask_share=0.15", "objective.last_share=0", "training.batch_size=128")
    ours = bench.ours("dataset=ml-1m-sasrec", "max_len=200", "model.d=64", *options)
    theirs = bench.peer(
        "rectools",
        data=bench.exchange(*ML_1M),
        n=200,
        d=64,
        batch_size=128,
        dropout=0.2,
        part=part,
        model="BERT4Rec",
        options={"loss": "softmax", "n_heads": 2, "mask_prob": 0.15},
    )
    timed = alternate([ours, theirs], "tenth", bench.rounds)
    close(ours, theirs)
    return {
        "reach": ">= 4 x RecTools",
        "seconds_an_epoch": {name: round(median(answers, "epoch_seconds"), 1) for name, answers in timed.items()},
        "ratio": ratio(timed, "rectools", "sairlib", "epoch_seconds"),
    }


def small(bench: Bench, wanted: float = 0.38, longest: float = 20.0) -> Answer:
    """Seconds of training of Caser and GRU4Rec on ml-100k (n 50), without validation, until NDCG@10 (sampled-100) on
    validation is ``wanted``; it is measured every 5 epochs. RecBole stops after ``longest`` times the seconds of
    sairlib. Its loss is BPR with one negative; sairlib's are those of its models' settings."""
    figures: dict[str, Answer] = {}
    for model, options in {"Caser": ("objective.n_targets=3", "negatives.n=3"), "GRU4Rec": ()}.items():
        overrides = ("dataset=ml-100k", f"model={model.lower()}", "max_len=50", *options)
        ours = bench.ours(*overrides)
        theirs = bench.peer("recbole", data=bench.exchange("dataset=ml-100k"), n=50, model=model, config=RECBOLE[model])
        both = race(ours, theirs, wanted, longest)
        close(ours, theirs)
        seconds = {name: figure["seconds"] for name, figure in both.items()}
        figures[model] = {
            **{f"{name} {key}": value for name, figure in both.items() for key, value in figure.items()},
            "ratio": round(seconds["recbole"] / seconds["sairlib"], 1),
        }
    return {"reach": ">= 10 x RecBole", "systems": figures}


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
    """The time of a training step by groups of operators, for rows that miss their reach and for comparable ones."""
    figures: dict[str, Answer] = {}
    wanted = {"SASRec, ml-1m": ML_1M, "SASRec, games": GAMES, "SASRec, n 150": (*PROTOCOL, "model=sasrec")}
    for name, overrides in {**wanted, "SAIR, n 150": (*PROTOCOL, "model=sair")}.items():
        system = bench.ours(*overrides)
        answer = system.ask("shares")
        close(system)
        figures[name] = {key: answer[key] for key in ("milliseconds_a_step", "operators_a_step", "shares")}
    return {"reach": "none", "systems": figures}


def generated(bench: Bench, name: str, *shape: int) -> tuple[str, ...]:
    """Overrides for generated data of this shape (default: MovieLens-20M's), which is generated if it is missing."""
    folder = bench.work / "generated" / name / "ml-20m"
    if not (folder / "ratings.csv").exists():
        print(f"  generating {name}")
        users, items, actions, shortest = shape or (138_493, 26_744, 20_000_263, 20)
        generate.write(folder, users, items, actions, shortest, seed=1)
    return (f"data.root={folder.parent}",)


ROWS: dict[str, Callable[[Bench], Answer]] = {
    "epoch-ml-1m": partial(epochs, overrides=ML_1M, n=200, reach=6),
    "epoch-games": partial(epochs, overrides=GAMES, n=50, reach=12),
    "sair": sair,
    "models": models,
    "evaluation": evaluation,
    "losses": losses,
    "bpr-max": bpr_max,
    "bert4rec": bert4rec,
    "recbole": recbole,
    "target": target,
    "small": small,
    "prepare-20m": prepare,
    "train-20m": train_20m,
    "million": million,
    "start": start,
    "commits": commits,
    "shares": shares,
}
