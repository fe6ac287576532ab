"""Rows of sairlib beside its peers."""

import os
import statistics

from harness import Answer, Bench, System, alternate, close, median
from tables import ratio, spread
from workloads import ML_1M, SESSIONS

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
    ours = bench.ours(*SESSIONS)
    theirs = bench.peer(
        "gru4rec",
        data=bench.exchange(*ML_1M),
        code=code,
        n=200,
        d=100,
        batch_size=128,
        negatives=2048,
        power=0.75,
        part=0.1,
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
