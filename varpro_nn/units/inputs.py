"""Checks of the images that units get."""

from typing import Any

from varpro_nn._arrays import plain_array
from varpro_nn._typing import ImageArray, RealArray
from varpro_nn.data.images import intensities


def check_shape(inputs: ImageArray, image_shape: tuple[int, ...]) -> None:
    """Check that inputs are images of that shape.

    Raises
    ------
    ValueError
    """
    if inputs.shape[1:] != image_shape:
        msg = f"inputs must be images of shape {image_shape}, got an array of shape {inputs.shape}."
        raise ValueError(msg)


def pixels_of(inputs: ImageArray, image_shape: tuple[int, ...], dtype: Any) -> RealArray:
    """Return the intensities of images in memory in type ``dtype``, as :func:`intensities`.

    Raises
    ------
    ValueError
        Images of another shape, masked or complex.
    """
    check_shape(inputs, image_shape)
    return intensities(plain_array(inputs, "inputs"), dtype)
