"""A data set as a folder of ``.npy`` or IDX files.

The words in the names of files say what they hold, in upper or lower case:

======= ========================================= ============================
array   shape                                     file
======= ========================================= ============================
x_train (n, rows, columns), (n, channels, rows,   ``x_train.npy``, ``x_train.idx``,
        columns), (n, rows, columns, channels),   ``train-images-idx3-ubyte``,
        or rows of pixels (n, d)                  ``X_train-idx3-ubyte``
y_train (n,), (n, 1), or one-hot (n, k)           ``y_train.npy``, ``y_train.idx``,
                                                  ``train-labels-idx1-ubyte``,
                                                  ``y_train-idx1-ubyte``
x_test, as the training set                       ``x_test.npy``, ``t10k-images-idx3-ubyte``,
y_test                                            ``test-images-idx3-ubyte`` and so on; they may be
                                                  missing
======= ========================================= ============================

Other words must be the same in both names: ``emnist-letters-train-images-idx3-ubyte`` goes with
``emnist-letters-train-labels-idx1-ubyte``. A single pair is the training set, whatever it is
called. An IDX file may be gzipped and end in ``.gz``. Training images stay on disk, unless they are
in Fortran order or gzipped. Labels, and the test set, are read into memory.

Without such files, ``train.csv`` and ``test.csv`` are the data set, or tables with such names that
:mod:`varpro_nn.data.tables` reads.
"""

import math
import re
from collections.abc import Sequence
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
from varpro_nn.data.labelled import dataset_of, listed
from varpro_nn.data.naming import choose, meaning
from varpro_nn.data.pictures import entries_of
from varpro_nn.data.reading import AS_IT_IS, Reading
from varpro_nn.data.tables import read_dataset_tables, tables_in
from varpro_nn.errors import DatasetError

_IDX_NAME = re.compile(r"idx\d|ubyte|\.idx$", re.IGNORECASE)
_PACKED = ".gz"


def read_folder(folder: Path, reading: Reading = AS_IT_IS) -> Dataset:
    """Read a data set from a folder.

    Raises
    ------
    DatasetError
        A file is missing, damaged, or its length is not what its header says; several files may
        be the training set; or what :func:`~varpro_nn.data.labelled.dataset_of` refuses.
    ValueError
        ``reading`` has what such files do not need.
    """
    entries = entries_of(folder)
    files = [entry.name for entry in entries if _is_array(entry)]
    if not files:
        tables = tables_in(folder, entries)
        if tables:
            return read_dataset_tables(folder, tables, reading)
        raise _nothing_in(folder, entries)
    try:
        names = choose(files, rank=_rank)
    except ValueError as error:
        msg = (
            f"{folder}: {error} Name them, for example, x_train.npy and y_train.npy, or "
            "train-images-idx3-ubyte and train-labels-idx1-ubyte (IDX also as .gz)."
        )
        msg += " Or give a folder that has a sub-folder of pictures for each class."
        raise DatasetError(msg) from error
    reading.check_unused(f"the arrays in {folder}", "label_column")
    arrays = {
        role: (images_in if role[0] == "x" else _labels_in)(folder / name)
        for role, name in names.items()
    }
    for role in {"x_test", "x_validation"} & arrays.keys():
        arrays[role] = arrays[role][:]
    return dataset_of(str(folder), arrays, names=names, image_size=reading.image_size)


def has_arrays(folder: Path) -> bool:
    """Whether files of a folder are named like images or labels."""
    return any(_is_array(entry) and not entry.is_dir() for entry in entries_of(folder))


def _nothing_in(folder: Path, entries: Sequence[Path]) -> DatasetError:
    msg = (
        f"{folder}: must contain arrays (x_train.npy and y_train.npy, or IDX files such as "
        "train-images-idx3-ubyte and train-labels-idx1-ubyte, also as .gz), a table train.csv, "
        "or a sub-folder of pictures for each class, "
        f"got {listed(entry.name for entry in entries)}."
    )
    return DatasetError(msg)


def _is_array(entry: Path) -> bool:
    name = entry.name.removesuffix(_PACKED)
    return bool(meaning(name).role) and (entry.suffix == ".npy" or bool(_IDX_NAME.search(name)))


def _rank(name: str) -> int:
    """Prefer ``.npy`` to IDX, and both to the same file gzipped."""
    return 2 * name.endswith(_PACKED) + (not name.endswith(".npy"))


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
