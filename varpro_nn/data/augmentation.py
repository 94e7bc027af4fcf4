"""Distorted copies of training images that keep their label: shifts, flips, affine, elastic.

All distortions of an image are one map of its coordinates, sampled once by linear interpolation
(``scipy.ndimage.map_coordinates``), so nothing is blurred twice. Shifts alone, by whole pixels,
need no interpolation. Pixels beyond the border have the value of the nearest pixel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import scipy

from varpro_nn._settings import check_settings, documented, setting
from varpro_nn._typing import FloatArray, ImageArray, IndexArray

BLOCK = 1000
"""Images that are worked on at a time."""
SMOOTHNESS = 4.0
"""Standard deviation in pixels of the filter that smooths elastic displacements of images with
sides of 28 pixels or more."""


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random distortions of training images; each amount is a bound or a scale, 0 for none."""

    shift: int = setting(
        0, least=0, help="largest shift along rows and columns, uniform, in pixels"
    )
    rotation: float = setting(0.0, least=0, help="largest rotation, uniform, in degrees")
    scale: float = setting(
        0.0, least=0, below=1, help="largest relative change of size along each axis, uniform"
    )
    shear: float = setting(
        0.0, least=0, help="largest shear along the columns, uniform, in pixels per pixel"
    )
    elastic: float = setting(
        0.0, least=0, help="standard deviation of a smooth random displacement, in pixels"
    )
    flip: bool = setting(False, help="mirror each image left to right with probability 1/2")

    def __post_init__(self) -> None:
        check_settings(self)

    def __bool__(self) -> bool:
        return any(getattr(self, entry.name) for entry in fields(self))

    @property
    def interpolates(self) -> bool:
        """Whether pixels of the result lie between pixels of the image."""
        return bool(self.rotation or self.scale or self.shear or self.elastic)


NO_DISTORTION = Augmentation()


def check_fitting(augmentation: Augmentation, image_shape: Sequence[int]) -> None:
    """Raise ValueError for displacements as large as the image."""
    height, width = image_shape[-2:]
    for name in ("shift", "elastic"):
        amount = getattr(augmentation, name)
        if amount >= min(height, width):
            msg = (
                f"{name} must be less than the sides of the images, {height} x {width} pixels, "
                f"got {amount}."
            )
            raise ValueError(msg)


def distort(images: ImageArray, augmentation: Augmentation, rng: np.random.Generator) -> ImageArray:
    """Distort each image at random, in a new array; channels of an image move together."""
    distorted = np.empty_like(images)
    for start in range(0, len(images), BLOCK):
        rows = slice(start, start + BLOCK)
        distorted[rows] = _distort_block(images[rows], augmentation, rng)
    return distorted


def _distort_block(
    images: ImageArray, amounts: Augmentation, rng: np.random.Generator
) -> ImageArray:
    n, height, width = len(images), *images.shape[-2:]
    if amounts.flip:
        mirrored = rng.random(n) < 0.5
        images = images.copy()
        images[mirrored] = images[mirrored, ..., ::-1]
    if not (amounts.shift or amounts.interpolates):
        return images
    affine, moves = _drawn(n, amounts, rng)
    if not amounts.interpolates:
        return _shifted(images, moves)
    coordinates = _coordinates(n, height, width, amounts, affine, moves, rng)
    channels = images.reshape(n, -1, height, width)
    number = np.broadcast_to(np.arange(n)[:, None, None], (n, height, width))
    where = np.stack([number, *coordinates])
    moved: Any = np.stack(
        [
            scipy.ndimage.map_coordinates(
                channels[:, c].astype(np.float32), where, order=1, mode="nearest"
            )
            for c in range(channels.shape[1])
        ],
        axis=1,
    ).reshape(images.shape)
    if images.dtype == np.uint8:
        return np.rint(moved).astype(np.uint8)
    return moved.astype(images.dtype)


def _drawn(
    n: int, amounts: Augmentation, rng: np.random.Generator
) -> tuple[FloatArray, IndexArray]:
    """Draw degrees, shear, relative scales of source rows and columns (4, n); shifts (2, n)."""
    bounds = (amounts.rotation, amounts.shear, amounts.scale, amounts.scale)
    affine = np.stack([rng.uniform(-bound, bound, size=n) for bound in bounds])
    return affine, rng.integers(-amounts.shift, amounts.shift + 1, size=(2, n))


def _shifted(images: ImageArray, moves: IndexArray) -> ImageArray:
    """Shift each image by whole pixels; ``moves`` is as from :func:`_drawn`."""
    for axis, of_axis in zip((-2, -1), moves, strict=True):
        size, shifted = images.shape[axis], np.empty_like(images)
        for move in np.unique(of_axis):
            rows = of_axis == move
            source = np.clip(np.arange(size) + move, 0, size - 1)
            shifted[rows] = np.take(images[rows], source, axis)
        images = shifted
    return images


def _coordinates(
    n: int,
    height: int,
    width: int,
    amounts: Augmentation,
    affine: FloatArray,
    moves: IndexArray,
    rng: np.random.Generator,
) -> FloatArray:
    """Where each pixel of each image comes from: (2, n, rows, columns)."""
    # About the middle of the image: rotate, shear, scale; then shift.
    y = (np.arange(height) - (height - 1) / 2)[:, None]
    x = np.arange(width) - (width - 1) / 2
    degrees, shear, of_rows, of_columns = affine[..., None, None]
    angle = np.radians(degrees)
    vertical = (1 + of_rows) * (np.cos(angle) * y - np.sin(angle) * x)
    horizontal = (1 + of_columns) * (np.sin(angle) * y + np.cos(angle) * x + shear * y)
    vertical = vertical + (height - 1) / 2 + moves[0, :, None, None]
    horizontal = horizontal + (width - 1) / 2 + moves[1, :, None, None]
    where = np.stack([vertical, horizontal])
    if amounts.elastic:
        noise = rng.standard_normal((2, n, height, width)).astype(np.float32)
        sigma = _smoothness(height, width)
        smooth = scipy.ndimage.gaussian_filter(noise, (0, 0, sigma, sigma), mode="wrap", truncate=3)
        # It leaves noise the standard deviation 1 / (2 sqrt(pi) sigma).
        where += amounts.elastic * 2 * math.sqrt(math.pi) * sigma * smooth
    return where


def _smoothness(height: int, width: int) -> float:
    """Width of the filter for elastic displacements of images of that size.

    On a small image a wide filter would leave only the mean of the noise, which shifts all pixels
    alike. So the width is 4/28 of the smaller side, and at most 4 pixels. Below 0.7 pixels a
    Gaussian is too narrow for a sum over pixels.
    """
    return min(SMOOTHNESS, max(0.7, SMOOTHNESS * min(height, width) / 28))
