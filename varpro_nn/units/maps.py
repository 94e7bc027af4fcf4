r"""Units on maps: a second layer, whose input is the output of a fixed first layer.

The layer below has units on windows with weights that no longer change. Its cells are the pixels of
maps, one for each unit and side of the activation. The windows of all maps at a place are projected
on their leading directions, whitened. This is a linear map, learnt once and applied once:

    M[:, y, x] = whitening (window of the maps at (y, x) - centre),     (d, rows, columns).

The units of the layer see these ``d`` numbers at each place, as patch units see one pixel of an
image with ``d`` channels. A unit has ``d + 1`` weights. Without the projection, a unit on 3 x 3
windows of 128 maps would have 1,153 weights, and as many products at each place.

The layer below may itself be one on maps, so there may be any number of layers.

For features alone, the projection is folded into the weights of the units, where that takes no more
products (:func:`folded`): a unit then is a filter on the windows of the maps themselves.

The output layer can see the lower layers too (``cells_below``). Their maps, pooled to a few cells,
are additional columns of ``Phi``, which do not depend on the weights of the units.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._arrays import plain_array
from varpro_nn._typing import FloatArray, ImageArray, RealArray
from varpro_nn.units.activations import sides
from varpro_nn.units.contract import Units
from varpro_nn.units.inputs import check_shape
from varpro_nn.units.patches import IMAGES, PatchUnits
from varpro_nn.units.registry import with_n_units
from varpro_nn.units.whitening import check_whitening, whitening_of
from varpro_nn.units.windows import Windows, cell_bounds, cell_sizes, sums_of_cells

N_IMAGES = 2000
"""Images from whose maps the projection is learnt."""
BLOCK = 2**22
"""Numbers of the windows that are looked at together: 32 MiB."""
N_DRAWN = 500
"""Images from whose maps weights are drawn."""
MOST_LAYERS = 10
"""Layers that a file may have: a deeper chain would exhaust the stack of Python."""
N_WINDOWS = 20_000
"""Windows of maps that the projection is learnt from; at least ``PER_PIXEL`` for each pixel."""
PER_PIXEL = 10
"""Least number of windows for each pixel of a window."""


@dataclass(frozen=True, eq=False)
class Maps:
    """A fixed layer and the projection of its maps; made by :func:`learn_maps`.

    Attributes
    ----------
    units : PatchUnits or UnitsOnMaps
        The layer.
    W : ndarray of float32, shape (h, p)
        Its weights.
    window : int
        Side of the windows of its maps.
    centre : ndarray of float64, shape (pixels of a window,), or None
    whitening : ndarray of float64, shape (d, pixels of a window), or None
        The projection. None if it is folded into the units above, which then see the maps.
    """

    units: "PatchUnits | UnitsOnMaps"
    W: NDArray[np.float32] = field(repr=False)
    window: int
    centre: FloatArray | None = field(repr=False)
    whitening: FloatArray | None = field(repr=False)

    @property
    def windows(self) -> Windows:
        """Windows of the maps."""
        return Windows(shape_of_maps(self.units, len(self.W)), self.window, stride=1, grid=1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the result for one image: (d, rows, columns)."""
        if self.whitening is None:
            return shape_of_maps(self.units, len(self.W))
        return (len(self.whitening), *self.windows.places)

    def __call__(self, images: ImageArray, dtype: Any = np.float32) -> RealArray:
        """Compute the projected maps of images.

        Parameters
        ----------
        images : ndarray, shape (n, ...)
        dtype : numpy dtype
            Of the products and of the result.

        Returns
        -------
        ndarray, shape (n, d, rows, columns)
        """
        return self.with_cells(images, 0, dtype)[0]

    def n_columns(self, cells: int) -> int:
        """Count the columns that :meth:`with_cells` makes of this layer and all below it."""
        below = self.units.below.n_columns(cells) if isinstance(self.units, UnitsOnMaps) else 0
        return len(sides(self.units.activation)) * cells**2 * len(self.W) + below

    def with_cells(
        self, images: ImageArray, cells: int, dtype: Any = np.float32
    ) -> tuple[RealArray, RealArray]:
        """Compute the projected maps; pool the maps of this and all lower layers to a few cells.

        Parameters
        ----------
        images : ndarray, shape (n, ...)
        cells : int
            Along each side of a map; 0 for no columns.
        dtype : numpy dtype
            Of the products and of the results.

        Returns
        -------
        M : ndarray, shape (n, d, rows, columns)
        columns : ndarray, shape (n, ``n_columns(cells)``)
            Means over the pixels of each cell, the lowest layer first. Within a layer they are
            ordered by side, row of cells, column of cells, unit.
        """
        layers = self._layers(dtype)
        lowest, _, _ = layers[0]
        images = plain_array(images, "inputs")
        M = np.empty((len(images), *self.shape), dtype=dtype)
        columns = np.empty((len(images), self.n_columns(cells)), dtype=dtype)
        for start in range(0, len(images), IMAGES):
            rows = slice(start, start + IMAGES)
            maps, seen = lowest.innermost(images[rows], dtype), []
            for units, filters, fixed in layers:
                by_cells = units.cells(filters, maps)
                if cells:
                    seen.append(_in_larger_cells(by_cells, cells))
                maps = fixed._projected(by_cells.reshape(-1, *by_cells.shape[2:]))
            M[rows] = np.moveaxis(maps, -1, 0)
            if cells:
                columns[rows] = np.concatenate(seen, axis=1)
        return M, columns

    def _layers(self, dtype: Any) -> list[tuple[PatchUnits, RealArray, "Maps"]]:
        """Units of each layer, the lowest first, their filters, and what projects their maps."""
        units, W = folded(self.units, self.W.astype(np.float64))
        below = units.below._layers(dtype) if isinstance(units, UnitsOnMaps) else []
        top = units.top if isinstance(units, UnitsOnMaps) else units
        return [*below, (top, top.effective_filters(W).astype(dtype), self)]

    def _projected(self, maps: RealArray) -> RealArray:
        """Project the windows of maps (channels, rows, columns, b): (d, rows, columns, b)."""
        if self.whitening is None or self.centre is None:
            return maps
        windows, b, dtype = self.windows, maps.shape[-1], maps.dtype
        whitening = self.whitening.astype(dtype)
        shift = (self.whitening @ self.centre).astype(dtype)[:, None]
        projected = np.empty((*self.shape, b), dtype=dtype)
        for _, rows in windows.bands(windows.places[1] * b):
            shape = (rows.stop - rows.start, windows.places[1], b)
            P = np.empty((windows.n_pixels, *shape), dtype=dtype)
            windows.collect_rows(maps, rows, P)
            of_rows = whitening @ P.reshape(windows.n_pixels, -1)
            of_rows -= shift
            projected[:, rows] = of_rows.reshape(-1, *shape)
        return projected


@dataclass(frozen=True, eq=False)
class UnitsOnMaps:
    """A layer of patch units on the maps of a fixed layer; made by :func:`units_on_maps`.

    Attributes
    ----------
    units : PatchUnits
        On images of the shape of the projected maps.
    below : Maps
    n_units : int
    cells_below : int
        Cells along each side to which the maps of every lower layer are pooled for the output
        layer. With 0 it sees only the units. The features of the units do not depend on it.
    """

    units: PatchUnits
    below: Maps
    n_units: int
    cells_below: int = 0

    @property
    def top(self) -> PatchUnits:
        """The patch units of this layer alone, as many as it has."""
        top: Any = with_n_units(self.units, self.n_units)
        return top

    @property
    def kind(self) -> str:
        """Scalarisation of the units."""
        return self.units.kind

    @property
    def activation(self) -> str:
        """Activation of the units."""
        return self.units.activation

    @property
    def grid(self) -> int:
        """Cells along each side."""
        return self.units.grid

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the images that the lowest layer takes."""
        return self.below.units.image_shape

    @property
    def n_cells(self) -> int:
        """Columns of one unit."""
        return self.units.n_cells

    @property
    def n_weights(self) -> int:
        """Weights of one unit, the bias included."""
        return self.units.n_weights

    def spec(self) -> dict[str, Any]:
        """All choices as plain values, for a model file; the arrays are apart in ``arrays``."""
        below = {"units": self.below.units.spec(), "window": self.below.window}
        seen = {"cells_below": self.cells_below} if self.cells_below else {}
        return {
            "place": "maps", "n_units": self.n_units, "units": self.units.spec(), "below": below,
            **seen,
        }  # fmt: skip

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """What is fixed below: weights, projection, and what the units there have learnt."""
        own = {name: getattr(self.below, name) for name in ("W", "centre", "whitening")}
        return own | {f"below.{name}": a for name, a in self.below.units.arrays.items()}

    def on_top(self, inputs: ImageArray, dtype: Any = np.float32) -> tuple[PatchUnits, RealArray]:
        """Compute the maps once: the units of this layer alone, and what they take."""
        check_shape(inputs, self.image_shape)
        return self.top, self.below(inputs, dtype)

    def init(self, inputs: ImageArray, rng: np.random.Generator) -> FloatArray:
        """Draw weights as patch units do, on the maps of some of the inputs."""
        units, maps = self.on_top(_some(inputs, rng, N_DRAWN))
        return units.init(maps, rng)

    def features(self, W: RealArray, inputs: ImageArray) -> RealArray:
        """Activations, pooled, (n, h * m)."""
        units, W = folded(self, W)
        top, maps = units.on_top(inputs, W.dtype)
        return top.features(W, maps)

    def features_and_derivative(
        self, W: RealArray, inputs: ImageArray
    ) -> tuple[RealArray, RealArray]:
        """Activations (n, h * m) and their derivative (n, m, h, p)."""
        check_shape(inputs, self.image_shape)
        return self.units.features_and_derivative(W, self.below(inputs, W.dtype))


def last_layer(
    units: Any, inputs: ImageArray, dtype: Any = np.float32
) -> tuple[Any, RealArray | ImageArray]:
    """Return the units of the last layer alone and their inputs, maps computed once.

    Units of one layer are returned unchanged, with ``inputs``.
    """
    return units.on_top(inputs, dtype) if isinstance(units, UnitsOnMaps) else (units, inputs)


def last_layer_and_below(
    units: Any, inputs: ImageArray, dtype: Any = np.float32
) -> tuple[Any, RealArray | ImageArray, RealArray]:
    """As :func:`last_layer`, and return the columns of the lower layers too.

    They have shape (n, ``n_columns_below(units)``). Each map is computed once.
    """
    if not isinstance(units, UnitsOnMaps):
        return units, inputs, np.empty((len(inputs), 0), dtype)
    check_shape(inputs, units.image_shape)
    return units.top, *units.below.with_cells(inputs, units.cells_below, dtype)


def seeing(units: Any, cells: int) -> Any:
    """Return units with ``cells_below=cells``. Units of one layer are returned unchanged."""
    return replace(units, cells_below=cells) if isinstance(units, UnitsOnMaps) else units


def n_columns_below(units: Units) -> int:
    """Count the columns of the output layer that come from lower layers."""
    return units.below.n_columns(units.cells_below) if isinstance(units, UnitsOnMaps) else 0


def n_columns(units: Units, n_units: int | None = None) -> int:
    """Count the columns of the output layer: ``n_units`` units (default: all) and lower layers."""
    h = units.n_units if n_units is None else n_units
    return h * units.n_cells + n_columns_below(units)


def folded(units: Any, W: RealArray) -> tuple[Any, RealArray]:
    r"""Fold projections of maps into the weights of the units on them, if that saves products.

    A projection ``M = whitening (P - centre)`` and a filter ``f`` on windows of ``M`` together are
    one filter on larger windows of the maps. For windows of one pixel of ``M`` it is

        f' = whitening' f,        b' = b - f' centre.

    The features differ by rounding only. Derivatives with respect to the original weights are not
    available. Other units are returned unchanged.

    Parameters
    ----------
    units : Units
    W : ndarray, shape (h, p)
        Weights of any number of the units.

    Returns
    -------
    units : Units
    W : ndarray, shape (h, new p)
        Folded weights, with the dtype of ``W``.
    """
    if type(units) is not UnitsOnMaps or units.units.contrast is not None:
        return units, W
    below, top, h = units.below, units.units, units.n_units
    centre, whitening = below.centre, below.whitening
    if centre is None or whitening is None:  # already folded
        return units, W
    maps, d, window = shape_of_maps(below.units, len(below.W)), len(whitening), below.window
    on_maps = replace(top, kind="dense", image_shape=maps, window=top.window + window - 1, rank=1)
    apart = prod(below.windows.places) * whitening.size
    apart += prod(top.windows.places) * h * top.windows.n_pixels
    if prod(on_maps.windows.places) * h * on_maps.windows.n_pixels > apart:
        return units, W
    F = top.effective_filters(W.astype(np.float64))
    of_pixels = F[:, :-1].reshape(len(F), d, top.window, top.window)
    of_windows = whitening.reshape(d, maps[0], window, window)
    filters = np.zeros((len(F), *on_maps.windows.shape))
    for y in range(top.window):
        for x in range(top.window):
            part = np.tensordot(of_pixels[:, :, y, x], of_windows, axes=1)
            filters[:, :, y : y + window, x : x + window] += part
    bias = F[:, -1] - of_pixels.sum(axis=(2, 3)) @ (whitening @ centre)
    new = np.concatenate([filters.reshape(len(F), on_maps.windows.n_pixels), bias[:, None]], axis=1)
    alone = Maps(below.units, below.W, 1, None, None)
    return replace(units, units=on_maps, below=alone), new.astype(W.dtype)


def shape_of_maps(units: "PatchUnits | UnitsOnMaps", n_units: int) -> tuple[int, int, int]:
    """Shape of the maps of a layer with ``n_units`` units: (channels, rows, columns)."""
    return (len(sides(units.activation)) * n_units, units.grid, units.grid)


def _in_larger_cells(by_cells: RealArray, cells: int) -> RealArray:
    """Means of (sides, h, grid, grid, b) over larger cells, (b, sides * cells * cells * h)."""
    bounds = cell_bounds(by_cells.shape[2], cells)
    A = by_cells
    for axis in (2, 3):
        A = sums_of_cells(A, bounds, axis)
    A /= np.multiply.outer(cell_sizes(bounds), cell_sizes(bounds))[..., None].astype(A.dtype)
    return A.transpose(4, 0, 2, 3, 1).reshape(A.shape[-1], -1)


def learn_maps(
    units: "PatchUnits | UnitsOnMaps",
    W: NDArray[np.float32],
    images: ImageArray,
    rng: np.random.Generator,
    *,
    window: int,
    epsilon: float,
    n_components: int,
) -> Maps:
    """Fix a layer, and learn the projection of the windows of its maps.

    Parameters
    ----------
    units : PatchUnits or UnitsOnMaps
    W : ndarray of float32, shape (h, p)
        The weights that it keeps, of any number of units.
    images : ndarray, shape (n, ...)
        Training images; some of them are used.
    rng : numpy.random.Generator
        Draws images and windows.
    window : int
        Side of the windows of maps.
    epsilon : float
        Added to the variances, relative to their mean, as in
        :func:`varpro_nn.units.learn_whitening`.
    n_components : int
        Directions that are kept, d.

    Returns
    -------
    Maps

    Raises
    ------
    TypeError
        Units of another class; subclasses are refused.
    ValueError
        ``window`` is larger than the maps, or ``epsilon`` or ``n_components`` is out of range.
    """
    if type(units) not in (PatchUnits, UnitsOnMaps):  # a subclass may compute something else
        msg = f"units must be PatchUnits or UnitsOnMaps, no subclass, got {type(units).__name__}."
        raise TypeError(msg)
    check_shape(images, units.image_shape)
    if not 1 <= window <= units.grid:
        msg = f"window must be 1 to {units.grid}, the side of the maps, got {window}."
        raise ValueError(msg)
    W = np.ascontiguousarray(W, np.float32)
    shape = shape_of_maps(units, len(W))
    on_windows = PatchUnits("dense", shape, 1, window, grid=1)
    maps = Maps(units, W, 1, None, None)(_some(images, rng, N_IMAGES))
    check_whitening(on_windows, epsilon, n_components)
    centre, covariance = _moments(on_windows, maps, rng)
    square = float(np.trace(covariance) / len(centre) + np.mean(centre**2))
    whitening = whitening_of(covariance, square, epsilon, n_components)
    return Maps(units, W, window, centre, whitening)


def n_windows_of(n_pixels: int) -> int:
    """Count the windows of maps that the projection of ``n_pixels`` numbers is learnt from."""
    return max(N_WINDOWS, PER_PIXEL * n_pixels)


def _moments(
    on_windows: PatchUnits, maps: RealArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance of windows of maps, some windows at a time."""
    d = on_windows.windows.n_pixels
    n_windows = n_windows_of(d)
    some = max(1, BLOCK // d)
    shift = on_windows.sample_windows(maps, rng, min(some, n_windows)).mean(axis=0)
    sums, squares, n = np.zeros(d), np.zeros((d, d)), 0
    while n < n_windows:
        P = on_windows.sample_windows(maps, rng, min(some, n_windows - n))
        P -= shift  # sums of squares about a point near the mean cancel little
        sums += P.sum(axis=0)
        squares += P.T @ P
        n += len(P)
    mean = sums / n
    return shift + mean, squares / n - np.outer(mean, mean)


def units_on_maps(units: PatchUnits, below: Maps, *, cells_below: int = 0) -> UnitsOnMaps:
    """Make a layer on the maps of a fixed one.

    Parameters
    ----------
    units : PatchUnits
        On images of the shape ``below.shape``, made by :func:`varpro_nn.units.patch_units`.
    below : Maps
    cells_below : int
        Cells along each side to which the maps of every lower layer are pooled for the output
        layer. With 0 it sees only the units.

    Returns
    -------
    UnitsOnMaps

    Raises
    ------
    ValueError
        Units on images of another shape, units that whiten their windows, or more cells than a
        layer below has pixels in its maps.
    """
    if units.whitening is not None:
        msg = "units must not whiten their windows: the maps are whitened already."
        raise ValueError(msg)
    if units.image_shape != below.shape:
        msg = f"units must be on images of shape {below.shape}, got {units.image_shape}."
        raise ValueError(msg)
    most = min(_sides_below(below))
    if not 0 <= cells_below <= most:
        msg = (
            f"cells_below must be 0 to {most}, the smallest side of the maps of lower layers, got "
            f"{cells_below}."
        )
        raise ValueError(msg)
    return UnitsOnMaps(units, below, units.n_units, cells_below)


def _sides_below(below: Maps) -> list[int]:
    """Sides of the maps of a fixed layer and all below it."""
    lower = below.units
    return [lower.grid, *(_sides_below(lower.below) if isinstance(lower, UnitsOnMaps) else ())]


def _some(images: ImageArray, rng: np.random.Generator, most: int) -> ImageArray:
    """Draw at most ``most`` of the images, in their order."""
    if len(images) <= most:
        return images[:]
    return images[np.sort(rng.choice(len(images), most, replace=False))]
