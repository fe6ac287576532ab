"""Golden runs: the losses of 20 training steps of every model, and its ranks after them.

    python tests/golden/golden.py                     every run as JSON, to standard output
    python tests/golden/golden.py sasrec sair         only these runs
    python tests/golden/golden.py --commits OLD NEW   runs two commits on this machine; exit code 1 if a digit differs
    python tests/golden/golden.py --keep              writes tests/golden/golden.json, which the tests compare with

One thread, a fixed seed, and the MovieLens data that ships with sairlib. On one machine, a commit that only moves code
leaves every digit equal. Between processors the last digits differ, so the tests compare with ``golden.json`` within a
tolerance. Each commit runs its own copy of this file: its calls into the library may change, its output must not.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import torch

from sairlib import build
from sairlib.data.split import Part

HERE = Path(__file__).resolve().parent
CONF = HERE.parents[1] / "conf"
RECORDED = HERE / "golden.json"
STEPS = 20

SLOW_TO_RANK = dict.fromkeys(("din", "dien"), ("evaluation.full=false", "training.monitor=sampled/ndcg@10"))
"""A user's state depends on the candidate there: among all items, ranking takes a hundred times what training does."""
MODELS = {
    path.stem: (f"model={path.stem}", *SLOW_TO_RANK.get(path.stem, ()))
    for path in sorted((CONF / "model").glob("*.yaml"))
}
OPTIONS = {
    "sasrec, options": (
        "model=sasrec",
        "model.norm=post",
        "model.n_heads=2",
        "model.shared_item_embedding=false",
        "model.user_embedding=true",
        "model.attention_dropout=0.1",
        "model.output_projection=true",
    ),
    "sasrec, no residual": ("model=sasrec", "model.residual=false", "model.positional_embedding=false"),
    "sasrec, gbce": ("model=sasrec", "loss=gbce", "negatives.n=8"),
    "sasrec, softmax": ("model=sasrec", "loss=softmax", "training.weight_decay=0.01", "training.grad_clip=1.0"),
    "sasrec, sampled softmax": ("model=sasrec", "loss=sampled_softmax", "negatives.n=16"),
    "sasrec, shared": ("model=sasrec", "loss=bpr", "negatives=shared", "negatives.n=16"),
    "gru4rec-plus, popular": ("model=gru4rec-plus", "negatives=popular", "negatives.n=64"),
    "gru4rec, untied": ("model=gru4rec", "model.tied=false", "model.d_hidden=60", "model.n_layers=2"),
    "sair, raw": ("model=sair", "model.weights=raw", "model.interest_ffn=shared", "model.interaction_residual=true"),
    "sair, categories": ("model=sair", "model.score_with_category=true", "model.category_pooling=sum"),
    "lightsans, queries": ("model=lightsans", "model.softmax_dim=queries", "model.attention_dropout=0.1"),
    "sine, authors": ("model=sine", "model.assignment=logits", "model.shared_w3=false", "model.norm=l2"),
    "sine, all prefixes": ("model=sine", "objective.draw=all"),
    "transrec, l1": ("model=transrec", "model.distance=l1"),
    "attrec, shared": ("model=attrec-inner", "model.shared_projection=true", "loss=softmax"),
    "bpr-mf, bias": ("model=bpr-mf", "model.item_bias=true"),
    "caser, 3 targets": ("model=caser", "objective.n_targets=3", "negatives.n=3"),
    "sasrec, prefixes": ("model=sasrec", "objective=prefix"),
    "sasrec, by rows": ("model=sasrec", "training.batch_size=2"),
    "sasrec, pieces": ("model=sasrec", "training.batch_size=300"),
    "sasrec, chronological": ("model=sasrec", "split=chronological"),
    "sasrec, bf16": ("model=sasrec", "training.precision=bf16"),
    "gru4rec, session-parallel": ("model=gru4rec", "objective=session_parallel", "negatives=popular", "loss=bpr_max"),
    "sasrec, adagrad": ("model=sasrec", "training.optimizer=adagrad", "training.schedule=cosine"),
}
CASES: dict[str, tuple[str, ...]] = {**MODELS, **OPTIONS}


def golden(words: tuple[str, ...]) -> dict[str, Any]:
    """Losses of the first steps, and two figures of the ranks after them: a hash of all ranks, and MRR."""
    torch.set_num_threads(1)
    data = CONF.parent / "data"
    fixed = ("training.batch_size=32", "device=cpu", "seed=1", f"data.root={data}", "data.cache=null")
    study = build.study(build.compose([*fixed, *words]), "", {})
    trainer, settings = study.trainer, study.trainer.settings
    study.model.train()
    losses: list[float] = []
    if trainer.learner.optimizers:
        while len(losses) < STEPS:
            batches = trainer.learner.objective.epoch(settings.length_window, trainer.learner.generator)
            for number in range(min(len(batches), STEPS - len(losses))):
                losses.append(float(trainer.learner.step(batches[number]).figures["loss"]))
    trainer.catch_up()
    ranked = study.evaluator.rank(study.model, Part.VALIDATION)
    digest = hashlib.sha256()
    for name in sorted(ranked):
        digest.update(ranked[name].better_E.tobytes() + ranked[name].tied_E.tobytes())
    mrr = {name: ranks.means((10,))["mrr"] for name, ranks in sorted(ranked.items())}
    return {"losses": losses, "mrr": mrr, "ranks": digest.hexdigest()}


def of_commit(commit: str, cases: list[str]) -> dict[str, Any]:
    """Run a commit's own copy of this file in a separate checkout, with this interpreter; return its output."""
    top = HERE.parents[1]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "-C", top, "worktree", "add", "--quiet", "--detach", folder, commit], check=True)
        try:
            environment = {**os.environ, "PYTHONPATH": f"{folder}/src"}
            command = [sys.executable, f"{folder}/tests/golden/golden.py", *cases]
            finished = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        finally:
            subprocess.run(["git", "-C", top, "worktree", "remove", "--force", folder], check=True)
    runs: dict[str, Any] = json.loads(finished.stdout)
    return runs


def compare(old: str, new: str, cases: list[str]) -> bool:
    """Print every case whose digits differ between two commits; False if any does."""
    before, after = of_commit(old, cases), of_commit(new, cases)
    alike = True
    for case in sorted(before.keys() | after.keys()):
        if case not in before or case not in after:
            print(f"{case}: in {'the new' if case in after else 'the old'} commit only")
        elif before[case] == after[case]:
            print(f"{case}: equal")
        else:
            alike = False
            print(f"{case}: DIFFERS\n  {json.dumps(before[case])}\n  {json.dumps(after[case])}")
    return alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names of runs (default: all)")
    parser.add_argument("--commits", nargs=2, metavar=("OLD", "NEW"))
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    if arguments.commits:
        sys.exit(0 if compare(*arguments.commits, arguments.cases) else 1)
    text = json.dumps({case: golden(CASES[case]) for case in arguments.cases or CASES}, indent=1) + "\n"
    if arguments.keep:
        RECORDED.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
