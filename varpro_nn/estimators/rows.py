"""Rows of pixels as images: in which order a row holds them, and which intensity counts as 1."""

import operator
from dataclasses import dataclass
from math import isqrt, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import FloatArray, ImageArray
from varpro_nn._warn import warn_user
from varpro_nn.data.images import MOST_CHANNELS
from varpro_nn.data.layout import Layout

_TYPICAL = 0.9
"""Share of images whose largest values are typical."""
_RARE = 3.0
"""How far beyond typical ones the largest value may lie and still be the scale."""
EXTREME = 10.0
"""Values beyond this multiple of the scale are extreme."""


def layout_of_rows(n_pixels: int, image_shape: Any) -> Layout:
    """Take rows as images of the shape that a user gave; None: as squares.

    Raises
    ------
    ValueError
        A shape that is none, or has another number of pixels.
    """
    if image_shape is None:
        side = isqrt(n_pixels - 1) + 1
        if side**2 != n_pixels:
            warn_user(_filled_up(n_pixels, side))
        return Layout((side, side), False, n_pixels)
    shape = _shape_of(image_shape)
    if not shape or prod(shape) != n_pixels:
        msg = (
            "image_shape must be a tuple (rows, columns), (channels, rows, columns) or (rows, "
            f"columns, channels) of {n_pixels} pixels in all, got {image_shape!r}."
        )
        raise ValueError(msg)
    last = len(shape) == 3 and shape[2] <= MOST_CHANNELS < shape[0]
    return Layout(_channels_first(shape) if last else shape, last, n_pixels)


def layout_of_images(shape: tuple[int, ...], image_shape: Any) -> Layout:
    """Take an array of images (n, ...) as it is; ``image_shape`` says where channels are.

    Raises
    ------
    ValueError
        An array that has no images; another shape than ``image_shape``; or channels that may
        be in either place.
    """
    of_one = shape[1:]
    if len(of_one) not in (2, 3):
        msg = (
            "X must be rows of pixels (n, d), or images (n, rows, columns), (n, channels, "
            f"rows, columns) or (n, rows, columns, channels), got shape {shape}."
        )
        raise ValueError(msg)
    given = None if image_shape is None else _shape_of(image_shape)
    if given is not None:
        if given == of_one:
            last = len(of_one) == 3 and of_one[2] <= MOST_CHANNELS < of_one[0]
        elif len(of_one) == 3 and given == _channels_first(of_one):
            last = True
        else:
            msg = (
                f"X must have images of image_shape={image_shape!r}, got shape {shape}; leave "
                "image_shape out to take images as they are."
            )
            raise ValueError(msg)
    elif len(of_one) == 2:
        last = False
    else:
        first, last = of_one[0] <= MOST_CHANNELS, of_one[2] <= MOST_CHANNELS
        if first == last:
            msg = (
                f"X of shape {shape} may have its channels first or last: give "
                f"image_shape={of_one} or image_shape={_channels_first(of_one)}, with the "
                "number of channels first."
            )
            raise ValueError(msg)
    return Layout(_channels_first(of_one) if last else of_one, last, prod(of_one))


def flat(layout: Layout, X: NDArray[Any]) -> NDArray[Any]:
    """Make rows, in the order of ``layout``, of images (n, ...) with channels first or last.

    Raises
    ------
    ValueError
        Images of another shape.
    """
    found, shape = X.shape[1:], layout.image_shape
    grey = shape if len(shape) == 2 else shape[1:] if shape[0] == 1 else None
    if grey is not None and found in (grey, (1, *grey), (*grey, 1)):
        return X.reshape(len(X), layout.n_pixels)
    if found == layout.outer_shape:
        return X.reshape(len(X), layout.n_pixels)
    if len(shape) == 3 and found == shape:
        return np.moveaxis(X, 1, -1).reshape(len(X), layout.n_pixels)
    if len(shape) == 3 and _channels_first(found) == shape:
        return np.moveaxis(X, -1, 1).reshape(len(X), layout.n_pixels)
    msg = f"X must have images of {layout.outer_shape}, as in training, got shape {X.shape}."
    raise ValueError(msg)


def warn_if_another_fits(layout: Layout, rows: NDArray[Any]) -> None:
    """Warn if pixels one below the other are far more alike in another order of the row."""
    other = layout.smoother_order(rows)
    if other is not None:
        msg = (
            f"image_shape={layout.outer_shape} seems to be wrong: pixels one below the other are "
            f"more alike with image_shape={other.outer_shape}. Try it, and look at an image."
        )
        warn_user(msg)


@dataclass(frozen=True, slots=True)
class Scale:
    """Which intensity of ``X`` counts as 1.

    Attributes
    ----------
    intensity : float
        The largest absolute value, constant columns left out. If it is more than three times
        what 90 % of the images keep to, the latter. Values beyond ten times ``intensity`` are
        extreme, and count as ten times.
    """

    intensity: float

    @classmethod
    def of(cls, rows: NDArray[Any]) -> "Scale":
        """Measure the scale of training rows."""
        of_columns, constant = _largest(rows, axis=0), rows.min(axis=0) == rows.max(axis=0)
        if of_columns.max() > of_columns.max(where=~constant, initial=0) > 0:
            rows = rows[:, ~constant]
        of_rows = _largest(rows, axis=1)
        intensity, positive = float(of_rows.max()), of_rows[of_rows > 0]
        if len(positive):
            typical = float(np.quantile(positive, _TYPICAL, method="lower"))
            intensity = typical if intensity > _RARE * typical else intensity
        return cls(intensity or 1.0)

    def warn_of_extremes(self, rows: NDArray[Any], numbers: NDArray[Any]) -> None:
        """Warn of extreme values.

        ``numbers`` (n,) are the numbers of the rows in ``X``.
        """
        of_rows, bound = _largest(rows, axis=1), EXTREME * self.intensity
        n_rows = np.count_nonzero(of_rows > bound)
        if not n_rows:
            return
        row = int(of_rows.argmax())
        pixel = int(np.abs(rows[row].astype(np.float64)).argmax())
        there = "1 row has values" if n_rows == 1 else f"{n_rows} rows have values"
        msg = (
            f"row {numbers[row]} of X is {float(rows[row, pixel]):.6g} at pixel {pixel}, and "
            f"{there} beyond {bound:.4g}. They count as {bound:.4g}, ten times the intensity of "
            f"training, {self.intensity:.4g}. Correct them if they are faults of a sensor or stand "
            "for missing values."
        )
        warn_user(msg)

    def apply(self, pixels: NDArray[Any]) -> ImageArray:
        """Divide by the intensity; bytes that reach 255 stay bytes, which mean the same."""
        if pixels.dtype == np.uint8 and self.intensity == 255:
            return pixels
        images = pixels.astype(np.float32) / np.float32(self.intensity)
        return np.clip(images, -EXTREME, EXTREME, out=images)


def _shape_of(image_shape: Any) -> tuple[int, ...]:
    """Return two or three positive whole numbers; () for anything else."""
    if isinstance(image_shape, str):
        return ()
    try:
        shape = tuple(operator.index(length) for length in image_shape)
    except TypeError:
        return ()
    return shape if len(shape) in (2, 3) and min(shape) > 0 else ()


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[-1], *shape[:-1])


def _filled_up(d: int, side: int) -> str:
    """Say how rows become squares, and which shapes they may have had."""
    msg = (
        f"rows of {d} numbers are not squares: each is filled up with {side**2 - d} zeros to "
        f"{side} x {side} pixels. Give image_shape"
    )
    third = isqrt(d // 3)
    if 3 * third**2 == d and third > 2:
        return (
            f"{msg}: ({third}, {third}, 3) if the colours of a pixel stand together, "
            f"(3, {third}, {third}) if one colour of all pixels follows the other."
        )
    rows = next(length for length in range(isqrt(d), 0, -1) if d % length == 0)
    if 4 * rows >= d // rows:
        return f"{msg}, such as ({rows}, {d // rows}) or ({d // rows}, {rows})."
    return f"{msg}=(rows, columns)."


def _largest(rows: NDArray[Any], axis: int) -> FloatArray:
    """Largest absolute values along an axis, without a copy of the rows."""
    low, high = (each.astype(np.float64) for each in (rows.min(axis=axis), rows.max(axis=axis)))
    return np.maximum(high, -low)
