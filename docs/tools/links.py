"""Links between pages. In the repository they lead to files; in the built pages, to the pages made of them."""

import os
import re
from pathlib import Path, PurePosixPath

REPOSITORY = Path(__file__).resolve().parents[2]
MADE = "docs/made"
"""The folder of the pages that are made when the documentation is built."""
DOCUMENTS = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "experiments/FAULTS.md",
    "experiments/POWER.md",
    "experiments/README.md",
    "experiments/RESULTS.md",
    "experiments/bench/README.md",
    "experiments/bench/RESULTS.md",
)
"""Documents of the repository that are pages, too."""
ELSEWHERE = {
    **{name: f"{MADE}/{name}" for name in DOCUMENTS},
    "README.md": "docs/index.md",
    "docs/notebooks": f"{MADE}/notebooks/your-data.md",
    "src/sairlib/batch.py": f"{MADE}/convention.md",
    "src/sairlib/models": f"{MADE}/models/index.md",
}
"""The pages to which links to these files and folders lead."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def for_page(text: str, source: str, page: str) -> str:
    """The Markdown ``text`` of the file ``source`` with its links leading on from ``page``, both as paths in the
    repository.

    A link to a file that is no page leads to a copy of it; a link to a folder becomes its text. ValueError for a link
    to nothing.
    """
    pieces = FENCE.split(text)
    return "".join(
        piece if piece.startswith("```") else LINK.sub(lambda found: _link(found, source, page), piece)
        for piece in pieces
    )


def _link(found: re.Match[str], source: str, page: str) -> str:
    image, text, target = found.groups()
    if "://" in target or target.startswith(("#", "mailto:")):
        return found[0]
    path, _, anchor = target.partition("#")
    wanted = os.path.normpath(PurePosixPath(source).parent / path)
    wanted = ELSEWHERE.get(wanted, wanted)
    file = REPOSITORY / wanted
    if file.is_dir():
        return text
    if not file.is_file() and not wanted.startswith(f"{MADE}/"):
        raise ValueError(f"{source}: the link to {target} leads to nothing")
    leads = os.path.relpath(wanted, PurePosixPath(page).parent) + (f"#{anchor}" if anchor else "")
    return f"{image}[{text}]({leads})"
