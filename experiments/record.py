"""Keep the records of finished runs, and print the table of all that are kept.

    python experiments/record.py                       # the table, as markdown
    python experiments/record.py NAME=RUN_DIR ...      # first copy records (never weights) to experiments/runs/NAME

A run is named CLAIM-sSEED (sair-ml-1m-s1): runs that differ only by seed share a row.
"""

import json
import re
import shutil
import statistics
import sys
from pathlib import Path

from omegaconf import OmegaConf

RUNS = Path(__file__).parent / "runs"
RECORDS = ("config.yaml", "run.json", "test.json", "metrics.jsonl")


def keep(name: str, run_dir: Path) -> None:
    """Copy a finished run's records; SystemExit with a line if it is not finished."""
    missing = [record for record in RECORDS if not (run_dir / record).is_file()]
    if missing:
        raise SystemExit(f"error: {run_dir} is not a finished run: no {', '.join(missing)}")
    (RUNS / name).mkdir(parents=True, exist_ok=True)
    for record in RECORDS:
        shutil.copyfile(run_dir / record, RUNS / name / record)
    config = OmegaConf.load(run_dir / "config.yaml")
    del config["data"]  # folders of the machine
    OmegaConf.save(config, RUNS / name / "config.yaml")


def table() -> str:
    """One row for each claim: mean over its seeds, ± half their range where there is more than one."""
    rows: dict[str, list[Path]] = {}
    for run in sorted(RUNS.iterdir()):
        if run.name.startswith("speed-"):  # too short to say anything about quality
            continue
        rows.setdefault(re.sub(r"-s\d+$", "", run.name), []).append(run)
    lines = [
        "| run | seeds | sampled NDCG@10 | sampled HR@10 | full NDCG@10 | full HR@10 | best epoch | commit | split |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for claim, runs in rows.items():
        tests = [json.loads((run / "test.json").read_text()) for run in runs]
        records = [json.loads((run / "run.json").read_text()) for run in runs]
        shown = [(ranking, metric) for ranking in ("sampled", "full") for metric in ("ndcg@10", "hr@10")]
        cells = [_cell([test.get(ranking, {}).get(metric) for test in tests]) for ranking, metric in shown]
        seeds = ", ".join(str(record["seed"]) for record in records)
        epochs = ", ".join(str(test["best_epoch"]) for test in tests)
        commits = ", ".join(sorted({record["git"]["commit"][:8] for record in records}))
        splits = ", ".join(sorted({test["split_sha256"][:8] for test in tests}))
        lines.append(f"| {' | '.join([claim, seeds, *cells, epochs, commits, splits])} |")
    return "\n".join(lines)


def _cell(values: list[float | None]) -> str:
    """-: not measured in one of the runs."""
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        return "-"
    spread = f" ± {(max(found) - min(found)) / 2:.4f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.4f}{spread}"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, run_dir = argument.partition("=")
        keep(name, Path(run_dir))
    print(table())
