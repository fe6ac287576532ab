"""Which differences between two systems an experiment can show, from finished runs of both.

    python experiments/power.py RUN_DIR... [--ranking full] [--seeds RECORD_DIR...] [--output POWER.md]

The runs are of two systems, with several seeds each and the same split; with split=leave-last, designs of several
targets a user are simulated, too. For each number of targets, people and seeds the table has the smallest true
difference that a paired test over people at the level 0.05 finds with probability 0.8 (sairlib.evaluation.power):
people are drawn with replacement, with all their targets, and seeds differ as the runs do. ``--seeds``: other runs of
the two systems, or their records, whose figures say how seeds differ; their ranks are not needed.

On ML-1M a second table has the differences that the SAIR paper claims beside what its design can show: 6,040 people
with one target, and a single training of each system.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sairlib.errors import UserError
from sairlib.evaluation.power import Design, Differences, Power, differences, power, with_seeds_of
from sairlib.run.collected import System, collect, cutoffs, systems

METRICS = ("ndcg@10", "hr@10")
TARGETS = (1, 5, 10)
SEEDS = (1, 3, 5, 10)
PEOPLE = (1_000, 6_040, 30_000)
PAPER = Design(6_040, 1)
HEAD = """\
# What a comparison can show

Made by `python experiments/power.py` (docs/compare.md). The smallest true difference between two systems that a paired
test over people at the level 0.05 finds with probability 0.8."""
ABOUT_CLAIMS = (
    "The paper's design: 6,040 people with one target, a single training of each system. People's differences are those"
    " of the two systems above; more unlike systems differ more."
)
PUBLISHED: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))


def two_systems(directories: list[Path]) -> tuple[System, System]:
    """The systems of these runs; UserError if they are not two on the same split and candidates."""
    found = systems(collect(directories)[0])
    if len(found) != 2:
        raise UserError(f"give runs of two systems; these are of {len(found)}: {', '.join(one.name for one in found)}")
    return found[0], found[1]


def measured(pair: tuple[System, System], ranking: str, metric: str, n_targets: int) -> Differences | None:
    """How the systems' difference varies by people and seeds; None if nobody has so many targets."""
    runs = [run for system in pair for run in system.runs]
    if any(run.measured(ranking) != runs[0].measured(ranking) for run in runs):
        raise UserError("the runs are of several splits, passes or candidates: give runs of one of them")
    read = [[run.ranks(ranking) for run in system.runs] for system in pair]
    people_E = np.unique(read[0][0][0], return_inverse=True)[1]
    if np.bincount(people_E).max() < n_targets:
        return None
    figures = [np.stack([ranks.values(cutoffs(metric))[metric] for _, ranks in side], 1) for side in read]
    return differences(figures[0], figures[1], people_E, n_targets)


def designs(varies_T: dict[int, Differences]) -> list[str]:
    lines = [f"| targets a user | people | {' | '.join(f'{n} seeds' for n in SEEDS)} |".replace("1 seeds", "1 seed")]
    lines.append("|---" * (2 + len(SEEDS)) + "|")
    for n_targets, varies in varies_T.items():
        for n_people in PEOPLE:
            cells = [f"{power(varies, Design(n_people, n_seeds)).smallest:.4f}" for n_seeds in SEEDS]
            lines.append(f"| {n_targets} | {n_people:,} | {' | '.join(cells)} |")
    return lines


def claims(shown: dict[str, Power], of_people: dict[str, Power]) -> list[str]:
    """What the SAIR paper's Table II says of ML-1M, beside what 6,040 people with one target and one seed can show."""
    presets = PUBLISHED["tables"]["sair-table2"]["presets"]
    figures = {
        name.removesuffix("-ml-1m"): dict(zip(METRICS, map(float, preset["paper"].split("/")), strict=True))
        for name, preset in presets.items()
        if "paper" in preset and name.endswith("-ml-1m")
    }
    lines = [
        "| SAIR against | metric | claimed | smallest, people alone | smallest, people and seeds | |",
        "|---" * 6 + "|",
    ]
    for name, own in figures.items():
        for metric in () if name.startswith("sair") else METRICS:
            claimed = figures["sair"][metric] - own[metric]
            people, both = of_people[metric].smallest, shown[metric].smallest
            says = "below both" if claimed < min(people, both) else "above both" if claimed > both else "between"
            lines.append(f"| {name} | {metric} | {claimed:+.4f} | {people:.4f} | {both:.4f} | {says} |")
    return lines


def report(pair: tuple[System, System], ranking: str, others: tuple[System, System] | None) -> str:
    """The tables as markdown."""
    parts = [f"{HEAD}\n\n{_about(pair, ranking)}"]
    shown, of_people = {}, {}
    for metric in METRICS:
        varies_T = {}
        for n_targets in TARGETS:
            varies = measured(pair, ranking, metric, n_targets)
            if varies is not None and others is not None:
                varies = with_seeds_of(varies, (others[0].figures(ranking, metric), others[1].figures(ranking, metric)))
            if varies is not None:
                varies_T[n_targets] = varies
        deviation = np.sqrt(varies_T[1].of_seeds)
        source = "these runs" if others is None else " and ".join(f"{len(o.runs)} runs of {o.name}" for o in others)
        parts.append(f"## {metric}\n\nBy seeds the difference has a standard deviation of {deviation:.4f} ({source}).")
        parts.append("\n".join(designs(varies_T)))
        shown[metric] = power(varies_T[1], PAPER)
        of_people[metric] = power(Differences(varies_T[1].of_design(1)[0], 1, 0.0, 0.0, 0.0), PAPER)
        parts.append(
            f"A test over {PAPER.n_people:,} people that leaves out that seeds differ finds equal systems to differ in"
            f" {shown[metric].false_alarms:.0%} of single trainings."
        )
    if pair[0].runs[0].dataset == "ml-1m" and ranking == "sampled":
        parts.append(f"## The SAIR paper's Table II on ML-1M\n\n{ABOUT_CLAIMS}")
        parts.append("\n".join(claims(shown, of_people)))
    return "\n\n".join(parts) + "\n"


def _about(pair: tuple[System, System], ranking: str) -> str:
    sides = []
    for system in pair:
        epochs = system.runs[0].settings["training.epochs"]
        level = np.mean(system.figures(ranking, METRICS[0]))
        sides.append(f"{system.name} ({len(system.runs)} seeds of {epochs} epochs, {METRICS[0]} {level:.4f})")
    return f"Simulated from the ranks of {' and '.join(sides)}: {ranking} ranking, {pair[0].runs[0].dataset}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--ranking", default="sampled")
    parser.add_argument("--seeds", type=Path, nargs="+", metavar="RECORD_DIR")
    parser.add_argument("--output", type=Path)
    words = parser.parse_args()
    try:
        others = two_systems(words.seeds) if words.seeds else None
        text = report(two_systems(words.runs), words.ranking, others)
    except UserError as error:
        sys.exit(f"error: {error}")
    if words.output is not None:
        words.output.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
