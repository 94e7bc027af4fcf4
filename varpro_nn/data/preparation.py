"""Pictures of any size made into images like those a network was trained on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FILLED = {"digits": 1.0, "fashion-mnist": 1.0}
"""Part of the image's sides that things fill, by data set; of others, MNIST's."""
_FILLED_IN_MNIST = 20 / 28
_FAINT = 24
"""Ink below this is none, and a picture whose ink all is, empty."""


def filled_by(training: Mapping[str, Any]) -> float:
    """Part of the image that things fill, by what a network remembers of its training."""
    name = training.get("dataset")
    return _FILLED.get(name, _FILLED_IN_MNIST) if isinstance(name, str) else _FILLED_IN_MNIST


def prepare(
    pixels: NDArray[np.uint8], shape: tuple[int, ...], filled: float = _FILLED_IN_MNIST
) -> NDArray[np.uint8]:
    """Scale and place what a picture shows.

    Grey pictures as MNIST was made: light on dark (inverted if their border is light), what most
    of the border is becomes black and the brightest pixel white, the bounding box is scaled by
    area averaging to the part of the image that things fill, and the centre of mass comes to the
    middle. The largest middle part of a coloured picture that has the image's proportions is
    scaled to the image. As ``templates/draw.js`` does.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns) or (3, rows, columns)
        Of any size.
    shape : tuple of int
        That of the image, with as many axes.
    filled : float
        Part of the image's sides that the bounding box fills.

    Returns
    -------
    ndarray of uint8, shape ``shape``
        Black, if a grey picture shows nothing.
    """
    rows, columns = shape[-2:]
    if pixels.ndim == 3:
        height, width = pixels.shape[1:]
        scale = min(height / rows, width / columns)
        h, w = rows * scale, columns * scale
        box = ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)
        return np.stack([_resized(channel, box, rows, columns) for channel in pixels])
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    light = np.median(border) > 127
    ink = (255 - pixels if light else pixels).astype(np.float32)
    level = float(np.median(255 - border if light else border))
    image = np.zeros((rows, columns), dtype=np.uint8)
    span = float(ink.max()) - level
    if span < _FAINT:
        return image
    ink = np.maximum(ink - level, 0) * np.float32(255 / span)
    there = ink >= _FAINT
    down, across = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    top, left, bottom, right = down[0], across[0], down[-1] + 1, across[-1] + 1
    box = (float(left), float(top), float(right), float(bottom))
    factor = filled * min(rows / (bottom - top), columns / (right - left))
    h = int(np.clip(round((bottom - top) * factor), 1, rows))
    w = int(np.clip(round((right - left) * factor), 1, columns))
    small = _resized(ink, box, h, w).astype(np.float64)
    mass = small.sum()
    y = (small.sum(axis=1) @ (np.arange(h) + 0.5)) / mass
    x = (small.sum(axis=0) @ (np.arange(w) + 0.5)) / mass
    first_row = int(np.clip(round(rows / 2 - y), 0, rows - h))
    first_column = int(np.clip(round(columns / 2 - x), 0, columns - w))
    image[first_row : first_row + h, first_column : first_column + w] = small
    return image


def _resized(
    plane: NDArray[np.generic], box: tuple[float, float, float, float], rows: int, columns: int
) -> NDArray[np.uint8]:
    """Average over the areas of a part of a plane (left, top, right, bottom)."""
    from PIL import Image  # not at the top: imported where it is used

    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    resized = image.resize((columns, rows), Image.Resampling.BOX, box=box)
    return np.round(np.asarray(resized)).clip(0, 255).astype(np.uint8)
