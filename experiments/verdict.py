"""The questions of verdict.yaml, answered from records: for each a command, a sentence for each system, and a table.

``python experiments/results.py`` writes the answers to the beginning of RESULTS.md.
"""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import yaml

from sairlib.evaluation import comparison
from sairlib.run import collected, comparison_table
from sairlib.run.comparison_table import Row

HERE = Path(__file__).resolve().parent
QUESTIONS: list[dict[str, Any]] = yaml.safe_load((HERE / "verdict.yaml").read_text(encoding="utf-8"))
METRIC = "ndcg@10"
RANKINGS = ("sampled", "full")
LEVEL = 0.05
LEGEND = """\
Made from [`tables/`](tables) by `experiments/verdict.py`, from the questions of [`verdict.yaml`](verdict.yaml).
measured: mean over seeds ± their standard deviation. Intervals: 95 %, bootstrap over people. p: paired randomisation
test over people, corrected by Holm over the table; it asks whether these trained models would differ on other people. A
system is said to be above another only if the difference is also beyond 1.96 standard errors that count the spread of
seeds. smallest: the true difference that so many people and seeds find with
probability 0.8. \\*: the best epoch was the last, validation still rose.
"""


def verdict() -> str:
    """All questions with their answers, as Markdown."""
    return "\n".join([LEGEND, *(answer(question, HERE) for question in QUESTIONS)])


def answer(question: dict[str, Any], records: Path) -> str:
    """A question's section: what was not run, and for each ranking a command, a table, and sentences."""
    folders = {claim: _folders(records, claim) for claim in question["runs"]}
    missing = [claim for claim, found in folders.items() if not found]
    lines = [f"### {question['ask']}\n"]
    if missing:
        lines.append(f"Not run yet: {', '.join(Path(claim).name for claim in missing)}.\n")
    if question.get("apart"):
        return "\n".join([*lines, _apart({claim: found for claim, found in folders.items() if found})])
    first = question["runs"][0]
    if not folders[first] or len(missing) == len(folders) - 1:
        return "\n".join(lines)
    runs, _ = collected.collect([folder for found in folders.values() for folder in found])
    systems = collected.systems(runs)
    baseline = next(system for system in systems if system.runs[0].directory in folders[first])
    for ranking in RANKINGS:
        published = _published(question, systems) if ranking == "sampled" else {}
        table = comparison_table.corrected(comparison_table.rows(systems, ranking, METRIC, baseline, published))
        places = " ".join(f"experiments/{claim}-s*" for claim, found in folders.items() if found)
        lines += [
            f"`python -m sairlib.report {places} baseline='{baseline.name}' ranking={ranking}`\n",
            *(
                f"- {sentence(row, baseline.name, min(len(row.system.runs), len(baseline.runs)), ranking)}"
                for row in table
                if row.compared is not None
            ),
            "",
            comparison_table.markdown(table),
            "",
        ]
    if question.get("use"):
        lines += [f"- {_use(system)}" for system in systems]
        lines.append("")
    return "\n".join(lines)


def _published(question: dict[str, Any], systems: list[collected.System]) -> dict[str, float]:
    """The question's published figures, of folders, by the names of the systems whose runs are in these."""
    figures = question.get("published", {})
    folders = {system.name: re.sub(r"-s\d+$", "", system.runs[0].directory.name) for system in systems}
    return {name: figures[folder] for name, folder in folders.items() if folder in figures}


def _apart(folders: dict[str, list[Path]]) -> str:
    """A line for each group of runs, which cannot be compared person by person: their splits are not the same."""
    if not folders:
        return ""
    lines = [["runs", "how many", *(f"{ranking} {METRIC.upper()}" for ranking in RANKINGS)], ["---"] * 4]
    for claim, found in folders.items():
        tests = [json.loads((folder / "test.json").read_text()) for folder in found]
        cells = []
        for ranking in RANKINGS:
            values = [test[ranking][METRIC] for test in tests]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.4f}{spread}")
        lines.append([f"`experiments/{claim}-s*`", str(len(found)), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sentence(row: Row, baseline: str, n_seeds: int, ranking: str) -> str:
    """What a comparison with the baseline says, and what it cannot say. ``n_seeds`` of the side that has fewer."""
    compared, p = row.compared, row.corrected_p
    assert compared is not None and p is not None
    size = f"{compared.difference:+.4f} [{compared.low:+.4f}, {compared.high:+.4f}] of {ranking} {METRIC.upper()}"
    side = "above" if compared.difference > 0 else "below"
    by_seeds = comparison.LEVEL * compared.smallest / comparison.POWER  # 1.96 standard errors of people and seeds
    if p < LEVEL and n_seeds > 1 and abs(compared.difference) > by_seeds:
        said = f"**{row.system.name} is {side} {baseline}**: {size}, p {_shown(p)}."
    elif p < LEVEL:
        other = "one seed" if n_seeds == 1 else f"{n_seeds} seeds, whose spread alone makes {by_seeds:.4f} possible"
        said = f"These trainings of {row.system.name} are {side} those of {baseline}: {size}, p {_shown(p)};"
        said += f" with {other}, others may not be."
    else:
        said = (
            f"No difference between {row.system.name} and {baseline} is shown: {size}, p {_shown(p)};"
            f" one of {compared.smallest:.4f} would have been found with probability 0.8."
        )
    if any(run.rises for run in row.system.runs):
        said += " It was cut while validation still rose: the budgets are not equal."
    return said


def _use(system: collected.System) -> str:
    """How evenly a system uses its interests, by its record at the epoch that validation chose."""
    numbers = [_effective(run) for run in system.runs]
    known = [number for number in numbers if number is not None]
    if not known:
        return f"{system.name}: its records do not say how its interests are used."
    largest = max(share for run in system.runs for share in (_shares(run) or [0.0]))
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return (
        f"{system.name}: as if {statistics.fmean(known):.1f}{spread} interests shared the weight alike; the strongest"
        f" has up to {100 * largest:.0f} % of it."
    )


def _effective(run: collected.Finished) -> float | None:
    """1 / sum of squared shares of the weight: L if all interests have the same, 1 if one has all."""
    shares = _shares(run)
    return None if shares is None else 1 / sum(share * share for share in shares)


def _shares(run: collected.Finished) -> list[float] | None:
    for line in (run.directory / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        if "diagnosis" in event and event["epoch"] == run.test["best_epoch"]:
            return [float(share) for share in event["diagnosis"]["interest_share"]]
    return None


def _folders(records: Path, claim: str) -> list[Path]:
    """The records of a claim, one a seed, that hold the ranks of every target."""
    name = re.compile(re.escape(Path(claim).name) + r"-s\d+")
    found = [folder for folder in records.glob(f"{claim}-s*") if name.fullmatch(folder.name)]
    return sorted(folder for folder in found if (folder / "ranks.npz").is_file())


def _shown(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"
