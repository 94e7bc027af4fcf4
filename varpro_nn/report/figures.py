"""Figures of a report as markup: charts by matplotlib (SVG), images (PNG), and one table.

A chart is as sharp on paper as on a telephone, and its ink follows the reader's colour scheme:
colours are names that a style in the file itself gives values, one set for light pages and one for
dark ones. Matplotlib is imported where it is used; the user's own style of it plays no part, and
the same numbers give the same bytes.
"""

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._io.pages import fill
from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.errors import VarProError
from varpro_nn.varpro.history import Record

LARGEST_TABLE = 20
"""Classes up to which a confusion matrix has numbers."""
_COLOURS = {
    "ink": ("#1d2430", "#e6eaf1"),
    "soft": ("#5d6878", "#9aa5b5"),
    "line": ("#d9dee6", "#323a46"),
    "blue": ("#2563eb", "#6ea0ff"),
    "orange": ("#c2571a", "#f0965a"),
}
"""What charts are drawn in, on light pages and on dark ones."""
_INK, _SOFT, _LINE, _BLUE, _ORANGE = (light for light, _ in _COLOURS.values())
_FEW = 8
"""So many curves can be told apart by colour, and have a legend."""


def check_matplotlib() -> None:
    """Look for matplotlib before the work.

    Raises
    ------
    VarProError
        It is not installed.
    """
    try:
        import matplotlib  # noqa: F401  # not at the top: optional, and slow to load
    except ImportError as error:
        msg = f"a report needs matplotlib: pip install 'varpro-nn[plot]' ({error})"
        raise VarProError(msg) from error


def accepted(history: Sequence[Record]) -> list[int]:
    """Positions of the evaluations that a fit went on from, the start first.

    A derivative was taken there; but at the last one, for lack of evaluations, it may be missing.
    """
    found: list[int] = []
    for i, record in enumerate(history):
        lower = not found or record.cost < history[found[-1]].cost
        if lower or np.isfinite(record.optimality):
            found.append(i)
    return found


def cost_curves(
    histories: Mapping[str, Sequence[Record]],
    alt: str,
    *,
    by_time: bool,
    step: str = "evaluation",
) -> str:
    """Draw cost against evaluations or CPU seconds, a line for each name.

    ``step`` is the name of one entry of a history. Lines join the evaluations that were accepted;
    crosses are steps that were refused.
    """
    import matplotlib

    # Of middling brightness: they are seen on light and on dark.
    colours = matplotlib.colormaps["plasma"](np.linspace(0.32, 0.76, len(histories)))
    label = "CPU seconds of the sub-network" if by_time else step.capitalize()
    with _chart(label, "Cost", alt) as ((ax,), saved):
        lines = []
        for (name, history), colour in zip(histories.items(), colours, strict=True):
            x = [r.cpu_seconds if by_time else i for i, r in enumerate(history, 1)]
            y = np.array([record.cost for record in history])
            on = accepted(history)
            marker = "o" if len(on) < 40 else ""
            ax.plot(np.array(x)[on], y[on], color=colour, marker=marker, ms=3.5, label=name)
            off = np.setdiff1d(np.arange(len(x)), on)
            ax.plot(np.array(x)[off], y[off], "x", color=_SOFT)
            lines.append(y[on])
        low, high = np.concatenate(lines).min(), np.concatenate(lines).max()
        if 0 < 8 * low < high:
            ax.set_yscale("log")
        else:
            low = low - 0.05 * (high - low)
        ax.set_ylim(low / 1.1 if ax.get_yscale() == "log" else low, 1.04 * high)
        ax.locator_params(axis="x", integer=not by_time)
        if 1 < len(histories) <= _FEW:
            ax.legend(ncols=2, title="Sub-network", title_fontsize=9)
    return saved[0]


def growth_curve(
    sizes: Sequence[int],
    accuracies: Mapping[str, Sequence[float]],
    alt: str,
    *,
    n_test: int,
    whole: float,
    parameters: tuple[int, int],
) -> str:
    """Draw test accuracy against sub-networks glued, a line for each name.

    ``whole`` is the accuracy of the network of the run, a dashed line; of ``parameters``, along
    the top, each sub-network brings the second number, beyond the first.
    """
    fixed, of_one = parameters
    with _chart("Sub-networks glued", "Test accuracy, %", alt) as ((ax,), saved):
        for (name, values), style in zip(accuracies.items(), ("o", "s"), strict=False):
            colour, y = _BLUE if style == "o" else _ORANGE, 100 * np.array(values)
            error = np.sqrt(y * (100 - y) / n_test)
            ax.plot(sizes, y, color=colour, marker=style, ms=4.5, label=name)
            ax.fill_between(sizes, y - error, y + error, color=colour, alpha=0.2, lw=0)
        ax.axhline(100 * whole, color=_SOFT, ls="--", lw=1, label="network of this run")
        ax.set_xlim(0, 1.04 * sizes[-1] + 0.1)
        ax.locator_params(axis="x", integer=True)
        top = ax.secondary_xaxis(
            "top", functions=(lambda j: fixed + of_one * j, lambda p: (p - fixed) / of_one)
        )
        top.set_xlabel("All parameters")
        top.locator_params(axis="x", nbins=5)
        top.xaxis.set_major_formatter("{x:,.0f}")
        top.spines[:].set_visible(False)
        ax.legend(loc="best")
    return saved[0]


def singular_values(values: FloatArray, rank: int, alt: str) -> str:
    """Draw singular values, the largest first, and mark the rank."""
    with _chart("Number", "Singular value", alt) as ((ax,), saved):
        ax.set_yscale("log")
        there = values > 0
        ax.plot(np.arange(1, len(values) + 1)[there], values[there], color=_BLUE)
        least = values[:rank].min(initial=values[0])
        if least > 0:  # what is below is rounding
            ax.set_ylim(bottom=least / 3)
        ax.axvline(rank, color=_ORANGE, ls="--", lw=1.2, label=f"rank {rank:,}")
        ax.legend(loc="lower left")
    return saved[0]


def calibration(shares: FloatArray, confidence: FloatArray, accuracy: FloatArray, alt: str) -> str:
    """Draw what :func:`~varpro_nn.output.calibration.calibration_curve` gives, and the diagonal."""
    with _chart("Probability of the label given, %", "Correct, %", alt) as ((ax,), saved):
        ax.plot([0, 100], [0, 100], color=_SOFT, ls="--", lw=1, label="as sure as right")
        ax.plot(100 * confidence, 100 * accuracy, color=_BLUE, lw=1.2, label="network")
        areas = 12 + 150 * np.sqrt(shares)
        ax.scatter(100 * confidence, 100 * accuracy, areas, color=_BLUE, zorder=3)
        ax.set(xlim=(0, 104), ylim=(-4, 104))
        ax.legend(loc="upper left")
    return saved[0]


def vectors(filters: Mapping[int, RealArray], rank: int, alt: str) -> str:
    """Draw the vectors of some effective filters, a panel for each.

    Eigenvectors times eigenvalues of a symmetric filter; singular vectors of any other one, with
    the roots of the singular values. Of colour images the channel with the largest filter.
    """
    with _chart("Row or column of the image", "", alt, panels=len(filters)) as (axes, saved):
        for ax, (number, values) in zip(axes, filters.items(), strict=False):
            planes = values.reshape(-1, *values.shape[-2:]).astype(np.float64)
            F = planes[np.linalg.norm(planes, axis=(1, 2)).argmax()]
            scale = 1 / (np.abs(F).max() or 1.0)
            if F.shape[0] == F.shape[1] and np.allclose(F, F.T, atol=1e-5 / scale):
                e, V = np.linalg.eigh(scale * F)
                chosen = np.argsort(-np.abs(e))[: min(rank, 3)]
                lines = {f"eigenvector {i}": e[j] * V[:, j] for i, j in enumerate(chosen, 1)}
            else:
                U, s, Vt = np.linalg.svd(scale * F, full_matrices=False)
                sign = np.sign(U.sum(axis=0))[:, None]  # the library's choice is no one's
                u, v, lines = U.T * sign, Vt * sign, {}
                for i in range(min(rank, 2)):
                    lines |= {f"rows {i + 1}": s[i] ** 0.5 * u[i]}
                    lines |= {f"columns {i + 1}": s[i] ** 0.5 * v[i]}
            ax.axhline(0, color=_SOFT, lw=0.8)
            for (name, y), colour in zip(
                lines.items(), (_BLUE, _ORANGE, _SOFT, _INK), strict=False
            ):
                ax.plot(np.arange(1, len(y) + 1), y, color=colour, lw=1.4, label=name)
            ax.set_title(f"Unit {number}", fontsize=10)
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4
        )
    return saved[0]


def confusion(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """Make a table of a confusion matrix, errors in five shades; of many classes a picture."""
    k = len(names)
    errors = np.where(np.eye(k, dtype=bool), 0, counts)
    levels = np.sqrt(errors / max(1, errors.max()))
    shares = counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
    if k > LARGEST_TABLE:
        pixels = np.empty((k, k, 4))
        pixels[...] = np.where(np.eye(k, dtype=bool)[..., None], (37, 99, 235, 0), (217, 72, 15, 0))
        pixels[..., 3] = np.round(255 * (levels + np.diag(shares)))
        side = max(1, 800 // k)
        alt = f"Confusion matrix of {k} classes: {np.trace(counts):,} of {counts.sum():,} right"
        picture = _png(pixels.repeat(side, axis=0).repeat(side, axis=1), alt)
        return fill("varpro_nn.report", "confusion.html", picture=picture)
    rows = []
    for i, name in enumerate(names):
        shades = [f"wrong{np.ceil(5 * level):.0f}" for level in levels[i]]
        shades[i] = "right"
        rows.append((name, list(zip(shades, counts[i].tolist(), strict=True)), shares[i]))
    long = max(map(len, names)) > 4
    return fill(
        "varpro_nn.report", "confusion.html", picture=None, names=names, long=long, rows=rows
    )


def image(pixels: RealArray, alt: str, low: float = 0.0, high: float = 1.0) -> str:
    """Show an image (rows, columns) or (channels, rows, columns): ``low`` black, ``high`` white.

    Three channels are red, green and blue; of any other number the mean is shown.
    """
    array = pixels.astype(np.float64).reshape(-1, *pixels.shape[-2:])
    plane = np.moveaxis(array, 0, -1) if len(array) == 3 else array.mean(axis=0)
    scaled = (plane - low) / (high - low if high > low else 1.0)
    return _png(np.round(255 * np.clip(scaled, 0, 1)), alt)


def filter_image(values: RealArray, alt: str) -> str:
    """Show a filter: grey is 0, dark negative, light positive, scaled to its largest value."""
    largest = float(np.abs(values).max()) or 1.0
    return image(values, alt, -largest, largest)


def _png(pixels: FloatArray, alt: str) -> str:
    from PIL import Image  # not at the top: imported where it is used

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)).save(stream, "PNG", optimize=True)
    return _img("png", stream.getvalue(), alt, pixels.shape[1], pixels.shape[0])


def _img(kind: str, content: bytes, alt: str, width: int, height: int) -> str:
    data = base64.b64encode(content).decode()
    return fill(
        "varpro_nn.report", "image.html", kind=kind, data=data, alt=alt, width=width, height=height
    )


@contextmanager
def _chart(x: str, y: str, alt: str, panels: int = 1) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; at the end their picture is in the list."""
    import matplotlib.style
    from matplotlib.figure import Figure

    style = {
        "svg.hashsalt": "varpro_nn", "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"],
        "text.color": _INK, "axes.edgecolor": _SOFT, "axes.labelcolor": _INK, "axes.grid": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "grid.color": _LINE, "xtick.color": _SOFT, "ytick.color": _SOFT, "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK, "lines.linewidth": 1.8, "lines.markersize": 5,
        "legend.frameon": False, "legend.fontsize": 9,
    }  # fmt: skip
    saved: list[str] = []
    with matplotlib.style.context(["default", style]):
        columns = min(3, panels)
        rows = -(-panels // columns)
        size = (5.2, 3.5) if panels == 1 else (2.7 * columns, 0.7 + 1.7 * rows)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for ax in axes[panels:]:
            ax.set_visible(False)
        (axes[0].set_xlabel if panels == 1 else figure.supxlabel)(x, fontsize=10)
        axes[0].set_ylabel(y)
        yield axes[:panels], saved
        stream = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = re.sub(r"(?s)^.*?(?=<svg)", "", stream.getvalue().decode())
    text = text.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")
    for name, (light, _) in _COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    light, dark = (
        ";".join(f"--{name}:{colours[scheme]}" for name, colours in _COLOURS.items())
        for scheme in (0, 1)
    )
    # Paper is white, whatever the screen is.
    rules = f"svg{{{light}}}@media screen and (prefers-color-scheme:dark){{svg{{{dark}}}}}"
    text = text.replace("<defs>", f"<style>{rules}</style><defs>", 1)
    saved.append(_img("svg+xml", text.encode(), alt, *(round(96 * side) for side in size)))
