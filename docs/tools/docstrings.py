"""The docstrings of this code base, which are plain text with ``literals`` and lists, as Markdown and reStructuredText.

In plain text a formula may hold stars, bars and underscores, which both markups would read as their own; and a list may
follow a line without a blank one between. So a docstring is cut into blocks, and each is written with its text escaped.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

MARKER = re.compile(r"(- |\* |\d+\. |\(\d+\) )(.*)")
"""A line that begins an item of a list."""
SETTING = re.compile(r"(``[^`]+``|[a-z_]+)(: )(.*)")
"""A line that says what one setting is; two of them make a list."""
LITERAL = re.compile(r"(``.+?``)")


class Block(NamedTuple):
    """``kind``: text, literal, item, setting or numbered. ``lines`` are without indentation."""

    kind: str
    lines: list[str]
    marker: str = ""


def blocks(docstring: str) -> Iterator[Block]:
    """Cut a docstring into paragraphs, literal blocks and items of lists."""
    for lines in _separated(inspect.cleandoc(docstring).splitlines()):
        if lines[0].startswith(" "):
            yield Block("literal", inspect.cleandoc("\n".join(lines)).splitlines())
        else:
            yield from _items(lines)


def _separated(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines between blank ones."""
    run: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            run.append(line)
        elif run:
            yield run
            run = []


def _items(lines: list[str]) -> Iterator[Block]:
    settings = sum(SETTING.match(line) is not None for line in lines) > 1
    current = Block("text", [])
    for line in lines:
        begins = MARKER.match(line)
        setting = SETTING.match(line) if settings else None
        if begins or setting:
            if current.lines:
                yield current
            if begins:
                marker = begins[1].strip()
                current = Block("numbered" if marker[0].isdigit() else "item", [begins[2]], marker)
            elif setting:
                current = Block("setting", [setting[3]], setting[1].strip("`"))
        else:
            current.lines.append(line.strip())
    yield current


def markdown(docstring: str) -> str:
    """The docstring as Markdown."""
    return _written(docstring, r"([\\*_`<>\[\]|~#])", "`{}`".format, lambda lines: ["```text", *lines, "```"])


def restructured(docstring: str) -> str:
    """The docstring as reStructuredText."""
    return _written(docstring, r"([\\*_`|])", "``{}``".format, lambda lines: ["::", "", *_indented(lines)])


def _written(
    docstring: str, special: str, code: Callable[[str], str], literal: Callable[[list[str]], list[str]]
) -> str:
    def escaped(text: str) -> str:
        parts = LITERAL.split(text)
        return "".join(
            code(part[2:-2]) if part.startswith("``") else re.sub(special, r"\\\1", part) for part in parts if part
        )

    written, before = [], ""
    for block in blocks(docstring):
        text = escaped(" ".join(block.lines))
        if block.kind == "literal":
            lines = literal(block.lines)
        elif block.kind == "text":
            lines = [text]
        elif block.kind == "setting":
            lines = [f"* {code(block.marker)}: {text}"]
        elif block.kind == "numbered":
            lines = [f"{block.marker} {text}"]
        else:
            lines = [f"* {text}"] if block.marker in "-*" else [f"* {escaped(block.marker)} {text}"]
        written += ["", *lines] if before else lines
        before = block.kind
    return "\n".join(written) + "\n"


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}".rstrip() for line in lines]
