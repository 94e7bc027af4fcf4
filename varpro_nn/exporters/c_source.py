"""A network as one C file: nothing but a C99 compiler is needed to run it.

``templates/predict.c`` holds the program. Here it gets its constants; of the blocks between lines
``//: names`` and ``//:`` it keeps those that the network needs.
"""

import re
from collections.abc import Iterator
from importlib import resources
from math import ceil, prod
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._io.atomic import write_atomically
from varpro_nn.exporters.folded import FoldedNetwork, fold
from varpro_nn.model.network import Network
from varpro_nn.output.features import VIEWS

_BLOCK = re.compile(r"^//: (.+)\n((?:.*\n)*?)//:\n", re.MULTILINE)
_LANES = 8
"""Units of a tile: one or two vectors of most processors."""
_MOST_PLACES = 8
"""Places worked on at once: as many sums as the registers of most processors hold."""


def to_c(network: Network, path: str | Path, *, int8: bool = False) -> None:
    """Write a network as one C99 file, atomically; the same network gives the same bytes.

    The file defines ``int varpro_predict(const uint8_t *pixels, float *probabilities)``: one image
    as bytes in the order (channels, rows, columns), to the number of its class; and
    ``varpro_labels``. Its first comment says how to call them and what memory they take.

    Parameters
    ----------
    network : varpro_nn.Network
    path : str or Path
    int8 : bool
        Weights are kept as bytes with scales (of each unit; in the linear layer of each row), in
        under a third of the memory, and become floats as they are used. By default they are in
        single precision, and probabilities are those of Python to about 1e-6.

    Raises
    ------
    TypeError
        Its units are a class of your own.
    ValueError
        Weights that single precision cannot hold.
    OSError
        The file cannot be written; an older one stays.

    Notes
    -----
    ``gcc -std=c99 -O3 -march=native`` makes fast code of it; ``-ffast-math`` is not needed.
    """
    write_atomically(Path(path), _source(fold(network), int8=int8).encode())


def _source(folded: FoldedNetwork, *, int8: bool) -> str:
    used = {"int8" if int8 else "float32", folded.activation, folded.views, folded.link}
    if folded.contrast is not None:
        used.add("contrast")
    template = (
        resources.files("varpro_nn.exporters").joinpath("templates/predict.c").read_text("utf-8")
    )
    known = {name for names, _ in _BLOCK.findall(template) for name in names.split(", ")}
    assert used <= known, f"predict.c knows nothing of {used - known}"
    kept = _BLOCK.sub(lambda block: block[2] if used & set(block[1].split(", ")) else "", template)
    arrays = _bytes(folded) if int8 else _singles(folded)
    names = [_literal(str(name)) for name in folded.classes.tolist()]
    return Template(kept).substitute(
        _sizes(folded, int8=int8),
        **{name: "\n".join(_initialiser(array)) for name, array in arrays.items()},
        n_bytes=f"{sum(array.nbytes for array in arrays.values()):,}",
        class_list="\n".join(f" *   {number}  {name}" for number, name in enumerate(names)),
        labels="\n".join(f"    {name}," for name in names),
        weight="int8_t" if int8 else "float",
        precision="8-bit integers with scales, used in single precision" if int8
        else "single precision",
        contrast=_number(max(np.float32(folded.contrast or 0), np.finfo(np.float32).tiny)),
        threshold=_number(np.float32(folded.threshold)),
        temperature=repr(float(folded.temperature)),
    )  # fmt: skip


def _sizes(folded: FoldedNetwork, *, int8: bool) -> dict[str, Any]:
    channels, rows, columns = folded.image_shape
    h, d = folded.filters.shape
    k, tiles, places = len(folded.classes), ceil(h / _LANES), _n_places(folded)
    floats = d * places + (folded.n_sides * tiles + places + d * int8) * _LANES + k
    image = 0 if folded.views == "single" else channels * rows * columns
    return {
        "image_shape": folded.image_shape,
        "channels": channels,
        "rows": rows,
        "columns": columns,
        "n_pixels": channels * rows * columns,
        "darkest": folded.byte_range[0],
        "lightest": folded.byte_range[1],
        "n_classes": k,
        "n_views": len(VIEWS[folded.views]),
        "n_sides": folded.n_sides,
        "n_units": h,
        "all_places": prod(int(bounds[-1]) for bounds in folded.bounds),
        "cell_rows": folded.grid[0],
        "cell_columns": folded.grid[1],
        "row_bounds": ", ".join(map(str, folded.bounds[0].tolist())),
        "column_bounds": ", ".join(map(str, folded.bounds[1].tolist())),
        "window_rows": folded.window[0],
        "window_columns": folded.window[1],
        "window_pixels": d,
        "stride": folded.stride,
        "lanes": _LANES,
        "tiles": tiles,
        "places": places,
        # Scalars with names and no array: only these stay in registers with every compiler.
        "sums_start": ", ".join(f"z{i} = 0.0f" for i in range(places)),
        "sums_add": "\n".join(f"{'':12}z{i} += P[p * PLACES + {i}] * f;" for i in range(places)),
        "sums_store": "\n".join(f"{'':8}z[{i} * LANES + u] = z{i};" for i in range(places)),
        "stack": f"{image + 4 * floats + 8 * k + 512:,}",
    }


def _n_places(folded: FoldedNetwork) -> int:
    """Choose how many places to work on at once."""
    rows, columns = (np.diff(bounds) for bounds in folded.bounds)
    cells = np.multiply.outer(rows, columns)
    # A pixel costs a product for each place and about two for its weights; the last block of a
    # cell has places that are not needed.
    cost = {n: np.ceil(cells / n).sum() * (n + 2) for n in range(1, _MOST_PLACES + 1)}
    return min(cost, key=cost.__getitem__)


def _singles(folded: FoldedNetwork) -> dict[str, NDArray[Any]]:
    """All constants by name, in single precision."""
    padding = -len(folded.bias) % _LANES
    return {
        "filters": _tiled(np.pad(_float32(folded.filters), ((0, padding), (0, 0)))),
        "bias": np.pad(_float32(folded.bias), (0, padding)),
        "linear": _float32(folded.A),
        "constant": _float32(folded.constant),
    }


def _bytes(folded: FoldedNetwork) -> dict[str, NDArray[Any]]:
    """All constants by name, weights as bytes and their scales."""
    singles = _singles(folded)
    h, k = len(folded.bias), len(folded.classes)
    filters = singles["filters"]  # (tiles, d, lanes)
    filter_scale = _scale(np.abs(filters).max(axis=1, keepdims=True) / 127)
    linear = singles["linear"].reshape(-1, h, k)
    # Rows differ: a scale for each class, or each cell and class, loses three times as much. But a
    # float for each row is much beside k bytes, so it is a byte times the scale of the cell.
    largest = np.abs(linear).max(axis=2, keepdims=True) / 127
    linear_scale = _scale(largest.max(axis=1, keepdims=True) / 255)
    step = np.ceil(largest / linear_scale).clip(1, 255).astype(np.uint8)
    return {
        **singles,
        "filters": _rounded(filters / filter_scale),
        "filter_scale": filter_scale,
        "linear": _rounded(linear / (linear_scale * step)),
        "linear_scale": linear_scale,
        "linear_step": step,
    }


def _tiled(filters: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sort filters (units, pixels) by tile, pixel, unit of the tile."""
    return filters.reshape(-1, _LANES, filters.shape[1]).swapaxes(1, 2)


def _scale(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    # Where all weights are 0, or so small that their scale is, any will do.
    return np.where(scale > 0, scale, np.float32(1))


def _rounded(weights: NDArray[Any]) -> NDArray[np.int8]:
    return np.rint(weights).clip(-127, 127).astype(np.int8)


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        msg = (
            f"network must have weights up to {np.finfo(np.float32).max:.3g} to be written in "
            f"single precision, got {np.abs(array).max():.3g}."
        )
        raise ValueError(msg)
    return single


def _number(value: np.floating[Any] | np.integer[Any]) -> str:
    """Write a constant; a float with the fewest digits that give the same float back."""
    return f"{value!s}f" if isinstance(value, np.floating) else str(value)


def _initialiser(array: NDArray[Any]) -> Iterator[str]:
    """Lines of up to 100 characters with all entries."""
    line = "   "
    for number in map(_number, array.ravel()):
        if len(line) + len(number) > 98:
            yield line
            line = "   "
        line += f" {number},"
    yield line


def _literal(text: str) -> str:
    """Write text as a C string that is also safe in a comment, whatever is in it."""
    # Octal escapes end after three digits. Question marks could begin a trigraph, an asterisk
    # could begin or end a comment.
    plain = set(range(32, 127)) - set(b'"\\?*')
    codes = text.encode("utf-8", "replace")
    return '"' + "".join(chr(code) if code in plain else f"\\{code:03o}" for code in codes) + '"'
