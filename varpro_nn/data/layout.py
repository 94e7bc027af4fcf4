"""The order in which a row of numbers holds the pixels of an image."""

from dataclasses import dataclass, replace
from math import isqrt, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._warn import warn_user

_SMOOTHER = 0.7
"""Share of the differences between rows of pixels, below which another order fits better."""
_FEW = 100
"""Images that are enough to compare the orders of their pixels."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of the pixels in a row of numbers.

    Attributes
    ----------
    image_shape : tuple of int
        (rows, columns) or (channels, rows, columns).
    channels_last : bool
        Whether a row holds the channels of a pixel together: (rows, columns, channels).
    n_pixels : int
        Length of a row. What is missing to an image is filled up with zeros.
    """

    image_shape: tuple[int, ...]
    channels_last: bool
    n_pixels: int

    @classmethod
    def of_pixels(cls, rows: Any, name: str, image_size: tuple[int, int] | None) -> "Layout":
        """Find the order of rows of grey or colour pixels.

        Without ``image_size``, images are squares. The channels of a row of 3 N^2 numbers follow
        one another, as in CIFAR, unless the images are far smoother with the channels of a pixel
        together.

        Parameters
        ----------
        rows : ndarray or ImagesOnDisk, shape (n, d)
        name : str
            What messages call them.
        image_size : (rows, columns), optional

        Raises
        ------
        ValueError
            A length of the rows that is no image.

        Warns
        -----
        UserWarning
            The images are far smoother with the sides of ``image_size`` the other way round.
        """
        d = rows.shape[1]
        if image_size is None:
            side = max(isqrt(d), 1)
            plane = (side, side) if side**2 == d else (isqrt(d // 3), isqrt(d // 3))
            expected = "N x N numbers per image, or 3 x N x N in colour"
        else:
            plane = image_size
            expected = f"{prod(plane)} numbers per image, or {3 * prod(plane)} in colour"
        if prod(plane) == d and d:
            layout = cls(plane, False, d)
            if layout.smoother_order(np.asarray(rows[:_FEW])) is not None:
                msg = (
                    f"image_size={plane} seems to be wrong: pixels one below the other are more "
                    f"alike with image_size={plane[::-1]}. Try it, and look at an image."
                )
                warn_user(msg)
            return layout
        if 3 * prod(plane) != d or not d:
            msg = (
                f"{name} must be images, or rows of {expected}, got {d} per row. If images are not "
                "squares, give image_size=(rows, columns), --image-size ROWSxCOLUMNS."
            )
            raise ValueError(msg)
        layout = cls((3, *plane), False, d)
        return layout.smoother_order(np.asarray(rows[:_FEW])) or layout

    @property
    def outer_shape(self) -> tuple[int, ...]:
        """Shape of an image in the order of a row."""
        shape = self.image_shape
        return (*shape[1:], shape[0]) if self.channels_last else shape

    def images(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Make images (n, *image_shape) of rows; what is missing is zero."""
        n, d = rows.shape
        if missing := prod(self.image_shape) - d:
            rows = np.concatenate([rows, np.zeros((n, missing), dtype=rows.dtype)], axis=1)
        if not self.channels_last:
            return rows.reshape(n, *self.image_shape)
        channels, *plane = self.image_shape
        # A copy in C order: sums of products depend on the order in memory.
        return np.ascontiguousarray(np.moveaxis(rows.reshape(n, *plane, channels), -1, 1))

    def smoother_order(self, rows: NDArray[Any]) -> "Layout | None":
        """Find another order in which pixels one below the other are far more alike, or None.

        Channels are tried in the other place, the sides of grey images the other way round.
        """
        shape = self.image_shape
        if len(shape) == 2:
            other = replace(self, image_shape=shape[::-1])
        else:
            other = replace(self, channels_last=not self.channels_last)
        if other == self or min(shape[-2:]) < 2 or prod(shape) != self.n_pixels:
            return None
        some = rows[:_FEW].astype(np.float32)
        if _roughness(other.images(some)) < _SMOOTHER * _roughness(self.images(some)):
            return other
        return None


def _roughness(images: NDArray[Any]) -> float:
    """Mean absolute difference between a pixel and the one below."""
    with np.errstate(all="ignore"):  # NaN and infinity are refused elsewhere
        return float(np.abs(np.diff(images, axis=-2)).mean())
