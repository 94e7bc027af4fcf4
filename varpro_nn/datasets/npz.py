"""Data sets in ``.npz`` files: zip files of arrays, as `numpy.savez` writes them.

The files come from anywhere, so they are believed in nothing: no pickles, and no array is read
before its header, the zip directory and the size of the file agree on how large it is.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import LabelArray
from varpro_nn.datasets.imageset import Dataset, ImageSet
from varpro_nn.errors import DatasetError
from varpro_nn.images import check_images
from varpro_nn.npy_header import read_npy_header

_DEFLATE_RATIO = 1032
_SUFFIX = ".npy"
_FIRST_INEXACT = 2**53
# All that zipfile and numpy raise for a damaged file.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


class NpzArrays:
    """The arrays of an open ``.npz`` file."""

    def __init__(self, path: str, archive: zipfile.ZipFile):
        self._path = path
        self._archive = archive
        self._file_size = os.path.getsize(path)
        self._members = {
            member.filename.removesuffix(_SUFFIX): member
            for member in archive.infolist()
            if member.filename.endswith(_SUFFIX)
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(self._members)

    def read(self, name: str) -> NDArray[Any]:
        """Return an array.

        Raises
        ------
        DatasetError
            No array of this name; an array of objects (they are pickles); sizes that contradict
            each other; damaged or truncated data.
        """
        member = self._members.get(name)
        if member is None:
            msg = f"{self._path}: must contain an array {name}, got {_listed(self.names)}."
            raise DatasetError(msg)
        try:
            self._check_sizes(name, member)
            with self._archive.open(member) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except _DAMAGE as error:
            msg = f"{self._path}: array {name} cannot be read: {error or type(error).__name__}"
            raise DatasetError(msg) from error

    def _check_sizes(self, name: str, member: zipfile.ZipInfo) -> None:
        where = f"{self._path}: array {name}"
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            msg = f"{where} must be stored or deflated, got compression {member.compress_type}."
            raise DatasetError(msg)
        packed = min(member.compress_size, self._file_size)
        if member.file_size > _DEFLATE_RATIO * packed:
            msg = f"{where} claims {member.file_size} bytes, packed into {packed}."
            raise DatasetError(msg)
        with self._archive.open(member) as stream:
            shape, _, dtype = read_npy_header(stream)
            header = stream.tell()
        if dtype.kind not in "biufU" or not dtype.itemsize:
            msg = f"{where} must hold numbers, booleans or strings, got type {dtype}."
            raise DatasetError(msg)
        expected = header + math.prod(shape) * dtype.itemsize
        if expected != member.file_size:
            msg = (
                f"{where} of shape {shape} and type {dtype} must have {expected} bytes with its "
                f"header, got {member.file_size}."
            )
            raise DatasetError(msg)


@contextmanager
def open_npz(path: str | os.PathLike[str]) -> Iterator[NpzArrays]:
    """Open a ``.npz`` file to read arrays by name.

    Raises
    ------
    DatasetError
        The file cannot be opened or is not a zip file.
    """
    where = os.fspath(path)
    try:
        archive = zipfile.ZipFile(where)
    except OSError as error:
        msg = f"{where}: cannot be read: {error.strerror or error}"
        raise DatasetError(msg) from error
    except (ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        msg = f"{where}: must be a .npz file (a zip file of arrays): {error}"
        raise DatasetError(msg) from error
    with archive:
        yield NpzArrays(where, archive)


def read_dataset_npz(path: str | os.PathLike[str]) -> Dataset:
    """Read a data set from a ``.npz`` file.

    Parameters
    ----------
    path : str or path
        A file with ``x_train`` (n, rows, columns) or (n, channels, rows, columns), ``uint8``
        or floating point, and ``y_train`` (n,): integers, booleans, strings, or floats without a
        fraction. Other arrays than these and ``x_test``, ``y_test`` are not read.

    Returns
    -------
    Dataset
        ``classes`` are the distinct training labels in order (booleans as 0 and 1); ``test`` is
        None if the file has neither ``x_test`` nor ``y_test``.

    Raises
    ------
    DatasetError
        A missing, damaged or unsuitable array; different lengths or image shapes; one class
        only; a test label that no training image has.
    """
    where = os.path.expanduser(os.fspath(path))
    with open_npz(where) as arrays:
        present = [name for name in ("x_test", "y_test") if name in arrays.names]
        if len(present) == 1:
            msg = f"{where}: must contain both x_test and y_test or neither, got {present[0]} only."
            raise DatasetError(msg)
        x_train, y_train = _read_part(where, arrays, "train")
        x_test, y_test = _read_part(where, arrays, "test") if present else (None, None)
    classes, codes = np.unique(y_train, return_inverse=True)
    if len(classes) < 2:
        msg = f"{where}: y_train must have two classes or more, got {classes.tolist()} only."
        raise DatasetError(msg)
    try:
        train = ImageSet(x_train, codes)
        test = None
        if x_test is not None and y_test is not None:
            test = ImageSet(x_test, _test_codes(where, classes, y_test))
        return Dataset(where, classes, train, test)
    except ValueError as error:
        msg = f"{where}: {error}"
        raise DatasetError(msg) from error


def _read_part(where: str, arrays: NpzArrays, part: str) -> tuple[Any, NDArray[Any]]:
    """Read and check images and labels of "train" or "test"."""
    try:
        images = check_images(arrays.read(f"x_{part}"), f"x_{part}")
    except ValueError as error:
        msg = f"{where}: {error}"
        raise DatasetError(msg) from error
    labels = _checked_labels(where, f"y_{part}", arrays.read(f"y_{part}"))
    if len(images) != len(labels):
        msg = (
            f"{where}: x_{part} and y_{part} must have the same length, "
            f"got {len(images)} images and {len(labels)} labels."
        )
        raise DatasetError(msg)
    return images, labels


def _checked_labels(where: str, name: str, labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels as int64 or as strings."""
    if labels.ndim != 1:
        msg = f"{where}: {name} must be 1-D, got shape {labels.shape}."
        raise DatasetError(msg)
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
        msg = f"{where}: {name} must be {expected}, got {labels[np.argmax(bad)]}."
        raise DatasetError(msg)
    return labels.astype(np.int64)


def _test_codes(where: str, classes: NDArray[Any], labels: NDArray[Any]) -> LabelArray:
    if (classes.dtype.kind == "U") != (labels.dtype.kind == "U"):
        msg = (
            f"{where}: y_train and y_test must both be numbers or both be strings, "
            f"got {classes.dtype} and {labels.dtype}."
        )
        raise DatasetError(msg)
    codes = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    unknown = np.unique(labels[classes[codes] != labels])
    if unknown.size:
        msg = (
            f"{where}: every label of y_test must occur in y_train, "
            f"got {_listed(unknown.tolist())} in y_test only."
        )
        raise DatasetError(msg)
    return codes


def _listed(values: Any, most: int = 10) -> str:
    values = list(values)
    text = ", ".join(map(str, values[:most])) or "nothing"
    return text if len(values) <= most else f"{text}, ... ({len(values)} in all)"
