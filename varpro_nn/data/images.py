"""What an array of images is, and the one way from pixels to intensities, labels to targets.

Images are ``(n, rows, columns)`` or ``(n, channels, rows, columns)``. Pixels of type ``uint8``
stand for 0 to 255 and become intensities in [0, 1]; floating-point pixels are intensities
already and are taken as they are. Images stay ``uint8`` in memory and are converted block by
block: 60,000 images of MNIST are 47 MB, not 188.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from varpro_nn._typing import FloatArray, ImageArray, LabelArray, RealArray, TargetArray
from varpro_nn.data.images_on_disk import ImagesOnDisk


def check_images(images: ArrayLike, name: str = "images") -> ImageArray:
    """Return ``images`` as an array that the package can work with; ``name`` is for messages.

    The array is ``uint8``, ``float32`` or ``float64``, copied only if necessary. Images on disk are
    checked and stay on disk.

    Raises
    ------
    ValueError
        Wrong number of dimensions, no image, a type other than the two, NaN or infinity.
    """
    on_disk = isinstance(images, ImagesOnDisk)
    array: Any = images if on_disk else np.asarray(images)
    if array.ndim not in (3, 4) or 0 in array.shape:
        msg = (
            f"{name} must be (n, rows, columns) or (n, channels, rows, columns) with no empty "
            f"axis, got shape {array.shape}."
        )
        raise ValueError(msg)
    if array.ndim == 4 and array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4):
        msg = (
            f"{name} must have their channels first, (n, channels, rows, columns), got shape "
            f"{array.shape}; numpy.moveaxis(images, -1, 1) moves them."
        )
        raise ValueError(msg)
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        msg = (
            f"{name} must be uint8 (0 to 255) or floating point (intensities in [0, 1]), "
            f"got {array.dtype}."
        )
        raise ValueError(msg)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    first = 0
    for block in blocks_of(array):
        _check_values(block, name, first, len(array))
        first += len(block)
    return cast(ImageArray, array)


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

    Raises
    ------
    ValueError
        Another length or number of dimensions, a type that is not integer, or a number outside
        0 to n_classes - 1.
    """
    array = np.asarray(labels)
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
    array = np.asarray(labels)
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
    if sample_weight is None:
        return None
    array = np.asarray(sample_weight, dtype=np.float64)
    if array.shape != (n_images,) or not (np.isfinite(array).all() and (array >= 0).all()):
        msg = (
            f"sample_weight must be finite, not negative, and ({n_images},), got shape "
            f"{array.shape}."
        )
        raise ValueError(msg)
    if not array.any():
        msg = "sample_weight must be positive for one image at least, got zeros."
        raise ValueError(msg)
    return array


def targets_of(targets: TargetArray, n_targets: int) -> FloatArray:
    """Make targets ``tau`` (n, k): one-hot rows of class numbers; real targets as they are."""
    array: Any = targets
    return one_hot(array, n_targets) if array.ndim == 1 else np.asarray(array, np.float64)


def one_hot(labels: LabelArray, n_classes: int) -> FloatArray:
    """Targets ``tau`` (n, k) of class numbers (n,)."""
    tau = np.zeros((len(labels), n_classes))
    tau[np.arange(len(labels)), labels] = 1.0
    return tau
