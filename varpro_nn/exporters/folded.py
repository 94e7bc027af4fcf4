r"""A trained network as the few plain arrays that a program in another language needs.

All linear steps are folded: the vectors of a unit and the whitening into one filter a unit, so
every kind of unit is the same computation. For each image (``channels, rows, columns``), each
view of it (itself, or itself and its mirror image), and each place of the window:

1.  take the window's pixels ``P``, channel by channel, row by row; if ``contrast`` is not None,
    ``P = (P - mean(P)) / sqrt(var(P) + contrast)``;
2.  ``z_h = filters[h] . P + bias[h]`` for each unit, then its activation (one column, or the two
    sides of ``two-sided``);
3.  take the mean over the places of each cell: column ``(side, row of cells, column of cells, h)``.

Outputs are ``A' phi + constant``, the mean of them over the views, and probabilities follow from
``link``. A unit that sees the whole image is a window of the image's size with one place.
"""

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


@dataclass(frozen=True, slots=True, eq=False)
class FoldedNetwork:
    """What a network computes, without how it came about.

    Attributes
    ----------
    image_shape : tuple of int
        (channels, rows, columns); one channel for grey images.
    window : tuple of int
        Rows and columns of a window, which spans all channels.
    stride : int
    bounds : tuple of two ndarray of int
        First place of each cell along rows and along columns, then the number of places.
    filters : ndarray of float32, shape (h, channels * window rows * window columns)
    bias : ndarray of float32, shape (h,)
    contrast : float or None
    activation : {"logistic", "tanh", "rectifier", "two-sided"}
    threshold : float
        Of the two-sided activation: ``max(0, z - threshold)`` and ``max(0, -z - threshold)``.
    A : ndarray of float64, shape (sides * cells * h, k)
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

    image_shape: tuple[int, int, int]
    window: tuple[int, int]
    stride: int
    bounds: tuple[NDArray[np.int64], NDArray[np.int64]]
    filters: NDArray[np.float32]
    bias: NDArray[np.float32]
    contrast: float | None
    activation: str
    threshold: float
    A: FloatArray
    constant: FloatArray
    views: str
    link: str
    temperature: float
    classes: NDArray[Any]
    preparation: Preparation

    @property
    def byte_range(self) -> tuple[int, int]:
        """Smallest and largest byte of the training images; all bytes, if that is not known."""
        reached = self.preparation.intensities
        if reached is None:
            return 0, 255
        low, high = np.clip([255 * reached.low, 255 * reached.high], 0, 255)
        return round(low), round(high)

    @property
    def n_sides(self) -> int:
        """Columns that a unit makes of a cell: 1, or 2."""
        return len(sides(self.activation))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return len(self.bounds[0]) - 1, len(self.bounds[1]) - 1


def fold(network: Network) -> FoldedNetwork:
    """Fold a network.

    Raises
    ------
    TypeError
        It has units of your own class or more than one layer, its images have other than two or
        three axes, or it does regression.
    ValueError
        It was trained on other intensities than bytes divided by 255.
    """
    units = network.units
    # A subclass may compute something else.
    if type(units) not in (WholeImageUnits, PatchUnits) or len(network.image_shape) not in (2, 3):
        msg = (
            "network must have one layer of units of this package on images of two or three axes, "
            f"got {type(units).__name__} on {network.image_shape}; others cannot be exported."
        )
        raise TypeError(msg)
    assert isinstance(units, WholeImageUnits | PatchUnits)
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
    rows, columns = network.image_shape[-2:]
    channels = prod(network.image_shape[:-2])
    window, stride = (rows, columns), 1
    bounds = np.array([0, 1]), np.array([0, 1])
    contrast = None
    if isinstance(units, PatchUnits):
        window, stride, contrast = (units.window, units.window), units.stride, units.contrast
        bounds = units.windows.bounds(0), units.windows.bounds(1)
    filters = units.effective_filters(network.W)
    clipped = network.output_layer == "ridge" and network.temperature is None
    return FoldedNetwork(
        image_shape=(channels, rows, columns),
        window=window,
        stride=stride,
        bounds=bounds,
        filters=np.ascontiguousarray(filters[:, :-1], dtype=np.float32),
        bias=np.ascontiguousarray(filters[:, -1], dtype=np.float32),
        contrast=contrast,
        activation=units.activation,
        threshold=units.threshold,
        A=network.A[:-1],
        constant=network.A[-1],
        views=network.views,
        link="clip" if clipped else "softmax",
        temperature=1.0 if network.temperature is None else network.temperature,
        classes=network.classes,
        preparation=network.preparation,
    )
