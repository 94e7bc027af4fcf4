"""Figures of the tables: the option that asks for one, its panels, its file."""

import argparse
import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.shared.options import file_name
from varpro_nn._io.atomic import write_atomically

SUFFIXES = (".svg", ".png", ".pdf")
UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def add_figure(options: argparse.ArgumentParser) -> None:
    """Add ``--figure FILE``; a name that cannot be drawn to is refused at once."""
    told = f"draw it: {', '.join(SUFFIXES)}"
    options.add_argument("--figure", type=_figure_file, metavar="FILE", help=told)


def _figure_file(text: str) -> Path:
    if Path(text).suffix not in SUFFIXES:
        msg = f"must end with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    if importlib.util.find_spec("matplotlib") is None:
        msg = "a figure needs matplotlib: pip install -e '.[experiments]'"
        raise argparse.ArgumentTypeError(msg)
    return file_name(text)


@contextmanager
def drawn(
    path: Path, shape: tuple[int, int], size: tuple[float, float], dpi: int = 150, **subplots: Any
) -> Iterator[tuple[Any, Any]]:
    """Give a figure of ``size`` (inches) and its panels, (rows, columns); save it at the end.

    The same drawing gives the same file, which is there whole or not at all.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "varpro_nn"}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots(*shape, squeeze=False, **subplots)
        stream = io.BytesIO()
        kind = path.suffix.removeprefix(".")
        figure.savefig(stream, format=kind, metadata=UNDATED.get(path.suffix), dpi=dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, stream.getvalue())


def log_log(panel: Any, quantity: str) -> None:
    """Make both axes logarithmic, ``quantity`` along the lower one."""
    panel.set(xscale="log", yscale="log", xlabel=quantity)
    panel.grid(True, which="major", color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def legend(figure: Any, handles: dict[str, Any], columns: int) -> None:
    """Put the legend of all panels below them."""
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False
    )
