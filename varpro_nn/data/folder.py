"""A data set as a folder of ``.npy`` files, whose training images stay on disk.

``x_train.npy`` (n, rows, columns) or (n, channels, rows, columns), ``y_train.npy`` (n,); to be
measured on, ``x_test.npy`` and ``y_test.npy``. In place of either images an IDX file, not packed,
of up to 4 GiB: ``x_train.idx``. Labels, and the test set, are read into memory.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._io.npy_header import read_npy_header
from varpro_nn.data.idx import read_idx_header
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.imageset import Dataset
from varpro_nn.data.labelled import dataset_of
from varpro_nn.errors import DatasetError


def read_folder(folder: Path) -> Dataset:
    """Read a data set from a folder.

    Raises
    ------
    DatasetError
        A file is missing, damaged, or its length is not what its header says; or what
        :func:`~varpro_nn.data.labelled.dataset_of` refuses.
    """
    arrays: dict[str, Any] = {
        "x_train": _images_of(folder, "x_train"),
        "y_train": _labels(folder / "y_train.npy"),
    }
    if any(folder.glob("x_test.*")):
        arrays["x_test"] = _images_of(folder, "x_test")[:]
    if (folder / "y_test.npy").exists():
        arrays["y_test"] = _labels(folder / "y_test.npy")
    return dataset_of(str(folder), arrays)


def _images_of(folder: Path, name: str) -> ImagesOnDisk:
    found = [path for end in ("npy", "idx") if (path := folder / f"{name}.{end}").exists()]
    if not found:
        msg = f"{folder}: needs {name}.npy or {name}.idx."
        raise DatasetError(msg)
    return images_in(found[0])


def images_in(path: Path) -> ImagesOnDisk:
    """Find the images in a ``.npy`` file or an IDX file that is not packed.

    Raises
    ------
    DatasetError
        The file cannot be read, is damaged, or holds another type.
    """
    try:
        with open(path, "rb") as stream:
            if path.suffix == ".idx":
                shape, dtype = read_idx_header(stream, str(path)), np.dtype(np.uint8)
            else:
                shape, dtype = _npy_header(stream, path)
            offset = stream.tell()
        expected, size = offset + math.prod(shape) * dtype.itemsize, path.stat().st_size
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error})."
        raise DatasetError(msg) from error
    if size != expected:
        msg = f"{path}: should have {expected} bytes for shape {shape}, has {size}."
        raise DatasetError(msg)
    return ImagesOnDisk(path.absolute(), offset, shape, dtype)


def _npy_header(stream: Any, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read shape and type of a file of images."""
    try:
        shape, fortran, dtype = read_npy_header(stream)
    except ValueError as error:
        msg = f"{path}: not a .npy file ({error})."
        raise DatasetError(msg) from error
    if fortran or dtype.str not in ("|u1", "<f4", "<f8"):
        order = " in Fortran order" if fortran else ""
        msg = f"{path}: must be uint8, float32 or float64 in C order, got {dtype}{order}."
        raise DatasetError(msg)
    return shape, dtype


def _labels(path: Path) -> Any:
    try:
        with open(path, "rb") as stream:
            shape, _, dtype = read_npy_header(stream)
            if len(shape) != 1 or dtype.kind not in "biufU" or not dtype.itemsize:
                msg = (
                    f"must be 1-D, numbers, booleans or text of fixed width (.astype(str)), got "
                    f"shape {shape}, {dtype}"
                )
                raise ValueError(msg)
            size, expected = path.stat().st_size, stream.tell() + shape[0] * dtype.itemsize
            if size != expected:
                msg = f"should have {expected} bytes for shape {shape}, has {size}"
                raise ValueError(msg)
            return np.fromfile(stream, dtype=dtype, count=shape[0])
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})."
        raise DatasetError(msg) from error
