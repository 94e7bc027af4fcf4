"""Data sets in ``.npz`` files: zip files of arrays, as `numpy.savez` writes them.

The files come from anywhere, so they are believed in nothing: no pickles, and no array is read
before its header, the zip directory and the size of the file agree on how large it is.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._io.npy_header import read_npy_header
from varpro_nn._io.regular_file import open_regular
from varpro_nn.data.imageset import Dataset
from varpro_nn.data.labelled import dataset_of, listed
from varpro_nn.data.naming import choose
from varpro_nn.data.packed import DEFLATE_RATIO
from varpro_nn.errors import DatasetError

_SUFFIX = ".npy"
_WITHOUT_NAMES = ({"arr_0", "arr_1"}, {"arr_0", "arr_1", "arr_2", "arr_3"})
"""Names that `numpy.savez` gives to arrays without one."""
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
        if member.file_size > DEFLATE_RATIO * packed:
            msg = f"{where} claims {member.file_size} bytes, packed into {packed}."
            raise DatasetError(msg)
        with self._archive.open(member) as stream:
            shape, _, dtype = read_npy_header(stream)
            header = stream.tell()
        if dtype.kind not in "biufU" or not dtype.itemsize:
            msg = f"{where} must hold numbers, booleans or strings, got type {dtype}"
            if dtype.kind == "O":
                msg += ", which is a pickle and is never opened"
            msg += "; save labels with .astype(str), images with numpy.stack(images)."
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


def read_dataset_npz(
    path: str | os.PathLike[str], image_size: tuple[int, int] | None = None
) -> Dataset:
    """Read a data set from arrays that are named as many name them.

    ========================================= ====================================================
    names, in upper or lower case             example
    ========================================= ====================================================
    ``x`` or ``y``, and ``train`` or ``test`` ``x_train``, ``y_train``, ``x_test``, ``y_test``
    ``images`` or ``labels``, and so on       ``train_images``, ``train_labels``, ``test_images``,
                                              ``test_labels``
    a training set alone                      ``images`` and ``labels``; ``X`` and ``y``; ``data``
                                              and ``target``; ``fea`` and ``gnd``
    none (``numpy.savez(path, x, y)``)        ``arr_0``, ``arr_1``; with a test set also ``arr_2``,
                                              ``arr_3``
    ========================================= ====================================================

    Of arrays without names, those with more values per row are the images, and training comes
    first. A validation set has names such as ``val_images`` or ``x_valid``. Other arrays are not
    read.
    :func:`~varpro_nn.data.labelled.dataset_of` says what images and labels may be.

    Raises
    ------
    DatasetError
        No images with labels, or several training sets; a damaged or unsuitable array; or what
        :func:`~varpro_nn.data.labelled.dataset_of` refuses.
    """
    where = os.path.expanduser(os.fspath(path))
    with open_npz(where) as arrays:
        if set(arrays.names) in _WITHOUT_NAMES:
            found = {name: arrays.read(name) for name in sorted(arrays.names)}
            names = _by_size(found)
        else:
            names = _by_name(where, arrays.names)
            found = {name: arrays.read(name) for name in names.values()}
    given = {role: found[name] for role, name in names.items()}
    return dataset_of(where, given, names=names, image_size=image_size)


def _by_name(where: str, names: Iterable[str]) -> dict[str, str]:
    # What has the names of this package is not in doubt beside other names.
    own = ("x_train", "y_train", "x_test", "y_test")
    try:
        return choose(names, rank=lambda name: name not in own)
    except ValueError as error:
        msg = f"{where}: {error} Save them with numpy.savez(path, x_train=images, y_train=labels)."
        raise DatasetError(msg) from error


def _by_size(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Tell images from labels: they have more values per row."""
    sizes = {name: math.prod(array.shape[1:]) for name, array in arrays.items()}
    ordered = sorted(arrays, key=lambda name: -sizes[name])
    n = len(ordered) // 2
    images, labels = sorted(ordered[:n]), sorted(ordered[n:])
    subsets = ("train", "test")[:n]
    return {
        f"{role}_{subset}": name
        for role, some in (("x", images), ("y", labels))
        for subset, name in zip(subsets, some, strict=True)
    }
