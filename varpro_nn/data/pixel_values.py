"""Pixels out of files whose numbers have no type of their own: bytes or intensities.

In text, and in MATLAB, a pixel from 0 to 255 is a number like any other. So the values say what
they are, of the training set and the test set together.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._warn import warn_user

_WHITE = 255
_DARK = 64
"""A largest pixel below it is rather the white of another scale than a dark one of 0 to 255."""


def typed_pixels(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Give pixels the type of images.

    Whole numbers from 0 to 255 become ``uint8``. If none is larger than 1, they become ``float32``:
    black and white. Numbers with a fraction, or below 0, stay floating point: intensities.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Numbers of the same scale, by the name for messages. What is no real number stays as it is.

    Raises
    ------
    ValueError
        Whole numbers up to more than 255.

    Warns
    -----
    UserWarning
        The largest whole number is below 64, so that white may be another number than 255.
    """
    filled = {name: array for name, array in arrays.items() if array.size}
    if not filled or not all(array.dtype.kind in "biuf" for array in arrays.values()):
        return dict(arrays)
    least = min(float(array.min()) for array in filled.values())
    most = max(float(array.max()) for array in filled.values())
    # The comparisons are false for NaN, which is refused as an intensity, and so is infinity.
    if not (least >= 0 and 1 < most < math.inf and all(map(_is_whole, filled.values()))):
        if all(array.dtype.kind == "f" for array in arrays.values()):
            return dict(arrays)
        return {name: array.astype(np.float32) for name, array in arrays.items()}
    if most > _WHITE:
        msg = (
            f"{' and '.join(filled)} must be whole numbers from 0 to {_WHITE}, or intensities "
            f"from 0 to 1, got whole numbers up to {most:.10g}; divide them by {most:.10g}."
        )
        raise ValueError(msg)
    if most < _DARK:
        msg = (
            f"{' and '.join(filled)} are whole numbers up to {most:.0f}, which are very dark if "
            f"white is {_WHITE}. If {most:.0f} is white, divide them by it."
        )
        warn_user(msg)
    return {name: array.astype(np.uint8) for name, array in arrays.items()}


def _is_whole(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "biu" or bool((array == np.rint(array)).all())
