"""Draw docs/sair.svg: how SAIR comes from a history to scores. A sketch; its numbers are made up.

python docs/tools/picture.py
"""

from pathlib import Path
from xml.sax.saxutils import escape

STEPS, INTERESTS, KEPT = 5, 10, (6, 1, 8)
KINDS = (0, 2, 1, 0, 2)
"""Which kind of item each step of the history is."""
COLOURS = ("#2f9e6e", "#d9822b", "#8659c7")
STYLE = """
  .panel { fill: #fbfcfe; stroke: #d0d7de; }
  text { font: 14px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .small { font-size: 12.5px; fill: #57606a; }
  .head { font-weight: 600; }
  .mid { text-anchor: middle; }
  .box { fill: #eef2f8; stroke: #b6c2d2; }
  .cell, .bar { fill: #2f6bd0; }
  .line { stroke: #7a8796; stroke-width: 1.6; fill: none; }
  .tip { fill: #7a8796; }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #161b22; stroke: #3d444d; }
    text { fill: #e6edf3; }
    .small { fill: #9aa5b1; }
    .box { fill: #222b37; stroke: #46505c; }
    .cell, .bar { fill: #6ea0f5; }
    .line { stroke: #8b98a6; }
    .tip { fill: #8b98a6; }
  }
"""


def rect(kind: str, x: float, y: float, width: float, height: float, r: float = 4, **more: object) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{r:g}"{extra}/>'


def text(kind: str, x: float, y: float, *lines: str) -> str:
    return "".join(
        f'<text class="{kind}" x="{x:g}" y="{y + 15 * number:g}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )


def arrow(x: float, y: float, to: float) -> str:
    return f'<path class="line" d="M{x:g} {y:g}H{to - 7:g}"/><path class="tip" d="M{to:g} {y:g}l-9 -4.5v9z"/>'


def heat(x: float, y: float, spread: float) -> str:
    """A map of steps (down) and interests (across); ``spread``: how much the steps before speak, too."""
    cells, state = [], [0.0] * INTERESTS
    for step, kind in enumerate(KINDS):
        own = [0.12 + 0.08 * ((3 * step + 7 * i) % 5) / 4 for i in range(INTERESTS)]
        own[KEPT[kind]] += 0.7
        state = [spread * old + (1 - spread) * new for old, new in zip(state, own, strict=True)]
        for interest, value in enumerate(state):
            share = min(1.0, value / (1 - spread ** (step + 1)))
            cells.append(rect("cell", x + 15 * interest, y + 26 * step, 13, 22, 2, fill_opacity=f"{share:.2f}"))
    return "".join(cells)


def draw() -> str:
    top, middle = 112.0, 112 + 13 * STEPS - 2
    parts = [rect("panel", 0.5, 0.5, 1019, 299, 10)]
    # The history.
    parts.append(text("head", 24, 36, "history"))
    parts.append(text("small", 24, 56, "items and their", "categories"))
    for step, kind in enumerate(KINDS):
        y = top + 26 * step
        parts.append(rect("box", 24, y, 88, 22))
        parts.append(f'<circle cx="38" cy="{y + 11:g}" r="5" fill="{COLOURS[kind]}"/>')
        parts.append(text("small", 50, y + 15, f"item {('a', 'b', 'c', 'd', 'e')[step]}"))
    parts.append(arrow(118, middle, 146))
    # The encoder.
    parts.append(rect("box", 150, top - 4, 96, 26 * STEPS + 4, 6))
    parts.append(text("head mid", 198, middle - 6, "encoder"))
    parts.append(text("small mid", 198, middle + 12, "self-attention", "or GRU"))
    parts.append(arrow(250, middle, 278))
    # Relevance, and interaction.
    parts.append(text("head", 284, 36, "relevance"))
    parts.append(text("small", 284, 56, "of every step to a pool", "of L latent interests"))
    parts.append(heat(284, top, 0.0))
    parts.append(arrow(438, middle, 466))
    parts.append(text("head", 472, 36, "interaction"))
    parts.append(text("small", 472, 56, "relevances attend to one", "another along the steps"))
    parts.append(heat(472, top, 0.45))
    last = top + 26 * (STEPS - 1)
    parts.append(f'<rect class="line" x="468.5" y="{last - 3:g}" width="156" height="28" rx="4"/>')
    parts.append(text("small", 284, 270, "interests 1 .. L across, time down"))
    parts.append(f'<path class="line" d="M625 {last + 11:g}H640V{middle:g}H647"/>')
    parts.append(f'<path class="tip" d="M655 {middle:g}l-9 -4.5v9z"/>')
    # Selection and fusion.
    parts.append(text("head", 660, 36, "K are kept"))
    parts.append(text("small", 660, 56, "and weighed; each has", "a small net"))
    for slot, (interest, weight) in enumerate(zip((8, 6, 1), (0.51, 0.32, 0.17), strict=True)):
        y = top + 8 + 42 * slot
        colour = COLOURS[KEPT.index(interest)]
        parts.append(rect("box", 660, y, 96, 30))
        parts.append(rect("", 660, y, 8, 30, 2, fill=colour))
        parts.append(text("small", 676, y + 19, f"no. {interest + 1}"))
        parts.append(text("small", 722, y + 19, f"{weight:.2f}"))
        parts.append(f'<path class="line" d="M757 {y + 15:g}L781 {middle:g}"/>')
    parts.append(f'<circle class="box" cx="792" cy="{middle:g}" r="11"/>')
    parts.append(text("mid", 792, middle + 4.5, "+"))
    parts.append(arrow(804, middle, 836))
    # Scores.
    parts.append(text("head", 842, 36, "scores"))
    parts.append(text("small", 842, 56, "of all items, by", "inner product"))
    for row, (share, kind) in enumerate(((1.0, 2), (0.84, 2), (0.6, 0), (0.42, 1), (0.25, 0))):
        y = top + 26 * row
        parts.append(f'<circle cx="848" cy="{y + 11:g}" r="5" fill="{COLOURS[kind]}"/>')
        parts.append(rect("bar", 860, y + 4, 136 * share, 14, 3))
    parts.append(text("small", 660, 270, "so a recommendation says which interests spoke for it"))
    body = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1020 300" role="img" aria-labelledby="title">\n'
        f'<title id="title">How SAIR scores items</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    (Path(__file__).resolve().parents[1] / "sair.svg").write_text(draw(), encoding="utf-8")
