"""The figure of the field: test error against CPU seconds of training and against parameters."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.shared.figures import drawn, legend, log_log

TRAINED, DRAWN, LIBRARY, ADAM, LM = (
    "this project", "the same, units as drawn", "scikit-learn, hpelm", "PyTorch, Adam",
    "PyTorch, Levenberg-Marquardt",
)  # fmt: skip
STYLES = {
    TRAINED: ("o", "#0072B2"),
    DRAWN: ("^", "#009E73"),
    LIBRARY: ("D", "#CC79A7"),
    ADAM: ("s", "#D55E00"),
    LM: ("v", "#000000"),
}
"""Marker and colour (Okabe and Ito's, safe for the colour-blind) of each kind of row."""
SHORT = {
    "-untrained": ", drawn", "-logistic": "", "MLPClassifier": "MLP", "RandomForest": "forest",
    "HistGradientBoosting": "boosting", "-first-10000": ", 10,000", "-1000": " 1,000",
    "-5200": " 5,200",
}  # fmt: skip
"""Parts of names as they are drawn."""
AXES = {"cpu_seconds": "CPU seconds of training", "n_parameters": "parameters, all"}
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


class Point(NamedTuple):
    """A row; those of one name are joined by a line."""

    name: str
    kind: str
    cpu_seconds: float
    n_parameters: float
    error: float


def draw(points: Sequence[Point], title: str, path: Path) -> None:
    """Draw both panels, all axes logarithmic."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    names = dict.fromkeys(point.name for point in points)
    named = [[point for point in points if point.name == name] for name in names]
    best = [min(mine, key=lambda point: point.error) for mine in named]
    with drawn(path, (1, 2), (13, 7), sharey=True) as (figure, (panels,)):
        for panel, (quantity, meaning) in zip(panels, AXES.items(), strict=True):
            for mine in named:
                kind = mine[0].kind
                marker, colour = STYLES[kind]
                panel.plot(
                    [getattr(point, quantity) for point in mine],
                    [point.error for point in mine],
                    color=colour, marker=marker, markersize=6, linewidth=1, label=kind,
                    zorder=3 if kind in (TRAINED, DRAWN) else 2,
                )  # fmt: skip
            log_log(panel, meaning)
            panel.margins(x=0.12, y=0.06)
        panels[0].set_ylabel("test error, %")
        for axis in (panels[0].yaxis, panels[0].xaxis, panels[1].xaxis):
            axis.set_major_locator(
                LogLocator(subs=(1, 2, 3, 5, 7) if axis is panels[0].yaxis else (1,))
            )
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            axis.set_minor_formatter(NullFormatter())
        handles, kinds = panels[0].get_legend_handles_labels()
        legend(figure, dict(zip(kinds, handles, strict=True)), len(STYLES))
        figure.suptitle(title)
        figure.draw_without_rendering()  # settles where the points lie
        for panel, quantity in zip(panels, AXES, strict=True):
            _label(panel, [(getattr(point, quantity), point) for point in best])


def _shown(name: str) -> str:
    """Shorten a name: the legend says what it is of."""
    for long, short in SHORT.items():
        name = name.replace(long, short)
    return name


def _label(panel: Any, points: Sequence[tuple[float, Point]]) -> None:
    """Write names beside points, at these x, where they cover least of lines and other names."""
    taken: list[Box] = []
    for line in panel.lines:
        ends = panel.transData.transform(line.get_xydata())
        taken += 3 * [(x - 10, y - 10, x + 10, y + 10) for x, y in ends]  # worse than a line
        for start, end in pairwise(ends):
            between = start + np.linspace(0, 1, 100)[:, None] * (end - start)
            taken += [(x - 2, y - 2, x + 2, y + 2) for x, y in between]
    # The first ones are the nearest: 40 square pixels covered are better than the next one.
    places = [(8, 0, "left"), (-8, 0, "right"), (0, 13, "center"), (0, -13, "center")]
    places += [(x, y, side) for x, side in ((7, "left"), (-7, "right")) for y in (9, -9)]
    places += [(0, 22, "center"), (0, -22, "center")]
    places += [(x, y, side) for x, side in ((12, "left"), (-12, "right")) for y in (20, -20)]
    frame = panel.get_window_extent().extents
    candidates: list[list[tuple[Any, Box, float]]] = []
    for x, point in points:
        own = []
        for number, (dx, dy, side) in enumerate(places):
            note = panel.annotate(
                _shown(point.name), (x, point.error), (dx, dy), textcoords="offset points",
                ha=side, va="center", color=STYLES[point.kind][1], fontsize=8, in_layout=False,
            )  # fmt: skip
            box = tuple(note.get_window_extent().extents)
            covered = sum(_overlap(box, other) for other in taken)
            outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
            own.append((note, box, covered + 4 * outside + 40 * number))
        candidates.append(own)
    best: dict[int, int] = {}
    for _ in range(5):  # a label may move once the others have found their places
        for i, own in enumerate(candidates):
            others = [candidates[j][k][1] for j, k in best.items() if j != i]
            costs = [cost + sum(4 * _overlap(box, o) for o in others) for _, box, cost in own]
            best[i] = costs.index(min(costs))
    for i, own in enumerate(candidates):
        for k, (note, _, _) in enumerate(own):
            if k != best[i]:
                note.remove()


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
