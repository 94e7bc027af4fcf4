"""A data set as a folder of ``.npy`` or IDX files.

======= ========================================= ============================
array   shape                                     file
======= ========================================= ============================
x_train (n, rows, columns), (n, channels, rows,   ``x_train.npy``, ``x_train.idx`` or
        columns) or (n, rows, columns, channels)  ``train-images-idx3-ubyte``
y_train (n,), (n, 1), or one-hot (n, k)           ``y_train.npy``, ``y_train.idx`` or
                                                  ``train-labels-idx1-ubyte``
x_test, as the training set                       ``x_test.npy``, ``t10k-images-idx3-ubyte`` and
y_test                                            so on; they may be missing
======= ========================================= ============================

An IDX file may be gzipped and end in ``.gz``. Training images stay on disk, unless they are in
Fortran order or gzipped. Labels, and the test set, are read into memory.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._io.npy_header import read_npy_header
from varpro_nn._io.regular_file import open_regular
from varpro_nn.data.file_kind import kind_of_file
from varpro_nn.data.idx import read_idx, read_idx_header
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.imageset import Dataset
from varpro_nn.data.labelled import dataset_of
from varpro_nn.errors import DatasetError

_IDX_NAMES = {
    "x_train": ("x_train.idx", "train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "y_train": ("y_train.idx", "train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "x_test": ("x_test.idx", "t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "y_test": ("y_test.idx", "t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}
_PACKED = ".gz"


def read_folder(folder: Path) -> Dataset:
    """Read a data set from a folder.

    Raises
    ------
    DatasetError
        A file is missing, damaged, or its length is not what its header says; or what
        :func:`~varpro_nn.data.labelled.dataset_of` refuses.
    """
    arrays: dict[str, Any] = {}
    for array, names in _IDX_NAMES.items():
        path = _file_of(folder, array)
        if path is not None:
            arrays[array] = images_in(path) if array.startswith("x") else _labels_in(path)
        elif array.endswith("train"):
            msg = f"{folder}: needs {array}.npy, {names[0]} or {names[1]} (IDX also as .gz)."
            msg += " Or a sub-folder of pictures for each class."
            raise DatasetError(msg)
    if "x_test" in arrays:
        arrays["x_test"] = arrays["x_test"][:]
    return dataset_of(str(folder), arrays)


def _file_of(folder: Path, array: str) -> Path | None:
    """Find the file of an array: the first of the names that it may have."""
    idx = _IDX_NAMES[array]
    names = (f"{array}.npy", *idx, *(f"{name}{_PACKED}" for name in idx))
    return next((path for name in names if (path := folder / name).exists()), None)


def images_in(path: Path) -> ImagesOnDisk | NDArray[Any]:
    """Find the images in a ``.npy`` or IDX file.

    Those of a gzipped file, or in Fortran order, are read into memory: one image is not in one
    place there.

    Raises
    ------
    DatasetError
        The file cannot be read, is damaged, or holds another type.
    """
    if kind_of_file(path) == "gzip":
        return read_idx(path)
    shape, fortran, dtype, offset = _header_of(path)
    if fortran:
        return _read(path, shape, dtype, offset, "F")
    return ImagesOnDisk(path.absolute(), offset, shape, dtype, dtype)


def _labels_in(path: Path) -> NDArray[Any]:
    if kind_of_file(path) == "gzip":
        return read_idx(path)
    shape, fortran, dtype, offset = _header_of(path)
    return _read(path, shape, dtype, offset, "F" if fortran else "C")


def _header_of(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read shape, whether in Fortran order, type, and where the array begins; check the length."""
    is_npy = kind_of_file(path) == "npy" or path.suffix == ".npy"
    try:
        with open_regular(path) as stream:
            if is_npy:
                shape, fortran, dtype = read_npy_header(stream)
            else:
                shape, fortran = read_idx_header(stream, str(path)), False
                dtype = np.dtype(np.uint8)
            offset = stream.tell()
        expected, size = offset + math.prod(shape) * dtype.itemsize, path.stat().st_size
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error})."
        raise DatasetError(msg) from error
    except ValueError as error:
        msg = f"{path}: not a .npy file ({error})."
        raise DatasetError(msg) from error
    if dtype.kind not in "biufU" or not dtype.itemsize:
        msg = (
            f"{path}: must hold numbers, booleans or text of fixed width (.astype(str)), got "
            f"{dtype}."
        )
        raise DatasetError(msg)
    if size != expected:
        msg = f"{path}: should have {expected} bytes for shape {shape}, has {size}."
        raise DatasetError(msg)
    return shape, fortran, dtype, offset


def _read(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, order: str
) -> NDArray[Any]:
    try:
        flat = np.fromfile(path, dtype=dtype, count=math.prod(shape), offset=offset)
        # In C order, as all images: the sums of products depend on the order in memory.
        return np.ascontiguousarray(flat.reshape(shape, order=order))  # type: ignore[call-overload]
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})."
        raise DatasetError(msg) from error
