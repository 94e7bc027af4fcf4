"""From a picture of any size to an image: its largest middle part of the image's proportions."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
_GAP = 2
"""A JPEG picture is decoded with at least this many times the rows and columns of the image."""


def middle(size: tuple[int, ...], rows: int, columns: int) -> Box:
    """Find the largest middle part of a picture that has the proportions of an image.

    Parameters
    ----------
    size : (rows, columns)
        Of the picture.
    rows, columns : int
        Of the image.
    """
    height, width = size
    h, w = min(height, width * rows / columns), min(width, height * columns / rows)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def resized(image: "Image.Image", box: Box, rows: int, columns: int) -> "Image.Image":
    """Resize a part of a picture: means over areas where it shrinks, else interpolation.

    Parameters
    ----------
    image : PIL.Image.Image
    box : (left, top, right, bottom)
        The part, in pixels.
    rows, columns : int
        Of the result.
    """
    from PIL import Image  # not at the top: imported where it is used

    left, top, right, bottom = box
    smaller = rows <= bottom - top and columns <= right - left
    how = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    return image.resize((columns, rows), how, box=box)


def crop(image: "Image.Image", rows: int, columns: int) -> "Image.Image":
    """Crop a picture in the middle and resize it; a picture of the image's size stays as it is.

    Parameters
    ----------
    image : PIL.Image.Image
        The picture, of any size.
    rows, columns : int
        Of the image.
    """
    return resized(image, middle((image.height, image.width), rows, columns), rows, columns)


def crop_planes(planes: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Crop a picture in the middle and resize it, as :func:`crop` does.

    Parameters
    ----------
    planes : ndarray of uint8, shape (channels, its rows, its columns)
    rows, columns : int
        Of the image.

    Returns
    -------
    ndarray of uint8, shape (channels, rows, columns)
    """
    from PIL import Image

    bands = (crop(Image.fromarray(plane), rows, columns) for plane in planes)
    return np.stack([np.asarray(band, dtype=np.uint8) for band in bands])


def decode_smaller(image: "Image.Image", rows: int, columns: int) -> None:
    """Let a large JPEG picture be decoded at a half, a fourth or an eighth of its size.

    The decoded picture still has twice the rows and columns that the image needs. Other formats
    are decoded whole.

    Parameters
    ----------
    image : PIL.Image.Image
        Open, not decoded yet.
    rows, columns : int
        Of the image, in the orientation of the file.
    """
    factor = min(image.height / rows, image.width / columns) / _GAP
    if factor >= 2:
        image.draft(None, (int(-(-image.width // factor)), int(-(-image.height // factor))))
