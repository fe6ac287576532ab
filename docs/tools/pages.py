"""The pages that are made when the documentation is built: models, the API, and documents from elsewhere.

    python docs/tools/pages.py      # write them to docs/made, as the build does

A model's page has its docstring, its settings and its figures: the docstring is that of its class, the settings are
those of its yaml files, the figures those of the records in ``experiments/runs``.
"""

import functools
import importlib.util
import inspect
import json
import pkgutil
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import docstrings  # noqa: E402
import links  # noqa: E402

import sairlib  # noqa: E402
from sairlib import batch, build, configuration, make  # noqa: E402
from sairlib.data import readers  # noqa: E402

MADE = links.REPOSITORY / links.MADE
NOTEBOOKS = HERE.parent / "notebooks"
OURS = "objective", "loss", "negatives"
"""Groups of settings that a model's yaml may choose, beside its own."""


def write() -> None:
    """Write all pages into an empty folder."""
    shutil.rmtree(MADE, ignore_errors=True)
    texts = {**model_pages(), "api.rst": api(), "convention.md": convention()}
    for name in links.DOCUMENTS:
        text = (links.REPOSITORY / name).read_text(encoding="utf-8")
        texts[name] = links.for_page(text, name, links.ELSEWHERE[name])
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        texts[f"notebooks/{path.stem}.md"] = notebook(path)
    for name, text in texts.items():
        (MADE / name).parent.mkdir(parents=True, exist_ok=True)
        (MADE / name).write_text(text, encoding="utf-8")


def experiments() -> ModuleType:
    """``experiments/results.py``, which reads the records."""
    spec = importlib.util.spec_from_file_location("results", links.REPOSITORY / "experiments" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["results"] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def composed(name: str) -> DictConfig:
    """All settings of a training of ``model=name``."""
    return build.compose([f"model={name}"])


def models() -> dict[str, list[str]]:
    """The names that ``model=`` knows, by the class that they make; first those named as their class's module."""
    found: dict[str, list[str]] = {}
    for path in sorted((configuration.CONF / "model").glob("*.yaml")):
        target = composed(path.stem).model._target_
        found.setdefault(target, []).append(path.stem)
    module = {target: target.rsplit(".", 2)[1].replace("_", "-") for target in found}
    return {
        target: sorted(names, key=lambda name: (name != module[target], name))
        for target, names in sorted(found.items(), key=lambda pair: module[pair[0]])
    }


def model_pages() -> dict[str, str]:
    """A page for each class of models, and the list of them."""
    results = experiments()
    claims: dict[str, list[Any]] = {}
    for claim in results.read().values():
        config = yaml.safe_load((results.HERE / claim.runs[0].place / "config.yaml").read_text())
        claims.setdefault(config["model"]["_target_"].rpartition(".")[2], []).append(claim)
    texts, rows = {}, []
    for target, names in models().items():
        cls = make.find(target)
        page = f"models/{names[0]}.md"
        texts[page] = model_page(cls, names, claims.get(cls.__name__, []), results)
        title, what = title_of(cls)
        chosen = ", ".join(f"`{name}`" for name in names)
        rows.append(f"| [{title}]({names[0]}.md) | {chosen} | {docstrings.markdown(what).strip()} |")
    toctree = "\n".join(Path(page).stem for page in texts)
    texts["models/index.md"] = (
        "# Models\n\n"
        "Each is one class, chosen by `model=`. Its page has the equations, every deviation from the paper, the"
        " settings, and what was measured with it.\n\n"
        "| | `model=` | |\n|---|---|---|\n" + "\n".join(rows) + "\n\n"
        f"```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    )
    return texts


def title_of(cls: type) -> tuple[str, str]:
    """A model's name and what it is, from the first line of its module."""
    about = inspect.getdoc(import_module(cls.__module__)) or cls.__name__
    title, _, what = about.split("\n")[0].partition(": ")
    return title, what[:1].upper() + what[1:]


def model_page(cls: type, names: list[str], claims: list[Any], results: ModuleType) -> str:
    """Docstring, settings and figures of a class of models. ``names``: those by which ``model=`` chooses it."""
    docstring = inspect.getdoc(cls) or ""
    title, what = title_of(cls)
    parts = [f"# {title}", docstrings.markdown(what), f"The class is `{cls.__module__}.{cls.__name__}`."]
    parts.append(f"```console\n$ python -m sairlib.train model={names[0]}\n```")
    parts += ["## What it computes", docstrings.markdown(docstring)]
    parts += ["## Settings", settings(cls, names)]
    parts += ["## Measured", figures(claims, results, f"{links.MADE}/models/{names[0]}.md")]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def settings(cls: type, names: list[str]) -> str:
    """A table of the constructor's arguments that are settings, with the value that each yaml gives them."""
    configs = {name: composed(name) for name in names}
    keys = [key for key in inspect.signature(cls).parameters if key in configs[names[0]].model]
    rows = []
    for key in keys:
        cells = []
        for name in names:
            value = configs[name].model[key]
            part = isinstance(value, DictConfig)
            plain = list(value) if isinstance(value, ListConfig) else value
            cells.append(f"`{_class_name(value) if part else json.dumps(plain)}`")
        rows.append([f"`model.{key}`", *cells])
    rows += [[f"`{group}`", *(f"`{_class_name(configs[name][group])}`" for name in names)] for group in OURS]
    head = ["", *(f"`model={name}`" for name in names)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])
    text = "A setting is explained above by its name; objectives, losses and negatives in the [API](../api.rst)."
    source = (configuration.CONF / "model" / f"{names[0]}.yaml").read_text()
    return f"{table}\n\n{text}\n\n```yaml\n{source.strip()}\n```"


def _class_name(group: DictConfig) -> str:
    return str(group.get("_target_", "none")).rpartition(".")[2]


def figures(claims: list[Any], results: ModuleType, page: str) -> str:
    """A table of the recorded runs of a model, each with its command."""
    measured = [claim for claim in claims if not claim.name.startswith("speed-")]
    if not measured:
        return "No run of it is recorded."
    rows = []
    for claim in measured:
        remark = f"; {claim.about['remark']}" if "remark" in claim.about else ""
        published = "; ".join(claim.published()) or "-"
        values = [claim.figures("sampled", interval=True), claim.figures("full", interval=True)]
        rows.append([claim.name, published, *values, claim.epochs(), claim.command() + remark])
    head = ["record", "published", "sampled", "full", "best epoch", "command"]
    text = (
        "NDCG@10 / HR@10, sampled: among 100 candidates, full: among all items. [a, b]: 95 % bootstrap interval over"
        " users; ±: half the range over seeds; \\*: cut while validation still rose. Hashes, commits and records:"
        " [all figures](../../../experiments/RESULTS.md).\n\n"
    )
    return links.for_page(text, page, page) + results.table(head, rows)


def convention() -> str:
    """The head of ``batch.py``."""
    return f"# The convention\n\n```text\n{inspect.getdoc(batch)}\n```\n"


def readers_of_data() -> list[str]:
    """The dotted names of the classes that read data sets."""
    found = []
    for module in pkgutil.iter_modules(readers.__path__, f"{readers.__name__}."):
        for name, value in vars(import_module(module.name)).items():
            own = inspect.isclass(value) and value.__module__ == module.name
            if own and callable(getattr(value, "files", None)) and callable(getattr(value, "read", None)):
                found.append(f"{module.name}.{name}")
    return found


def api() -> str:
    """Everything public, by ``autodoc``."""
    text = ["API", "===", "", ".. py:module:: sairlib", "", "The public names of ``sairlib``.", ""]
    for name in sorted(sairlib.__all__, key=lambda name: (name[0].isupper(), name)):
        text += _documented(f"sairlib.{name}", inspect.isclass(getattr(sairlib, name)))
    sections = {
        "Data": ["sairlib.data.interactions.Interactions", "sairlib.data.dataset.Dataset", *readers_of_data()],
        "Parts of a model": [
            *("sairlib.models.recommender.Products", "sairlib.models.heads.Distances"),
            *("sairlib.models.heads.Mixture", "sairlib.models.recommender.Explanation"),
            *("sairlib.models.recommender.Interests", "sairlib.nn.layers.Table"),
        ],
        "Training": ["sairlib.training.settings.TrainingSettings", *_targets("objective", "loss", "negatives")],
        "Evaluation": [
            *("sairlib.evaluation.rankings.EvaluationSettings", "sairlib.evaluation.rankings.Ranks"),
            *_targets("split"),
        ],
    }
    for title, names in sections.items():
        text += [title, "-" * len(title), ""]
        for name in names:
            if name.rpartition(".")[2] in sairlib.__all__:
                continue  # it stands above
            text += _documented(name, inspect.isclass(make.find(name)))
    return "\n".join(text)


def _targets(*groups: str) -> list[str]:
    """What the options of groups of settings make."""
    found = []
    for group in groups:
        for path in sorted((configuration.CONF / group).glob("*.yaml")):
            target = yaml.safe_load(path.read_text()).get("_target_")
            if target and target not in found:
                found.append(target)
    return found


def _documented(name: str, is_class: bool) -> list[str]:
    if not is_class:
        return [f".. autofunction:: {name}", ""]
    return [f".. autoclass:: {name}", "   :members:", "   :exclude-members: __init__, __new__", ""]


def notebook(path: Path) -> str:
    """A notebook's cells as Markdown, without outputs."""
    text = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        text.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    name = path.relative_to(links.REPOSITORY).as_posix()
    text.append(f"The notebook itself: [`{name}`]({path.name})")
    return links.for_page("\n\n".join(text), name, f"{links.MADE}/notebooks/{path.stem}.md") + "\n"


if __name__ == "__main__":
    write()
