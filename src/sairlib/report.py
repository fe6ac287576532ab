"""Compare finished runs: a table with means over seeds, intervals over people, and paired tests against a baseline.

    python -m sairlib.report DIR... [SETTING=VALUE ...]      (or: sairlib-report)

A DIR is a run's directory, a grid's, or any folder above. Runs that differ in their seeds alone are one system.

Examples:
    python -m sairlib.report multirun/mine baseline=SASRec ranking=full
    python -m sairlib.report outputs/a outputs/b baseline=outputs/a output=table.tex curves=curves.png

Settings: ranking (sampled, full, full_with_history), metric (ndcg@10, hr@5, mrr, ...), baseline, published (a yaml of
figures by data set and system), output (.md, .csv, .tex), curves and heat_map (PNG files; pip install
'sairlib[plots]'). Figures of other data, splits or candidates are never compared.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sairlib.commands import whole_start
from sairlib.configured import run_configured
from sairlib.errors import UserError, one_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sairlib.run.collected import System

FORMATS = (".md", ".csv", ".tex")


@dataclass(frozen=True)
class ReportSettings:
    """The settings of ``report.yaml``. UserError for a file whose format is not known."""

    runs: tuple[str, ...]
    """Directories of runs, of grids, or folders above these."""
    ranking: str
    metric: str
    baseline: str | None
    published: str | None
    output: str | None
    curves: str | None
    heat_map: str | None

    def __post_init__(self) -> None:
        if self.output is not None and Path(self.output).suffix not in FORMATS:
            raise UserError(f"output={self.output}: the name must end in one of {', '.join(FORMATS)}")
        for name, path in (("curves", self.curves), ("heat_map", self.heat_map)):
            if path is not None and Path(path).suffix != ".png":
                raise UserError(f"{name}={path}: the name must end in .png")


def report(settings: ReportSettings) -> str:
    """Collect the runs, compare them, write the files that the settings name; returns the table as markdown.

    UserError if there is no finished run, or figures cannot be compared.
    """
    with whole_start():  # here, not above: --help must not wait for torch
        from sairlib.files import write_text
        from sairlib.run import collected, comparison_table, figures

    collected.cutoffs(settings.metric)
    runs, unfinished = collected.collect(map(Path, settings.runs))
    for line in unfinished:
        print(f"left out: {line}", file=sys.stderr)
    if not runs:
        raise UserError(f"no finished run in {', '.join(settings.runs)}")
    systems = collected.systems(runs)
    baseline = _baseline(systems, settings.baseline)
    published = _published(settings.published)
    table = []
    for dataset in dict.fromkeys(system.runs[0].dataset for system in systems):
        own = [system for system in systems if system.runs[0].dataset == dataset]
        against = next((s for s in own if baseline is not None and s.name == baseline.name), None)
        table += comparison_table.rows(own, settings.ranking, settings.metric, against, published.get(dataset, {}))
    table = comparison_table.corrected(table)
    if settings.curves is not None:
        figures.curves(Path(settings.curves), systems, f"{settings.ranking}/{settings.metric}")
    if settings.heat_map is not None:
        figures.heat_map(Path(settings.heat_map), systems, settings.ranking, settings.metric)
    if settings.output is not None:
        path = Path(settings.output)
        writers = {".md": comparison_table.markdown, ".csv": comparison_table.as_csv, ".tex": comparison_table.latex}
        write_text(path, writers[path.suffix](table).rstrip("\n") + "\n")
    return comparison_table.markdown(table)


def _baseline(systems: "list[System]", name: str | None) -> "System | None":
    if name is None:
        return None
    for system in systems:
        if name == system.name or any(Path(name).resolve() == run.directory.resolve() for run in system.runs):
            return system
    raise UserError(f"baseline={name}: no such system; there are {', '.join(system.name for system in systems)}")


def _published(path: str | None) -> dict[str, dict[str, float]]:
    if path is None:
        return {}
    import yaml

    try:
        datasets = dict(yaml.safe_load(Path(path).read_text()))
        return {
            str(dataset): {str(system): float(figure) for system, figure in dict(figures).items()}
            for dataset, figures in datasets.items()
        }
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"published={path}: must be a yaml file of figures by data set and system, such as"
            f" 'ml-1m: {{SASRec: 0.5968}}' ({one_line(error)[:160]})"
        ) from error


EXPLAINED = (
    "measured: mean over seeds ± their standard deviation; intervals: 95 %, bootstrap over people; difference: to the"
    " baseline, p by a paired randomisation test over people, corrected by Holm over the table; d: mean by standard"
    " deviation of the people's differences; smallest: the true difference that so many people and seeds would have"
    " found with probability 0.8; *: the best epoch was the last, validation still rose"
)


def _job(config: "DictConfig") -> None:
    with whole_start():
        from sairlib import make
    own = make.settings(make.only(config, ReportSettings.__dataclass_fields__), "", ReportSettings)
    if not own.runs:
        raise UserError("which runs? Give their directories: python -m sairlib.report DIR... [baseline=NAME]")
    print(report(own))
    print(f"\n{EXPLAINED}")


def main() -> None:
    """The console script ``sairlib-report``."""
    run_configured(_job, "report", lambda: str(__doc__), "runs")


if __name__ == "__main__":
    main()
