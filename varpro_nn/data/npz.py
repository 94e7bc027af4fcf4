"""Data sets in ``.npz`` files: zip files of arrays, as `numpy.savez` writes them.

The files come from anywhere, so they are believed in nothing: no pickles, and no array is read
before its header, the zip directory and the size of the file agree on how large it is.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._io.npy_header import read_npy_header
from varpro_nn._io.regular_file import open_regular
from varpro_nn.data.imageset import Dataset
from varpro_nn.data.labelled import dataset_of, listed
from varpro_nn.errors import DatasetError

_DEFLATE_RATIO = 1032
_SUFFIX = ".npy"
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
            msg = f"{self._path}: must contain an array {name}, got {listed(self.names)}."
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
    with ExitStack() as opened:
        try:
            stream = opened.enter_context(open_regular(where))
            archive = opened.enter_context(zipfile.ZipFile(stream))
        except OSError as error:
            msg = f"{where}: cannot be read: {error.strerror or error}"
            raise DatasetError(msg) from error
        except (ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            msg = f"{where}: must be a .npz file (a zip file of arrays): {error}"
            raise DatasetError(msg) from error
        yield NpzArrays(where, archive)


def read_dataset_npz(path: str | os.PathLike[str]) -> Dataset:
    """Read a data set from ``x_train`` and ``y_train``; ``x_test`` and ``y_test`` may be missing.

    Other arrays are not read. :func:`~varpro_nn.data.labelled.dataset_of` says what images and
    labels may be.

    Raises
    ------
    DatasetError
        A missing, damaged or unsuitable array, or what
        :func:`~varpro_nn.data.labelled.dataset_of` refuses.
    """
    where = os.path.expanduser(os.fspath(path))
    with open_npz(where) as arrays:
        present = [name for name in ("x_test", "y_test") if name in arrays.names]
        found = {name: arrays.read(name) for name in ("x_train", "y_train", *present)}
    return dataset_of(where, found)
