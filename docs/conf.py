"""How the documentation is built: `make docs`. Sphinx, because MkDocs' Material theme is at the end of its life."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tools"))

import docstrings
import links
import pages
from sphinx.application import Sphinx

import sairlib

project = "sairlib"
author = "the sairlib authors"
copyright = "the sairlib authors"
version = release = sairlib.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["built", "examples", "tools"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
add_module_names = False
smartquotes = False  # of formulas they would make other ones

html_theme = "furo"
html_title = "sairlib"
html_static_path = ["static"]
html_css_files = ["tables.css"]


def _lead_on(app: Sphinx, name: str, text: list[str]) -> None:
    """Links of a page that is written by hand; those of the made ones are made so."""
    if not name.startswith("made/") and Path(app.env.doc2path(name)).suffix == ".md":
        text[0] = links.for_page(text[0], f"docs/{name}.md", f"docs/{name}.md")


def _explain(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    if not any(lines) or lines[0].startswith("Alias for field number"):
        lines.clear()
    else:
        lines[:] = docstrings.restructured("\n".join(lines)).splitlines()


def setup(app: Sphinx) -> None:
    pages.write()
    app.connect("source-read", _lead_on)
    app.connect("autodoc-process-docstring", _explain)
