"""Data sets in ``.mat`` files, as MATLAB writes them up to version 7.

Only numbers, text, and cells of text are taken, also out of structs. Nothing is read before its
header and the size of the file agree on how large it may be.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from varpro_nn._io.regular_file import open_regular
from varpro_nn.data.imageset import Dataset
from varpro_nn.data.labelled import dataset_of, listed
from varpro_nn.data.mat_structs import Entry, array_at, entries_of_structs
from varpro_nn.data.naming import choose
from varpro_nn.data.packed import DEFLATE_RATIO
from varpro_nn.data.pixel_values import typed_pixels
from varpro_nn.errors import DatasetError

_NUMBERS = frozenset(
    (
        *("double", "single", "logical", "int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
    )
)
_TEXT = frozenset(("char", "cell"))


def read_dataset_mat(
    path: str | os.PathLike[str], image_size: tuple[int, int] | None = None
) -> Dataset:
    """Read a data set from arrays with the names that :mod:`varpro_nn.data.npz` knows.

    If the variables are no images and labels, arrays in structs are, such as
    ``dataset.train.images`` and ``dataset.train.labels`` of EMNIST.

    The images may be numbered along the first axis or the last: the labels tell which. In ``X`` of
    shape (32, 32, 3, n) and ``y`` of shape (n, 1) it is the last. Labels are numbers, a matrix of
    characters with one label in each row, or a cell array of text.

    Numbers are ``double`` in MATLAB unless somebody says otherwise, so
    :func:`~varpro_nn.data.pixel_values.typed_pixels` tells bytes from intensities if images are not
    ``uint8``. Rows of pixels
    are taken row by row; ``reshape`` in MATLAB goes column by column, so that images of such rows
    come out with rows and columns exchanged.

    Raises
    ------
    DatasetError
        A file of version 7.3, or damaged; no images with labels; an axis of images that is in
        doubt; or what :func:`~varpro_nn.data.labelled.dataset_of` refuses.
    """
    where = os.path.expanduser(os.fspath(path))
    with _opened(where) as stream:
        names, found = _read(where, stream)
    try:
        given = _in_order({role: found[name] for role, name in names.items()}, names)
        pixels = {names[role]: array for role, array in given.items() if role.startswith("x")}
        have_type = all(array.dtype == np.uint8 for array in pixels.values())
        typed = pixels if have_type else typed_pixels(pixels)
    except ValueError as error:
        msg = f"{where}: {error}"
        raise DatasetError(msg) from error
    given |= {role: typed[name] for role, name in names.items() if name in typed}
    return dataset_of(where, given, names=names, image_size=image_size)


@contextmanager
def _opened(where: str) -> Iterator[BinaryIO]:
    """Open the file; what SciPy raises then becomes a DatasetError, for it may be anything."""
    try:
        with open_regular(where) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damage, which is refused
            yield stream
    except DatasetError:
        raise
    except NotImplementedError as error:
        msg = (
            f"{where}: must be a .mat file of version 7 or earlier, got version 7.3 or another; in "
            "MATLAB save it with save('data.mat', 'X', 'y', '-v7')."
        )
        raise DatasetError(msg) from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        msg = f"{where}: cannot be read as a .mat file: {reason}"
        raise DatasetError(msg) from error


def _read(where: str, stream: Any) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Read the arrays of images and labels, and no others."""
    import scipy

    described = {name: Entry(kind, shape) for name, shape, kind in scipy.io.whosmat(stream)}
    names, described = _chosen(where, stream, described)
    size = os.fstat(stream.fileno()).st_size
    wanted = set(names.values())
    for name in wanted:
        shape = described[name].shape
        claimed = np.prod([float(length) for length in shape])
        if not (min(shape) >= 0 and claimed <= DEFLATE_RATIO * size):
            msg = f"{where}: {name} claims shape {shape} in a file of {size} bytes."
            raise DatasetError(msg)
    stream.seek(0)
    variables = {name.split(".")[0] for name in wanted}  # names have no dots in MATLAB
    loaded = scipy.io.loadmat(stream, variable_names=sorted(variables))
    return names, {
        name: _plain(where, name, described[name].kind, array_at(loaded, name)) for name in wanted
    }


def _chosen(
    where: str, stream: BinaryIO, described: Mapping[str, Entry]
) -> tuple[dict[str, str], dict[str, Entry]]:
    """Choose images and labels among the variables, else among the arrays in structs as well."""
    known = dict(described)
    structs = [name for name, entry in known.items() if entry.kind == "struct"]
    try:
        return choose(_usable(known)), known
    except ValueError as error:
        fault = error
    if structs:
        known |= entries_of_structs(where, stream, structs)
        try:
            return choose(_usable(known)), known
        except ValueError as error:
            fault = error
    msg = f"{where}: {fault} In MATLAB save them with save('data.mat', 'X', 'y', '-v7')."
    usable = _usable(known)
    others = [f"{name} ({entry.kind})" for name, entry in known.items() if name not in usable]
    if others:
        msg += f" Not read, because they are no plain arrays: {listed(others)}."
    raise DatasetError(msg) from fault


def _usable(described: Mapping[str, Entry]) -> list[str]:
    return [name for name, entry in described.items() if entry.kind in _NUMBERS | _TEXT]


def _plain(where: str, name: str, kind: str, array: Any) -> NDArray[Any]:
    """Make an array of numbers or text of what SciPy has read."""
    if kind == "logical":
        return np.asarray(array, dtype=np.bool_)
    if kind == "char":
        return np.char.rstrip(np.asarray(array))  # the rows of a matrix have the same length
    if kind != "cell":
        return np.asarray(array)
    cells = [np.asarray(cell) for cell in np.asarray(array).flat]
    if not all(cell.dtype.kind == "U" and cell.size <= 1 for cell in cells):
        msg = f"{where}: {name} must be numbers or text, got cells of something else."
        raise DatasetError(msg)
    texts = np.empty(len(cells), dtype=object)
    texts[:] = [str(cell.item()) if cell.size else "" for cell in cells]
    return texts


def _in_order(
    arrays: Mapping[str, NDArray[Any]], names: Mapping[str, str]
) -> dict[str, NDArray[Any]]:
    """Put the axis that numbers the images first."""
    labels = {role: _row(array) for role, array in arrays.items() if role.startswith("y")}
    images = {role: array for role, array in arrays.items() if role.startswith("x")}
    axes = [axis for axis in (0, -1) if _fits(images, labels, axis)]
    if len(axes) == 2 and any(array.ndim > 1 for array in images.values()):
        shapes = ", ".join(f"{names[role]} {array.shape}" for role, array in images.items())
        msg = (
            f"the first and the last axis of {shapes} are both as long as the labels, so that "
            "either may number the images; leave out one image and its label."
        )
        raise ValueError(msg)
    axis = axes[0] if axes else 0
    ordered: dict[str, NDArray[Any]] = {}
    for role, array in images.items():
        moved = np.ascontiguousarray(np.moveaxis(array, axis, 0))
        label = labels[f"y{role[1:]}"]
        if label.ndim == 2 and len(label) != len(moved) == label.shape[1]:
            label = label.T
        ordered |= {role: moved, f"y{role[1:]}": label}
    return ordered


def _fits(
    images: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[Any]], axis: int
) -> bool:
    """Whether an axis of all images is as long as their labels."""
    return all(
        # One-hot labels may be rows or columns.
        array.ndim > 0 and array.shape[axis] in labels[f"y{role[1:]}"].shape[:2]
        for role, array in images.items()
    )


def _row(labels: NDArray[Any]) -> NDArray[Any]:
    """Make a row of labels of a column or row; MATLAB has no arrays of one axis."""
    return labels.reshape(-1) if labels.ndim == 2 and 1 in labels.shape else labels
