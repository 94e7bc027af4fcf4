"""A network as one C file: nothing but a C99 compiler is needed to run it.

``templates/predict.c`` holds the program, ``templates/layer.c`` what it needs for each layer. Here
they get their constants. Blocks between lines ``//: names`` and ``//:`` are kept only if the
network needs them. Names in lower layers have the number of the layer as a suffix: ``filters_1``.
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
from varpro_nn._typing import FloatArray
from varpro_nn.exporters.folded import LINEAR, FoldedLayer, FoldedNetwork, fold
from varpro_nn.model.network import Network
from varpro_nn.output.features import VIEWS

_BLOCK = re.compile(r"^//: (.+)\n((?:.*\n)*?)//:\n", re.MULTILINE)
_NAME = re.compile(r"^static [^;={]*?(\w+)(?:\[|\()", re.MULTILINE)
_CONSTANT = re.compile(r"\b([A-Z][A-Z_]+) = ")
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
    *below, last = folded.layers
    suffixes = [*(f"_{number}" for number in range(1, len(folded.layers))), ""]
    constants = [
        _constants(layer, int8=int8) | _linear(linear, int8=int8)
        for layer, linear in zip(folded.layers, folded.linear, strict=True)
    ]
    layers = [
        _layer(layer, under, _text(arrays), suffix, int8=int8)
        for layer, under, arrays, suffix in zip(
            folded.layers, [None, *below], constants, suffixes, strict=True
        )
    ]
    inputs = ["image", *(f"maps{suffix}" for suffix in suffixes[:-1])]
    calls = [
        f"{'':8}float {maps}[CELL_ROWS{suffix} * CELL_COLUMNS{suffix} * N_MAPS{suffix}];\n"
        f"{'':8}make_maps{suffix}({taken}, {maps});\n"
        + (f"{'':8}add_maps{suffix}({maps}, outputs);\n" if layer.shown else "")
        for layer, taken, maps, suffix in zip(below, inputs, inputs[1:], suffixes, strict=False)
    ]
    constant = {"constant": _float32(folded.constant)}
    arrays = [array for some in (*constants, constant) for array in some.values()]
    names = [_literal(str(name)) for name in folded.classes.tolist()]
    used = {_weight(int8=int8), folded.views, folded.link}
    used.update(layer.activation for layer in folded.layers)
    if last.contrast is not None:
        used.add("contrast")
    channels, rows, columns = folded.image_shape
    return Template(_kept("predict.c", used)).substitute(
        _text(constants[-1] | constant),
        image_shape=folded.image_shape,
        channels=channels,
        rows=rows,
        columns=columns,
        n_pixels=channels * rows * columns,
        darkest=folded.byte_range[0],
        lightest=folded.byte_range[1],
        n_classes=len(names),
        n_views=len(VIEWS[folded.views]),
        lanes=_LANES,
        units="\n".join(map(_described, folded.layers)),
        n_bytes=f"{sum(array.nbytes for array in arrays):,}",
        stack=f"{_stack(folded, int8=int8):,}",
        class_list="\n".join(f" *   {number}  {name}" for number, name in enumerate(names)),
        labels="\n".join(f"    {name}," for name in names),
        layers="\n\n".join(layer.rstrip() for layer in layers),
        maps="".join(calls),
        input="float" if below else "uint8_t",
        source=inputs[-1],
        weight="int8_t" if int8 else "float",
        precision="8-bit integers with scales, used in single precision" if int8
        else "single precision",
        temperature=repr(float(folded.temperature)),
    )  # fmt: skip


def _layer(
    layer: FoldedLayer,
    under: FoldedLayer | None,
    arrays: dict[str, str],
    suffix: str,
    *,
    int8: bool,
) -> str:
    """C text of a layer; ``under`` is the layer below it, ``suffix`` is empty for the last."""
    used = {_weight(int8=int8), layer.activation, "image" if under is None else "maps"}
    if layer.contrast is not None:
        used.add("contrast")
    if suffix:
        used.add("below")
        if layer.contrast is not None:
            used.add("below-contrast")
    if layer.shown is not None:
        used |= {"shown", "shown-int8"} if int8 else {"shown"}
    text = Template(_kept("layer.c", used)).substitute(
        _sizes(layer, together=bool(suffix)),
        **arrays,
        **({} if under is None else _inputs(under)),
        weight="int8_t" if int8 else "float",
        input="uint8_t" if under is None else "float",
    )
    return _renamed(text, suffix) if suffix else text


def _weight(*, int8: bool) -> str:
    return "int8" if int8 else "float32"


def _kept(template: str, used: set[str]) -> str:
    """Text of a template without the blocks that are not used."""
    path = resources.files("varpro_nn.exporters").joinpath(f"templates/{template}")
    return _BLOCK.sub(
        lambda block: block[2] if used & set(block[1].split(", ")) else "", path.read_text("utf-8")
    )


def _renamed(layer: str, suffix: str) -> str:
    """Add the suffix to all names that the text of a layer defines for the file."""
    names = set(_NAME.findall(layer)) | set(_CONSTANT.findall(layer))
    return re.sub(rf"\b({'|'.join(sorted(names))})\b", rf"\1{suffix}", layer)


def _described(layer: FoldedLayer) -> str:
    h, (rows, columns) = len(layer.bias), layer.window
    what = "Directions of a projection" if layer.activation == LINEAR else "Units"
    places = f"{prod(layer.places)} places of a window of {rows} x {columns} pixels"
    return f" * {what}: {h}, each at {places}."


def _sizes(layer: FoldedLayer, *, together: bool) -> dict[str, Any]:
    places = _n_places(layer, together=together)
    of_rows, of_columns = (
        np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)) for bounds in layer.bounds
    )
    return {
        "n_sides": layer.n_sides,
        "n_units": len(layer.bias),
        "cell_rows": layer.grid[0],
        "cell_columns": layer.grid[1],
        "row_bounds": ", ".join(map(str, layer.bounds[0].tolist())),
        "column_bounds": ", ".join(map(str, layer.bounds[1].tolist())),
        "window_rows": layer.window[0],
        "window_columns": layer.window[1],
        "window_pixels": layer.filters.shape[1],
        "stride": layer.stride,
        "tiles": _n_tiles(layer),
        "places": places,
        "all_places": prod(layer.places),
        "place_columns": layer.places[1],
        "cell_of_row": "\n".join(_initialiser(of_rows)),
        "cell_of_column": "\n".join(_initialiser(of_columns)),
        **_sizes_shown(layer),
        "contrast": _number(max(np.float32(layer.contrast or 0), np.finfo(np.float32).tiny)),
        "threshold": _number(np.float32(layer.threshold)),
        # Scalars with names and no array: only these stay in registers with every compiler.
        "sums_start": ", ".join(f"z{i} = 0.0f" for i in range(places)),
        "sums_add": "\n".join(f"{'':12}z{i} += P[p * PLACES + {i}] * f;" for i in range(places)),
        "sums_store": "\n".join(f"{'':8}z[{i} * LANES + u] = z{i};" for i in range(places)),
    }


def _sizes_shown(layer: FoldedLayer) -> dict[str, Any]:
    """Sizes of the larger cells of maps that the output layer sees."""
    if layer.shown is None:
        return {}
    rows, columns = (", ".join(map(str, bounds.tolist())) for bounds in layer.shown)
    return {
        "large_rows": layer.grid_shown[0],
        "large_columns": layer.grid_shown[1],
        "large_row_bounds": rows,
        "large_column_bounds": columns,
    }


def _inputs(below: FoldedLayer) -> dict[str, int]:
    """Sizes of the maps that a layer takes."""
    return {
        "in_sides": below.n_sides,
        "in_units": len(below.bias),
        "in_columns": below.grid[1],
        "in_maps": below.n_sides * _n_tiles(below) * _LANES,
    }


def _n_tiles(layer: FoldedLayer) -> int:
    return ceil(len(layer.bias) / _LANES)


def _stack(folded: FoldedNetwork, *, int8: bool) -> int:
    """Bytes of the stack, about: the view, the maps of all layers, and the work of one of them."""
    *below, last = folded.layers
    image = 0 if folded.views == "single" else prod(folded.image_shape)
    maps = sum(prod(layer.grid) * _inputs(layer)["in_maps"] for layer in below)
    work = 0
    for layer in folded.layers:
        d, places = layer.filters.shape[1], _n_places(layer, together=layer is not last)
        sums = layer.n_sides * _n_tiles(layer) if layer is last else 0
        work = max(work, d * places + (sums + places + d * int8) * _LANES)
    k = len(folded.classes)
    return image + 4 * (maps + work + k) + 8 * k + 512


def _n_places(layer: FoldedLayer, *, together: bool) -> int:
    """Choose how many places to work on at once: in a cell, or across all cells ``together``."""
    rows, columns = (np.diff(bounds) for bounds in layer.bounds)
    cells = np.array(prod(layer.places)) if together else np.multiply.outer(rows, columns)
    # A pixel costs a product for each place and about two for its weights; the last block has
    # places that are not needed.
    cost = {n: np.ceil(cells / n).sum() * (n + 2) for n in range(1, _MOST_PLACES + 1)}
    return min(cost, key=cost.__getitem__)


def _constants(layer: FoldedLayer, *, int8: bool) -> dict[str, NDArray[Any]]:
    """Return filters and bias by name, filters in single precision or as bytes with scales."""
    padding = -len(layer.bias) % _LANES
    filters = _tiled(np.pad(_float32(layer.filters), ((0, padding), (0, 0))))
    bias = {"bias": np.pad(_float32(layer.bias), (0, padding))}
    if not int8:
        return {"filters": filters, **bias}
    scale = _scale(np.abs(filters).max(axis=1, keepdims=True) / 127)  # of (tiles, d, lanes)
    return {"filters": _rounded(filters / scale), "filter_scale": scale, **bias}


def _linear(weights: FloatArray, *, int8: bool) -> dict[str, NDArray[Any]]:
    """Return linear weights (sides, cells, h, k) by name, in single precision or as bytes."""
    linear = _float32(weights).reshape(-1, *weights.shape[2:])
    if not int8 or not linear.size:
        return {"linear": linear}
    # Rows differ: a scale for each class, or each cell and class, loses three times as much. But a
    # float for each row is much beside k bytes, so it is a byte times the scale of the cell.
    largest = np.abs(linear).max(axis=2, keepdims=True) / 127
    linear_scale = _scale(largest.max(axis=1, keepdims=True) / 255)
    step = np.ceil(largest / linear_scale).clip(1, 255).astype(np.uint8)
    return {
        "linear": _rounded(linear / (linear_scale * step)),
        "linear_scale": linear_scale,
        "linear_step": step,
    }


def _text(arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    return {name: "\n".join(_initialiser(array)) for name, array in arrays.items()}


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
