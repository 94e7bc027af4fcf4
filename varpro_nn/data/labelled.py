"""From arrays of images and labels, as users have them, to a data set."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import LabelArray
from varpro_nn.data.images import check_images
from varpro_nn.data.imageset import Dataset, ImageSet
from varpro_nn.data.labels import label_row
from varpro_nn.errors import DatasetError

_FIRST_INEXACT = 2**53
"""Floats from here on do not tell all integers apart."""


def dataset_of(where: str, arrays: Mapping[str, Any]) -> Dataset:
    """Make a data set of ``x_train`` and ``y_train``, and the same of ``test`` and ``validation``.

    Test and validation images may be missing. ``where`` is the name of the data set. Error messages
    start with it. Labels are integers, booleans, strings, or floats without a fraction: (n,), a
    column (n, 1), or one-hot rows (n, k).

    Raises
    ------
    DatasetError
        A missing or unsuitable array; different lengths or image shapes; one class only; a test
        or validation label that no training image has.
    """
    x_train, y_train = _subset(where, arrays, "train")
    classes, codes = np.unique(y_train, return_inverse=True)
    if len(classes) < 2:
        msg = f"{where}: y_train must have two classes or more, got {classes.tolist()} only."
        raise DatasetError(msg)
    try:
        train = ImageSet(x_train, codes)
        test, validation = (
            _measured_on(where, arrays, subset, classes, x_train.shape[1:])
            for subset in ("test", "validation")
        )
        return Dataset(where, classes, train, test, validation=validation)
    except ValueError as error:
        msg = f"{where}: {error}"
        raise DatasetError(msg) from error


def _measured_on(
    where: str,
    arrays: Mapping[str, Any],
    subset: str,
    classes: NDArray[Any],
    shape: Sequence[int],
) -> ImageSet | None:
    """Make the set of images that is only measured on, if there is one."""
    names = f"x_{subset}", f"y_{subset}"
    present = [name for name in names if name in arrays]
    if not present:
        return None
    if len(present) == 1:
        msg = f"{where}: must contain both {' and '.join(names)} or neither, got {present[0]} only."
        raise DatasetError(msg)
    images, labels = _subset(where, arrays, subset, shape)
    return ImageSet(images, _codes(where, classes, labels, f"y_{subset}"))


def _subset(
    where: str, arrays: Mapping[str, Any], subset: str, shape: Sequence[int] | None = None
) -> tuple[Any, NDArray[Any]]:
    """Check images, of a certain shape if it is given, and labels of a subset."""
    try:
        images = check_images(arrays[f"x_{subset}"], f"x_{subset}", shape)
        labels = _checked_labels(label_row(arrays[f"y_{subset}"], f"y_{subset}"), f"y_{subset}")
    except ValueError as error:
        msg = f"{where}: {error}"
        raise DatasetError(msg) from error
    if len(images) != len(labels):
        msg = (
            f"{where}: x_{subset} and y_{subset} must have the same length, "
            f"got {len(images)} images and {len(labels)} labels."
        )
        raise DatasetError(msg)
    return images, labels


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


def _codes(where: str, classes: NDArray[Any], labels: NDArray[Any], name: str) -> LabelArray:
    if (classes.dtype.kind == "U") != (labels.dtype.kind == "U"):
        msg = (
            f"{where}: y_train and {name} must both be numbers or both be strings, "
            f"got {classes.dtype} and {labels.dtype}."
        )
        raise DatasetError(msg)
    codes = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    unknown = np.unique(labels[classes[codes] != labels])
    if unknown.size:
        msg = (
            f"{where}: every label of {name} must occur in y_train, "
            f"got {listed(unknown.tolist())} in {name} only."
        )
        raise DatasetError(msg)
    return codes


def listed(values: Iterable[Any], most: int = 10) -> str:
    """Name the first few of many values."""
    values = list(values)
    text = ", ".join(map(str, values[:most])) or "nothing"
    return text if len(values) <= most else f"{text}, ... ({len(values)} in all)"
