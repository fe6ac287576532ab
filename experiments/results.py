"""Keep the records of finished runs, and write every table of figures from them and from published.yaml.

    python experiments/results.py                       # RESULTS.md, and the generated parts of both READMEs
    python experiments/results.py NAME=RUN_DIR ...      # first copy records (never weights) to experiments/runs/NAME
    python experiments/results.py tables/NAME=GRID_DIR  # the same for all finished runs of a table's grid

A run is named CLAIM-sSEED (sair-ml-1m-s1): runs that differ only by seed share a row, with the mean and half the range.
A row is marked * if training ended while validation still rose: the best epoch is the last that was validated, and all
of ``training.epochs`` were run. Only the figures of published.yaml are typed by hand.
"""

import json
import re
import shlex
import shutil
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parent))
import verdict

HERE = Path(__file__).resolve().parent
RUNS = HERE / "runs"
TABLES = HERE / "tables"
RECORDS = ("config.yaml", "run.json", "test.json", "metrics.jsonl")
RANKS = "ranks.npz"
"""Of every target: paired tests need them. Records of older runs lack it."""
PUBLISHED: dict[str, Any] = yaml.safe_load((HERE / "published.yaml").read_text(encoding="utf-8"))
HEAD = """\
# All figures

Made by `python experiments/results.py` from [`published.yaml`](published.yaml), [`runs/`](runs) and
[`tables/`](tables): edit those.

NDCG@10 / HR@10 where nothing else is said; sampled: among 100 uniform candidates; full: among all items but the user's
history. [a, b]: 95 % bootstrap interval over users; ±: half the range over seeds; -: not measured; \\*: cut while
validation still rose, so that the best epoch is the last that was looked at. Commands are those of the records, in the
names that presets have today: where a default has changed since, a record's `config.yaml` has what was run.
"""
MARKED = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def keep(name: str, run_dir: Path) -> None:
    """Copy the records of a finished run to ``RUNS/name``; SystemExit with a message if it is not finished."""
    missing = [record for record in RECORDS if not (run_dir / record).is_file()]
    if missing:
        raise SystemExit(f"error: {run_dir} is not a finished run: no {', '.join(missing)}")
    _copy(run_dir, RUNS / name)


def keep_table(name: str, grid_dir: Path) -> None:
    """Copy the records of all finished runs of a grid to ``TABLES/name``, of their curves the validation alone."""
    finished = [path.parent for path in sorted(grid_dir.rglob("test.json"))]
    if not finished:
        raise SystemExit(f"error: {grid_dir} holds no finished run")
    for run_dir in finished:
        folder = TABLES / name / run_dir.name
        _copy(run_dir, folder)
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(line for line in lines if "validation" in json.loads(line)))


def _copy(run_dir: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for record in (*RECORDS, *([RANKS] if (run_dir / RANKS).is_file() else [])):
        shutil.copyfile(run_dir / record, folder / record)
    config = OmegaConf.load(run_dir / "config.yaml")
    for name in ("data", "run_dir"):  # folders of the machine
        config.pop(name, None)
    OmegaConf.save(config, folder / "config.yaml")
    record = json.loads((folder / "run.json").read_text())
    words = [word for word in shlex.split(record["command"]) if not re.search(r"run_dir=|sweep\.dir=", word)]
    (folder / "run.json").write_text(json.dumps({**record, "command": shlex.join(words)}, indent=2) + "\n")


class NoPreset(SystemExit):
    """A record of a run without ``experiment=``."""


class Run:
    """The record of one run. Its ``claim``: the folder's name without the seed, of a table with the path before it."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.place = f"runs/{folder.name}" if folder.parent == RUNS else f"tables/{folder.parent.name}/{folder.name}"
        self.claim = re.sub(r"-s\d+$", "", self.place.removeprefix("runs/"))
        self.test: dict[str, Any] = json.loads((folder / "test.json").read_text())
        self.record: dict[str, Any] = json.loads((folder / "run.json").read_text())
        self.events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        config = yaml.safe_load((folder / "config.yaml").read_text())
        self.last_epoch = max(event["epoch"] for event in self.events)
        last_validated = max(event["epoch"] for event in self.events if "validation" in event)
        self.still_rising = (
            self.test["best_epoch"] == last_validated and self.last_epoch >= config["training"]["epochs"]
        )
        words = [word for word in self.record["command"].split() if "=" in word or word.startswith("~")]
        preset = next((word.removeprefix("experiment=") for word in words if word.startswith("experiment=")), None)
        if preset is None:
            raise NoPreset(f"{folder}: only runs of a preset (experiment=...) can be shown beside a published figure")
        self.preset: str = PUBLISHED["renamed"].get(preset, preset)
        self.resumed = "resume=true" in words
        left_out = ("experiment=", "run_dir=", "seed=", "resume=")
        changed = [_current(word) for word in words if not word.startswith(left_out)]
        self.command = " ".join([f"experiment={self.preset}", *changed])
        self.minutes = sum(self.record["seconds"].values()) / 60


def _current(word: str) -> str:
    """A word of the command line with the current name of its setting."""
    name, _, value = word.partition("=")
    return f"{PUBLISHED['renamed_settings'].get(name, name)}={value}"


class Claim:
    """Runs that differ only by seed, as the cells of a row."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.name, self.preset = runs[0].claim, runs[0].preset
        self.about: dict[str, Any] = PUBLISHED["runs"].get(self.name, {})

    def figures(self, ranking: str, metrics: tuple[str, ...] = ("ndcg@10", "hr@10"), interval: bool = False) -> str:
        """The figures of ``metrics``, by default NDCG@10 / HR@10; - if a run did not measure one of them."""
        cells = [self._figure(ranking, metric, interval) for metric in metrics]
        star = " \\*" if any(run.still_rising for run in self.runs) else ""
        return "-" if "-" in cells else " / ".join(cells) + star

    def _figure(self, ranking: str, metric: str, interval: bool) -> str:
        values = [run.test.get(ranking, {}).get(metric) for run in self.runs]
        if None in values:
            return "-"
        if len(values) > 1:
            return f"{statistics.mean(values):.4f} ± {(max(values) - min(values)) / 2:.4f}"
        low, high = self.runs[0].test["ci95"][ranking][metric]
        return f"{values[0]:.4f}" + (f" [{low:.4f}, {high:.4f}]" if interval else "")

    def published(self) -> list[str]:
        """The published figures, each with its source unless that is the table that names the preset's folder."""
        return list(self.about.get("published", published_of(self.preset)))

    def paper(self) -> str:
        """The first published figure."""
        return (self.published() or ["none here"])[0]

    def epochs(self) -> str:
        best = ", ".join(str(run.test["best_epoch"]) for run in self.runs)
        return f"{best} of {_each(run.last_epoch for run in self.runs)}"

    def minutes(self) -> str:
        return f"{statistics.mean(run.minutes for run in self.runs):.0f}"

    def command(self) -> str:
        """The command with current names, without seed and folder."""
        resumed = ", resumed" if any(run.resumed for run in self.runs) else ""
        return f"`{_each(run.command for run in self.runs)}`{resumed}"

    def commits(self) -> str:
        return _each(run.record["git"]["commit"][:8] for run in self.runs)

    def split(self) -> str:
        return _each(run.test["split_sha256"][:8] for run in self.runs)

    def candidates(self) -> str:
        return _each((run.test["candidates_sha256"] or "none")[:8] for run in self.runs)

    def links(self, up: str) -> str:
        """Links to the records; ``up`` is the path from the table's file to experiments/."""
        first, *others = self.runs
        more = [f"[s{run.name.rpartition('-s')[2]}]({up}{run.place})" for run in others]
        return ", ".join([f"[{first.name}]({up}{first.place})", *more])

    def trace(self, up: str) -> str:
        """The source of a row in short: record, epoch, split. RESULTS.md has the command."""
        return f"{self.links(up)}: epoch {self.epochs()}, split {self.split()}"


def _each(values: Any) -> str:
    """Each value once, in the order of the seeds."""
    return ", ".join(dict.fromkeys(map(str, values)))


def published_of(preset: str) -> list[str]:
    """The published figures of a preset, that of its table first."""
    folder, _, name = preset.partition("/")
    figures = PUBLISHED["tables"][folder]["presets"][name]
    return [*([figures["paper"]] if "paper" in figures else []), *figures.get("also", [])]


def read() -> dict[str, Claim]:
    """Every claim that has records, by its name."""
    runs_of: dict[str, list[Run]] = {}
    for folder in [*sorted(RUNS.iterdir()), *sorted(TABLES.glob("*/*"))]:
        try:
            run = Run(folder)
        except NoPreset:
            if folder.parent == RUNS:
                raise
            continue  # tables of variants have none
        runs_of.setdefault(run.claim, []).append(run)
    return {name: Claim(runs) for name, runs in runs_of.items()}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def systems(claims: dict[str, Claim], rows: list[dict[str, str]], up: str) -> str:
    """The table of systems in the README: published and measured figures."""
    lines = []
    for row in rows:
        if "run" not in row:
            published = next(iter(published_of(row["preset"])), "none here")
            lines.append([row["model"], row["paper"], row["trained"], published, "not trained to its end yet", "", ""])
            continue
        claim = claims[row["run"]]
        cells = [claim.figures("sampled"), claim.figures("full"), claim.trace(up)]
        if "see" in row:  # the system has several rows elsewhere
            cells = [f"see {row['see']}", "", ""]
        lines.append([row["model"], row["paper"], row["trained"], claim.paper(), *cells])
    return table(["`model=`", "paper", "trained by", "published", "measured", "full ranking", "record"], lines)


def results(claims: dict[str, Claim], rows: list[dict[str, str]], up: str) -> str:
    """The table of results in the README, with fewer columns than ``measured``."""
    lines = []
    for row in rows:
        claim = claims[row["run"]]
        figures = [claim.figures("sampled"), claim.figures("full")]
        lines.append([row["claim"], row.get("published", claim.paper()), *figures, claim.trace(up)])
    return table(["system, data", "published", "measured", "full ranking, measured", "record"], lines)


def measured(claims: dict[str, Claim], rows: list[dict[str, str]], up: str) -> str:
    """A table whose rows give command, split and record."""
    lines = []
    for row in rows:
        claim = claims[row["run"]]
        figures = [claim.figures("sampled", interval=True), claim.figures("full", interval=True)]
        trace = [claim.epochs(), claim.minutes(), claim.split(), claim.links(up)]
        published = "; ".join(claim.published()) or "none on this data"
        lines.append([row["claim"], claim.command(), published, *figures, *trace, row.get("note", "")])
    head = ["claim", "command", "published NDCG@10 / HR@10", "measured, sampled-100", "measured, full"]
    head += ["best epoch", "minutes", "split", "record", "note"]
    if not any("note" in row for row in rows):
        head, lines = head[:-1], [line[:-1] for line in lines]
    return table(head, lines)


def everything(claims: dict[str, Claim]) -> str:
    """RESULTS.md: each preset of each table, measured or not, and all its recorded runs."""
    text = [HEAD, "## The verdict on SAIR\n", verdict.verdict()]
    for folder, about in PUBLISHED["tables"].items():
        text.append(f"## {folder}: {about['title']}\n\n{about['protocol'].strip()}\n")
        head = ["preset", "published", "measured, sampled", "measured, full", "best epoch", "minutes"]
        head += ["split, candidates", "commit", "command", "record"]
        metrics = tuple(about.get("metrics", ("ndcg@10", "hr@10")))
        if "metrics" in about:
            head[2:4] = [f"measured, {ranking}: {' / '.join(metrics)}" for ranking in ("sampled", "full")]
        lines = []
        for name in about["presets"]:
            preset = f"{folder}/{name}"
            recorded = [claim for claim in claims.values() if claim.preset == preset]
            quality = [claim for claim in recorded if not claim.name.startswith("speed-")]  # those are too short
            for claim in quality:
                published = "; ".join(claim.published()) or "-"
                figures = [claim.figures(ranking, metrics, interval=True) for ranking in ("sampled", "full")]
                trace = [claim.epochs(), claim.minutes(), f"{claim.split()}, {claim.candidates()}", claim.commits()]
                remark = f"; {claim.about['remark']}" if "remark" in claim.about else ""
                lines.append([f"`{name}`", published, *figures, *trace, claim.command() + remark, claim.links("")])
            if not quality:
                lines.append([f"`{name}`", "; ".join(published_of(preset)) or "-", *["-"] * 8])
        text.append(table(head, lines))
    text.append("## Speed and memory\n\nMedians of the epochs of single short runs.\n\n" + speed(claims, [], ""))
    return "\n".join(text)


def speed(claims: dict[str, Claim], rows: list[dict[str, str]], up: str) -> str:
    """Seconds and memory of the records named speed-*."""
    lines = []
    for claim in claims.values():
        for run in claim.runs:
            if run.name.startswith("speed-"):
                seconds = [
                    statistics.median(e["seconds"] for e in run.events if kind in e) for kind in ("train", "validation")
                ]
                memory = f"{run.record['peak_memory_bytes'] / 1e9:.2f} GB"
                lines.append(
                    [claim.command(), *(f"{s:.1f} s" for s in seconds), memory, claim.commits(), claim.links(up)]
                )
    head = ["command", "a training epoch", "validation of all users, sampled and full", "peak memory"]
    return table([*head, "commit", "record"], lines)


LAYOUTS: dict[str, Callable[..., str]] = {"systems": systems, "results": results, "speed": speed}  # others: measured


def generated() -> dict[Path, str]:
    """The text of every file that holds generated figures."""
    claims = read()
    files = {HERE / "RESULTS.md": everything(claims)}
    for path, up in ((HERE.parent / "README.md", "experiments/"), (HERE / "README.md", "")):
        files[path] = MARKED.sub(partial(_marked, claims, up), path.read_text(encoding="utf-8"))
    return files


def _marked(claims: dict[str, Claim], up: str, match: re.Match[str]) -> str:
    start, name, end = match.groups()
    return f"{start}\n{LAYOUTS.get(name, measured)(claims, PUBLISHED['readme'].get(name, []), up)}\n{end}"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, run_dir = argument.partition("=")
        if name.startswith("tables/"):
            keep_table(name.removeprefix("tables/"), Path(run_dir))
        else:
            keep(name, Path(run_dir))
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
