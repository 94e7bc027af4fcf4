"""From arrays of images and labels, as users have them, to a data set."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._arrays import plain_array
from varpro_nn._typing import ImageArray, LabelArray
from varpro_nn.data.images import check_images
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.imageset import Dataset, ImageSet
from varpro_nn.data.labels import label_row
from varpro_nn.data.layout import Layout
from varpro_nn.errors import DatasetError

_MEASURED = ("test", "validation")
"""Subsets that nothing is trained on."""
_FIRST_INEXACT = 2**53
"""Floats from here on do not tell all integers apart."""


def dataset_of(
    where: str,
    arrays: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Dataset:
    """Make a data set of ``x_train`` and ``y_train``, and the same of ``test`` and ``validation``.

    Test and validation images may be missing.

    Parameters
    ----------
    where : str
        The name of the data set. Error messages start with it.
    arrays : mapping of str to array_like
        Images as :func:`~varpro_nn.data.images.check_images` takes them, or rows of pixels
        (n, d): see :meth:`varpro_nn.data.layout.Layout.of_pixels`. Labels are integers, booleans,
        strings, or floats without a fraction: (n,), a column (n, 1), or one-hot rows (n, k).
    names : mapping of str to str, optional
        What error messages call the arrays, if not ``x_train`` and so on.
    image_size : (rows, columns), optional
        Of rows of pixels; by default they are squares.

    Raises
    ------
    DatasetError
        A missing or unsuitable array; different lengths or image shapes; images of another size
        than ``image_size``; one class only; a test or validation label that no training image has.
    """
    roles = [f"{role}_{subset}" for subset in ("train", *_MEASURED) for role in "xy"]
    called = {role: role for role in roles} | dict(names or {})
    try:
        x_train, layout = _images(arrays["x_train"], called["x_train"], image_size)
        y_train = _labels(arrays["y_train"], called["y_train"])
        _check_lengths(x_train, y_train, called["x_train"], called["y_train"])
        classes, codes = np.unique(y_train, return_inverse=True)
        if len(classes) < 2:
            msg = f"{called['y_train']} must have two classes or more, got {classes.tolist()} only."
            raise ValueError(msg)
        test, validation = (
            _measured_on(subset, arrays, called, classes, x_train.shape[1:], layout)
            for subset in _MEASURED
        )
        return Dataset(where, classes, ImageSet(x_train, codes), test, validation=validation)
    except ValueError as error:
        msg = f"{where}: {error}"
        raise DatasetError(msg) from error


def _measured_on(
    subset: str,
    arrays: Mapping[str, Any],
    called: Mapping[str, str],
    classes: NDArray[Any],
    shape: tuple[int, ...],
    layout: Layout | None,
) -> ImageSet | None:
    """Make the set of test or validation images, if there is one."""
    x, y = f"x_{subset}", f"y_{subset}"
    present = [name for name in (x, y) if name in arrays]
    if not present:
        return None
    if len(present) == 1:
        msg = f"must contain both {x} and {y} or neither, got {present[0]} only."
        raise ValueError(msg)
    images = _like_training(arrays[x], called[x], shape, layout)
    labels = _labels(arrays[y], called[y])
    _check_lengths(images, labels, called[x], called[y])
    return ImageSet(images, _codes(classes, labels, called, subset))


def _images(
    given: Any, name: str, image_size: tuple[int, int] | None
) -> tuple[ImageArray, Layout | None]:
    """Check images, or make them of rows of pixels; the order of such rows, or None."""
    array = given if isinstance(given, ImagesOnDisk) else plain_array(given, name)
    if array.ndim == 2:
        layout = Layout.of_pixels(array, name, image_size)
        return _shaped(array, name, layout), layout
    images = check_images(array, name)
    if image_size is not None and images.shape[-2:] != image_size:
        msg = f"{name} must have images of image_size={image_size}, got shape {images.shape}."
        raise ValueError(msg)
    return images, None


def _shaped(rows: Any, name: str, layout: Layout) -> ImageArray:
    images = rows.reshape(len(rows), *layout.outer_shape)
    return check_images(images, name, layout.image_shape)


def _like_training(
    given: Any, name: str, shape: tuple[int, ...], layout: Layout | None
) -> ImageArray:
    """Check test images: they have the shape of the training images."""
    array = given if isinstance(given, ImagesOnDisk) else plain_array(given, name)
    if layout is not None and array.ndim == 2:
        if array.shape[1] != layout.n_pixels:
            msg = (
                f"{name} must have {layout.n_pixels} numbers per image like the training set, got "
                f"{array.shape[1]}."
            )
            raise ValueError(msg)
        return _shaped(array, name, layout)
    return check_images(array, name, shape)


def _labels(given: Any, name: str) -> NDArray[Any]:
    return _checked_labels(label_row(given, name), name)


def _check_lengths(images: ImageArray, labels: NDArray[Any], x: str, y: str) -> None:
    if len(images) != len(labels):
        msg = (
            f"{x} and {y} must have the same length, "
            f"got {len(images)} images and {len(labels)} labels."
        )
        raise ValueError(msg)


def _checked_labels(labels: NDArray[Any], name: str) -> NDArray[Any]:
    """Return labels as int64 or as strings."""
    if labels.ndim != 1:
        msg = (
            f"{name} must be (n,), a column (n, 1), or one-hot rows of zeros and a one (n, k), "
            f"got shape {labels.shape}."
        )
        raise ValueError(msg)
    if labels.dtype.kind == "U":
        return labels
    if labels.dtype.kind not in "biuf":
        msg = f"{name} must be numbers or strings (.astype(str)), got type {labels.dtype}."
        raise ValueError(msg)
    if labels.dtype.kind == "f":
        labels = labels.astype(np.float64)
        bad = ~(np.abs(labels) <= _FIRST_INEXACT) | (labels != np.floor(labels))
        expected = "integers, booleans, strings, or floats without a fraction"
    else:
        bad = labels > np.iinfo(np.int64).max
        expected = "at most 2**63 - 1"
    if bad.any():
        msg = f"{name} must be {expected}, got {labels[np.argmax(bad)]}."
        raise ValueError(msg)
    return labels.astype(np.int64)


def _codes(
    classes: NDArray[Any], labels: NDArray[Any], called: Mapping[str, str], subset: str
) -> LabelArray:
    y_train, y = called["y_train"], called[f"y_{subset}"]
    if (classes.dtype.kind == "U") != (labels.dtype.kind == "U"):
        msg = (
            f"{y_train} and {y} must both be numbers or both be strings, "
            f"got {classes.dtype} and {labels.dtype}."
        )
        raise ValueError(msg)
    codes = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    unknown = np.unique(labels[classes[codes] != labels])
    if unknown.size:
        msg = (
            f"every label of {y} must occur in {y_train}, "
            f"got {listed(unknown.tolist())} in {y} only."
        )
        raise ValueError(msg)
    return codes


def listed(values: Iterable[Any], most: int = 10) -> str:
    """Name the first few of many values."""
    values = list(values)
    text = ", ".join(map(str, values[:most])) or "nothing"
    return text if len(values) <= most else f"{text}, ... ({len(values)} in all)"
