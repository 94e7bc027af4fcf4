r"""A trained network as the few plain arrays that a program in another language needs.

Linear steps are folded: the vectors of a unit and the whitening into one filter per unit, so every
kind of unit is the same computation. A network is a tuple of layers. Each takes images
(``channels, rows, columns``), the first one the image itself or its mirror image. At each place of
its window:

1.  take the window's pixels ``P``, channel by channel, row by row; if ``contrast`` is not None,
    ``P = (P - mean(P)) / sqrt(var(P) + contrast)``;
2.  ``z_h = filters[h] . P + bias[h]`` for each unit, then its activation (one column, or the two
    sides of ``two-sided``);
3.  take the mean over the places of each cell: column ``(side, row of cells, column of cells, h)``.

These means are the maps that the next layer takes: channel ``(side, h)``, cells as pixels.

The outputs are ``constant`` and the sum over the layers of ``linear[i]' phi_i``, averaged over the
views. ``phi_i`` are the means of step 3 for the last layer. For a lower layer that is ``shown``,
they are the means of its maps over larger cells, in the same order. Other layers add nothing.
Probabilities follow from ``link``. A unit that sees the whole image
is a window of the image's size with one place.

The projection of maps on their leading directions is folded into the next layer, if that has no
contrast and takes no more products. Otherwise it is a separate layer with the activation
``linear`` and a cell for each place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import FloatArray
from varpro_nn.data.preparation import Preparation
from varpro_nn.model.network import Network
from varpro_nn.units import PatchUnits, WholeImageUnits
from varpro_nn.units.activations import sides
from varpro_nn.units.maps import Maps, UnitsOnMaps, folded
from varpro_nn.units.windows import cell_bounds

LINEAR = "linear"
"""Activation of a projection: none."""


@dataclass(frozen=True, slots=True, eq=False)
class FoldedLayer:
    """What a layer computes.

    Attributes
    ----------
    image_shape : tuple of int
        (channels, rows, columns) of what it takes; one channel for grey images.
    window : tuple of int
        Rows and columns of a window, which spans all channels.
    stride : int
    bounds : tuple of two ndarray of int
        First place of each cell along rows and along columns, then the number of places.
    filters : ndarray of float32, shape (h, channels * window rows * window columns)
    bias : ndarray of float32, shape (h,)
    contrast : float or None
    activation : {"logistic", "tanh", "rectifier", "two-sided", "linear"}
    threshold : float
        Of the two-sided activation: ``max(0, z - threshold)`` and ``max(0, -z - threshold)``.
    shown : tuple of two ndarray of int, or None
        Of a lower layer that the output layer sees, the bounds of the larger cells in its maps: the
        first row of each cell, then the number of rows; the same along columns.
    """

    image_shape: tuple[int, int, int]
    window: tuple[int, int]
    stride: int
    bounds: tuple[NDArray[np.int64], NDArray[np.int64]]
    filters: NDArray[np.float32]
    bias: NDArray[np.float32]
    contrast: float | None
    activation: str
    threshold: float
    shown: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def n_sides(self) -> int:
        """Columns that a unit makes of a cell: 1, or 2."""
        return 1 if self.activation == LINEAR else len(sides(self.activation))

    @property
    def places(self) -> tuple[int, int]:
        """Places of the window along rows and columns."""
        return int(self.bounds[0][-1]), int(self.bounds[1][-1])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return len(self.bounds[0]) - 1, len(self.bounds[1]) - 1

    @property
    def grid_shown(self) -> tuple[int, int]:
        """Rows and columns of the larger cells that the output layer sees; (0, 0) if none."""
        return (0, 0) if self.shown is None else (len(self.shown[0]) - 1, len(self.shown[1]) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class FoldedNetwork:
    """What a network computes, without how it came about.

    Attributes
    ----------
    layers : tuple of FoldedLayer
        From the image to the columns of the output layer.
    linear : tuple of ndarray of float64, shape (sides, cells, h, k)
        Linear weights of each layer. The array of a layer that is not seen has 0 cells.
    constant : ndarray of float64, shape (k,)
    views : {"single", "flip"}
    link : {"softmax", "clip"}
        Softmax of the outputs divided by ``temperature``; or outputs below 0 set to 0 and the
        rest scaled to sum 1 (all equal, if none is positive).
    temperature : float
    classes : ndarray, shape (k,)
    preparation : Preparation
        How a picture becomes an image like those of training.
    """

    layers: tuple[FoldedLayer, ...]
    linear: tuple[FloatArray, ...]
    constant: FloatArray
    views: str
    link: str
    temperature: float
    classes: NDArray[Any]
    preparation: Preparation

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, rows, columns) of an image."""
        return self.layers[0].image_shape

    @property
    def byte_range(self) -> tuple[int, int]:
        """Smallest and largest byte of the training images; all bytes, if that is not known."""
        reached = self.preparation.intensities
        if reached is None:
            return 0, 255
        low, high = np.clip([255 * reached.low, 255 * reached.high], 0, 255)
        return round(low), round(high)


def fold(network: Network) -> FoldedNetwork:
    """Fold a network.

    Raises
    ------
    TypeError
        It has units of your own class, its images do not have two or three axes, or it does
        regression.
    ValueError
        It was trained on other intensities than bytes divided by 255.
    """
    if len(network.image_shape) not in (2, 3):
        msg = (
            "network must take images of two or three axes to be exported, "
            f"got {network.image_shape}."
        )
        raise TypeError(msg)
    layers = tuple(_layers(network.units, network.W, getattr(network.units, "cells_below", 0)))
    if not network.preparation.takes_bytes:
        reached = network.preparation.intensities
        assert reached is not None
        msg = (
            "network must be trained on bytes or intensities from 0 to 1, because exported "
            f"programs take bytes; got intensities from {reached.low:.4g} to {reached.high:.4g}."
        )
        raise ValueError(msg)
    if network.training.get("regression"):
        msg = "network must be a classifier: one that gives numbers cannot be exported."
        raise TypeError(msg)
    clipped = network.output_layer == "ridge" and network.temperature is None
    return FoldedNetwork(
        layers=layers,
        linear=tuple(_linear(layers, network.A[:-1])),
        constant=network.A[-1],
        views=network.views,
        link="clip" if clipped else "softmax",
        temperature=1.0 if network.temperature is None else network.temperature,
        classes=network.classes,
        preparation=network.preparation,
    )


def _linear(layers: Sequence[FoldedLayer], A: FloatArray) -> Iterator[FloatArray]:
    """Split the linear weights by layer. In ``A`` the rows of the last layer come first."""
    *below, last = layers
    cells = [*(prod(layer.grid_shown) for layer in below), prod(last.grid)]
    shapes = [(each.n_sides, n, len(each.bias)) for each, n in zip(layers, cells, strict=True)]
    start = prod(shapes[-1])
    for shape in shapes[:-1]:
        yield A[start : start + prod(shape)].reshape(*shape, A.shape[1])
        start += prod(shape)
    yield A[: prod(shapes[-1])].reshape(*shapes[-1], A.shape[1])


def _layers(units: Any, W: NDArray[Any], cells: int, shown: int = 0) -> Iterator[FoldedLayer]:
    """Fold the layers of units, the lowest first.

    The output layer sees ``cells`` x ``cells`` cells of each lower layer, and ``shown`` x ``shown``
    of the maps of these units.
    """
    # A subclass may compute something else.
    if type(units) is UnitsOnMaps:
        units, W = folded(units, W)
        below = units.below
        yield from _layers(below.units, below.W, cells, shown=cells)
        if below.whitening is not None and below.centre is not None:
            yield _projection(below, below.whitening, -below.whitening @ below.centre)
        yield _layer(units.units, W, shown)
    elif type(units) in (WholeImageUnits, PatchUnits):
        yield _layer(units, W, shown)
    else:
        msg = f"network must have units of this package to be exported, got {type(units).__name__}."
        raise TypeError(msg)


def _layer(units: WholeImageUnits | PatchUnits, W: NDArray[Any], shown: int) -> FoldedLayer:
    rows, columns = units.image_shape[-2:]
    window, stride = (rows, columns), 1
    bounds = np.array([0, 1]), np.array([0, 1])
    contrast = None
    if isinstance(units, PatchUnits):
        window, stride, contrast = (units.window, units.window), units.stride, units.contrast
        bounds = units.windows.bounds(0), units.windows.bounds(1)
    filters = units.effective_filters(W)
    return FoldedLayer(
        image_shape=(prod(units.image_shape[:-2]), rows, columns),
        window=window,
        stride=stride,
        bounds=bounds,
        filters=np.ascontiguousarray(filters[:, :-1], dtype=np.float32),
        bias=np.ascontiguousarray(filters[:, -1], dtype=np.float32),
        contrast=contrast,
        activation=units.activation,
        threshold=units.threshold,
        shown=(cell_bounds(len(bounds[0]) - 1, shown), cell_bounds(len(bounds[1]) - 1, shown))
        if shown
        else None,
    )


def _projection(below: Maps, filters: FloatArray, bias: FloatArray) -> FoldedLayer:
    """Make a layer of the projection of maps: each place is a cell."""
    channels, rows, columns = below.windows.image_shape
    n_rows, n_columns = below.windows.places
    return FoldedLayer(
        image_shape=(channels, rows, columns),
        window=(below.window, below.window),
        stride=1,
        bounds=(np.arange(n_rows + 1), np.arange(n_columns + 1)),
        filters=np.ascontiguousarray(filters, dtype=np.float32),
        bias=bias.astype(np.float32),
        contrast=None,
        activation=LINEAR,
        threshold=0.0,
    )
