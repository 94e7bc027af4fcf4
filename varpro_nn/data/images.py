"""What an array of images is, and the one way from pixels to intensities, labels to targets.

Images are ``(n, rows, columns)`` or ``(n, channels, rows, columns)``. Channels may come last; they
are moved. Pixels of type ``uint8`` stand for 0 to 255 and become intensities in [0, 1];
floating-point pixels are intensities already and are taken as they are; booleans are 0 and 1.
Images stay ``uint8`` in memory and are converted block by block: 60,000 images of MNIST are 47 MB,
not 188.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from varpro_nn._arrays import plain_array, row_weights
from varpro_nn._typing import FloatArray, ImageArray, LabelArray, RealArray, TargetArray
from varpro_nn._warn import warn_user
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.labels import label_row

MOST_CHANNELS = 4
"""An axis this long may be that of channels: grey or colour, with or without transparency."""


def check_images(
    images: ArrayLike, name: str = "images", image_shape: Sequence[int] | None = None
) -> ImageArray:
    """Return ``images`` as an array that the package can work with; ``name`` is for messages.

    The array is ``uint8``, ``float32`` or ``float64`` in the order (n, rows, columns) or
    (n, channels, rows, columns), copied only if necessary. Images on disk are checked and stay on
    disk.

    Parameters
    ----------
    images : array_like, shape (n, rows, columns), (n, channels, rows, columns) or \
            (n, rows, columns, channels)
        Without ``image_shape``, up to 4 channels in the last axis are found by the shape: the
        second axis is longer than 4.
    image_shape : sequence of int, optional
        Shape that each image must have. It decides between channels first and last, and whether a
        single channel has an axis.

    Raises
    ------
    ValueError
        Another shape, no image, a type other than the two, masked values, NaN or infinity.

    Warns
    -----
    UserWarning
        The axis of the channels is longer than that of the columns, so they may come last.
    """
    on_disk = isinstance(images, ImagesOnDisk)
    array: Any = images if on_disk else plain_array(images, name)
    if array.ndim not in (3, 4) or 0 in array.shape:
        msg = (
            f"{name} must be (n, rows, columns) or (n, channels, rows, columns) with no empty "
            f"axis, got shape {array.shape}."
        )
        raise ValueError(msg)
    array = _in_order(array, name, None if image_shape is None else tuple(image_shape))
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        msg = (
            f"{name} must be uint8 (0 to 255) or floating point (intensities in [0, 1]), "
            f"got {array.dtype}; call .astype(numpy.uint8) on pixels from 0 to 255, or divide "
            "them by the largest value of their type."
        )
        raise ValueError(msg)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    first = 0
    for block in blocks_of(array):
        _check_values(block, name, first, len(array))
        first += len(block)
    return cast(ImageArray, array)


def _in_order(array: Any, name: str, expected: tuple[int, ...] | None) -> Any:
    """Bring the axes of images to the order of ``expected``, else to channels first."""
    found = tuple(array.shape[1:])
    moved = (found[-1], *found[:-1])  # if the last axis has the channels
    if expected is None:
        if len(found) == 2 or found[0] <= MOST_CHANNELS:
            return array
        if found[2] <= MOST_CHANNELS:
            return _channels_first(array)
        if found[2] < found[0]:
            msg = (
                f"{name} of shape {array.shape} are taken as {found[0]} channels of {found[1]} x "
                f"{found[2]} pixels; if the channels come last, call numpy.moveaxis({name}, -1, 1)."
            )
            warn_user(msg)
        return array
    if found == expected:
        return array
    if _without_grey_axis(found) == _without_grey_axis(expected):
        return array.reshape(len(array), *expected)
    if len(found) == 3 and moved == expected:
        return _channels_first(array)
    if len(found) == 3 and _without_grey_axis(moved) == _without_grey_axis(expected):
        return array.reshape(len(array), *expected)
    also = ""
    if len(expected) == 3:
        also = f" or (n, {', '.join(map(str, (*expected[1:], expected[0])))})"
    msg = f"{name} must have shape (n, {', '.join(map(str, expected))}){also}, got {array.shape}."
    raise ValueError(msg)


def _channels_first(array: Any) -> Any:
    if isinstance(array, ImagesOnDisk):
        return array.with_channels_first()
    # A copy in C order: the sums of products depend on the order in memory.
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


def _without_grey_axis(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _check_values(array: ImageArray, name: str, first: int, n: int) -> None:
    """Refuse NaN, infinity and what single precision cannot hold, in the images from ``first``."""
    largest = np.finfo(np.float32).max
    # The comparisons are false for NaN.
    if not (array.min() >= -largest and array.max() <= largest):
        flat = array.reshape(len(array), -1)
        what, bad = "NaN or infinity", np.flatnonzero(~np.isfinite(flat).all(axis=1))
        if not bad.size:
            what = f"more than {largest:.3g}"
            bad = np.flatnonzero((np.abs(flat) > largest).any(axis=1))
        msg = (
            f"{name} must be finite, got {what} in {bad.size} of {n} images "
            f"(first: image {first + bad[0]})."
        )
        raise ValueError(msg)


def blocks_of(images: ImageArray) -> Iterator[ImageArray]:
    """Images in memory as one block, those on disk block by block."""
    if isinstance(images, ImagesOnDisk):
        yield from images.blocks()
    else:
        yield images


def intensities(images: ImageArray, dtype: DTypeLike = np.float32) -> RealArray:
    """Convert pixels to intensities: ``uint8`` divided by 255, floats unchanged.

    Returns
    -------
    ndarray of ``dtype``, same shape
        A copy unless ``images`` are of that floating-point type already.
    """
    if images.dtype == np.uint8:
        return np.multiply(images, np.asarray(1 / 255, dtype=dtype), dtype=dtype)
    return images.astype(dtype, copy=False)


def check_labels(labels: ArrayLike, n_images: int, n_classes: int) -> LabelArray:
    """Return ``labels`` as class numbers, one for each image.

    Labels may be (n,), (n, 1), or one-hot (n, k); see
    :func:`varpro_nn.data.labels.label_row`.

    Raises
    ------
    ValueError
        Another length or number of dimensions, a type that is not integer, or a number outside
        0 to n_classes - 1.
    """
    array = label_row(labels)
    if array.shape != (n_images,):
        msg = f"labels must be 1-D with one for each of {n_images} images, got shape {array.shape}."
        raise ValueError(msg)
    if array.dtype.kind not in "iu":
        msg = f"labels must be integers, got {array.dtype}."
        raise ValueError(msg)
    if n_images and not (array.min() >= 0 and array.max() < n_classes):
        msg = f"labels must be 0 to {n_classes - 1}, got {array.min()} to {array.max()}."
        raise ValueError(msg)
    return array.astype(np.int64, copy=False)


def check_targets(labels: ArrayLike, n_images: int, n_targets: int) -> TargetArray:
    """Return class numbers as :func:`check_labels` does, or real targets (n, k) as they are.

    Raises
    ------
    ValueError
        What is neither: real targets are floating point, finite, and have two dimensions.
    """
    array = plain_array(labels, "targets")
    if array.dtype.kind != "f":
        return check_labels(array, n_images, n_targets)
    if array.shape != (n_images, n_targets) or not np.isfinite(array).all():
        msg = f"targets must be finite and ({n_images}, {n_targets}), got shape {array.shape}."
        raise ValueError(msg)
    return array.astype(np.float64, copy=False)


def check_weights(sample_weight: ArrayLike | None, n_images: int) -> FloatArray | None:
    """Return the weights of images, (n,), not negative and positive somewhere; or None.

    Raises
    ------
    ValueError
    """
    return None if sample_weight is None else row_weights(sample_weight, n_images)


def targets_of(targets: TargetArray, n_targets: int) -> FloatArray:
    """Make targets ``tau`` (n, k): one-hot rows of class numbers; real targets as they are."""
    array: Any = targets
    return one_hot(array, n_targets) if array.ndim == 1 else np.asarray(array, np.float64)


def one_hot(labels: LabelArray, n_classes: int) -> FloatArray:
    """Targets ``tau`` (n, k) of class numbers (n,)."""
    tau = np.zeros((len(labels), n_classes))
    tau[np.arange(len(labels)), labels] = 1.0
    return tau
