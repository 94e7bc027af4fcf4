"""Draw ``docs/inside.svg``: the packages by rank, with arrows of the imports that are there.

``python docs/draw_inside.py`` from the root of the repository. Ranks and imports are those of
``tests/test_layering.py``. An arrow that follows from two others is left out.
"""

import ast
import sys
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from test_layering import PACKAGE, RANK, imports, internal  # noqa: E402

COMMANDS = "train, predict, export"
BELOW_ALL = "errors, _typing, _settings, _io"
PLACES = {
    COMMANDS: 0, "report": 0, "estimators": 2, "exporters": 0, "training": 1.6, "model": 0.3,
    "output": 0.3, "varpro": 2, "units": 0, "compute": 1, "data": 0.3, "linalg": 1.6,
}  # fmt: skip
"""Column of each box."""
PURPOSES = {COMMANDS: "The command lines, and _cli, which they share."}
WIDTH, HEIGHT = 240, 80
ACROSS, DOWN, LEFT, TOP = 262, 116, 44, 12
LOWEST = TOP + 9 * DOWN


def box_of(package: str) -> str | None:
    """Name the box of a package or module; None for what nearly all import."""
    if RANK[package] == 0 or package in ("__init__", "__main__"):
        return None
    return COMMANDS if package in ("_cli", *COMMANDS.split(", ")) else package


def arrows() -> set[tuple[str, str]]:
    """Pairs of boxes, importing and imported, without those that a longer way implies."""
    below: dict[str, set[str]] = {name: set() for name in PLACES}
    for module, dotted_names in imports().items():
        box = box_of(module.split("/")[0])
        packages = {internal(dotted) for dotted in dotted_names} - {None, "__init__"}
        if box is not None:
            below[box] |= {box_of(str(p)) for p in packages} - {None, box}

    def reached(box: str) -> set[str]:
        return below[box].union(*(reached(other) for other in below[box]))

    return {
        (box, other)
        for box, others in below.items()
        for other in others
        if not any(other in reached(between) for between in others - {other})
    }


def purpose(box: str) -> str:
    """First sentence of the docstring of a package."""
    if box in PURPOSES:
        return PURPOSES[box]
    text = ast.get_docstring(ast.parse((PACKAGE / box / "__init__.py").read_text("utf-8"))) or ""
    return text.splitlines()[0].replace("``", "")


def corner(box: str) -> tuple[float, float]:
    """Left upper corner of a box."""
    rank = max(r for name, r in RANK.items() if r < 99 and box_of(name) == box)
    return LEFT + ACROSS * PLACES[box], TOP + DOWN * (9 - rank)


def draw() -> str:
    """Make the picture."""
    parts = []
    for upper, lower in sorted(arrows()):
        (x1, y1), (x2, y2) = corner(upper), corner(lower)
        # Where boxes lie side by side, an arrow leaves towards the other and does not cross over.
        lean = max(-0.38, min(0.38, (x2 - x1) / (2.5 * ACROSS))) * WIDTH
        x1, x2 = x1 + WIDTH / 2 + lean, x2 + WIDTH / 2 - lean
        parts.append(
            f'<line x1="{x1:.0f}" y1="{y1 + HEIGHT:.0f}" x2="{x2:.0f}" y2="{y2 - 3:.0f}" '
            'marker-end="url(#head)"/>'
        )
    for rank in range(9, 0, -1):
        parts.append(f'<text class="rank" x="16" y="{TOP + DOWN * (9 - rank) + 45}">{rank}</text>')
    for box in PLACES:
        x, y = corner(box)
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>')
        parts.append(f'<text class="name" x="{x + 12:.0f}" y="{y + 21:.0f}">{escape(box)}</text>')
        for number, line in enumerate(wrap(purpose(box), 37)):
            parts.append(f'<text x="{x + 12:.0f}" y="{y + 39 + 16 * number:.0f}">{line}</text>')
    parts += [
        f'<text class="rank" x="16" y="{LOWEST + 27}">0</text>',
        f'<rect x="{LEFT}" y="{LOWEST}" width="{2 * ACROSS + WIDTH}" height="44" rx="5"/>',
        f'<text x="{LEFT + 12}" y="{LOWEST + 27}"><tspan class="name">{BELOW_ALL}</tspan>'
        "&#160;&#160; All others may import these: no arrows.</text>",
    ]
    width, height = LEFT + 2 * ACROSS + WIDTH + 8, LOWEST + 52
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
            "<style>text{font:12px sans-serif;fill:#333}.name{font:bold 15px monospace;"
            "fill:#111}.rank{font:14px sans-serif;fill:#777}rect{fill:#eef3f9;stroke:#5b7fa6}"
            "line{stroke:#555;stroke-width:1.4}</style>",
            '<defs><marker id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" '
            'orient="auto"><path d="M0,0 L9,4 L0,8 z" fill="#555"/></marker></defs>',
            f'<path d="M0,0 H{width} V{height} H0 z" fill="#fff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    (ROOT / "docs" / "inside.svg").write_text(draw(), encoding="utf-8")
