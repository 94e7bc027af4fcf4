"""Images without labels, to be classified: arrays in files, pictures, folders of pictures."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import ImageArray
from varpro_nn.data.file_kind import kind_of_file
from varpro_nn.data.folder import images_in
from varpro_nn.data.idx import read_idx
from varpro_nn.data.images import check_images
from varpro_nn.data.naming import meaning
from varpro_nn.data.npz import open_npz
from varpro_nn.data.pictures import entries_of, files_below, is_picture, read_picture
from varpro_nn.data.preparation import Preparation
from varpro_nn.data.table_files import TABLE_ENDINGS
from varpro_nn.data.tables import read_table_images
from varpro_nn.errors import DatasetError

_PICTURES_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True, eq=False)
class FileImages:
    """Images of one file, or of several pictures.

    Attributes
    ----------
    images : ndarray, shape (n, *image_shape)
    files : list of Path
        The file of each image.
    """

    images: ImageArray
    files: list[Path]


def read_images(
    path: str | os.PathLike[str], image_shape: Sequence[int], *, prepared: Preparation | None = None
) -> ImageArray:
    """Read images of a given shape.

    Parameters
    ----------
    path : str or path
        A ``.npz`` file (array ``x_test`` or ``test_images``, else ``images`` or ``X``, else its
        only array); an IDX file, gzipped or not; a ``.npy`` array; a table with the endings that
        :func:`varpro_nn.load` knows, of rows of pixels; a picture that Pillow reads; or a folder,
        whose pictures are read in the order of their names. Of a folder without pictures, those in
        its sub-folders are read. Except for tables, the first bytes of a file tell its kind, not
        its name.
    image_shape : sequence of int
        (rows, columns) or (channels, rows, columns). Pictures become grey for one channel and
        red, green, blue for three; see :func:`varpro_nn.data.pictures.read_picture`. Channels of
        an array may come last.
    prepared : Preparation, optional
        Make pictures of any size like the training images of a network
        (``network.preparation``). By default they must have the size of the images, and are taken
        as they are.

    Returns
    -------
    ndarray, shape (n, *image_shape)
        ``uint8``, or what the file has.

    Raises
    ------
    ValueError
        ``image_shape`` is not two or three positive numbers.
    DatasetError
        The file cannot be read, holds no images, or images of another shape.
    """
    shape = _checked_shape(image_shape)
    where = Path(path).expanduser()
    if not os.path.isdir(where):  # not Path.is_dir, which may raise
        return _read_file(where, shape, prepared)
    files, _, _ = _pictures_in(where)
    return np.stack([_read_picture(file, shape, prepared) for file in files])


def read_all_images(
    paths: Iterable[str | os.PathLike[str]],
    image_shape: Sequence[int],
    *,
    prepared: Preparation | None = None,
    on_fault: Callable[[DatasetError], None],
    on_note: Callable[[str], None],
) -> Iterator[FileImages]:
    """Read files and folders one after the other, and skip those that cannot be read.

    Parameters
    ----------
    paths : iterable of str or path
        Each as in :func:`read_images`, which explains ``image_shape`` and ``prepared`` too.
    on_fault : callable
        Called with the error of each file that cannot be read.
    on_note : callable
        Called with a sentence that names the skipped files of a folder.

    Yields
    ------
    FileImages
        Up to 1,000 pictures at a time; the images of any other file by themselves.
    """
    shape = _checked_shape(image_shape)
    pictures: list[ImageArray] = []
    files: list[Path] = []
    for file in _files_in(paths, on_fault, on_note):
        try:
            images = _read_file(file, shape, prepared)
        except DatasetError as error:
            on_fault(error)
            continue
        one_picture = len(images) == 1 and images.dtype == np.uint8
        if files and (not one_picture or len(files) == _PICTURES_AT_A_TIME):
            yield FileImages(np.concatenate(pictures, dtype=np.uint8), files)
            pictures, files = [], []
        if one_picture:
            pictures.append(images)
            files.append(file)
        else:
            yield FileImages(images, [file] * len(images))
    if files:
        yield FileImages(np.concatenate(pictures, dtype=np.uint8), files)


def _files_in(
    paths: Iterable[str | os.PathLike[str]],
    on_fault: Callable[[DatasetError], None],
    on_note: Callable[[str], None],
) -> Iterator[Path]:
    for path in paths:
        where = Path(path).expanduser()
        if not os.path.isdir(where):
            yield where
            continue
        try:
            pictures, others, links = _pictures_in(where)
        except DatasetError as error:
            on_fault(error)
            continue
        reasons = {
            "their names do not end like a picture": others,
            "links out of the folder; give the paths that they lead to": links,
        }
        for reason, some in reasons.items():
            if some:
                names = ", ".join(other.name for other in some[:5])
                more = f" and {len(some) - 5} more" if len(some) > 5 else ""
                on_note(f"{where}: skipped {names}{more}: {reason}")
        yield from pictures


def _pictures_in(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Find the pictures of a folder, or of its sub-folders; other files; links out of it."""
    entries = entries_of(folder)
    links: list[Path] = []
    if not any(map(is_picture, entries)):
        below = [
            found
            for entry in entries
            if entry.is_dir()
            for found in files_below(entry, folder, follow_links=False)
        ]
        links = [file for file, leads_outside in below if leads_outside]
        entries = [file for file, leads_outside in below if not leads_outside]
    pictures = list(filter(is_picture, entries))
    if not pictures:
        msg = f"{folder}: must contain PNG or other pictures, got a folder without any."
        raise DatasetError(msg)
    return pictures, [entry for entry in entries if not is_picture(entry)], links


def _checked_shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        msg = f"image_shape must be (rows, columns) or (channels, rows, columns), got {shape}."
        raise ValueError(msg)
    return shape


def _read_file(path: Path, shape: tuple[int, ...], prepared: Preparation | None) -> ImageArray:
    kind = kind_of_file(path)
    name = path.name.lower()
    if name.endswith(".mat"):
        msg = (
            f"{path}: .mat files are read for training alone; load the images with "
            "scipy.io.loadmat, and save the images as .npy, numbered along the first axis."
        )
        raise DatasetError(msg)
    if kind == "other" and not name.endswith(TABLE_ENDINGS):
        return _read_picture(path, shape, prepared)[np.newaxis]
    if kind == "npy":
        images: NDArray[Any] = images_in(path)[:]
    elif name.endswith(TABLE_ENDINGS):
        _check_channels(path, shape, "tables")
        images = read_table_images(path, shape)
    else:
        images = _from_npz(path) if kind == "zip" else read_idx(path)
    try:
        return check_images(images, "images", shape)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise DatasetError(msg) from error


def _from_npz(path: Path) -> NDArray[Any]:
    with open_npz(path) as arrays:
        meant = {name: meaning(name) for name in arrays.names}
        for subset in ("test", ""):
            named = [name for name, said in meant.items() if said == ("x", subset, ())]
            known = [name for name in ("x_test", "images") if name in named] or named
            if len(known) == 1:
                return arrays.read(known[0])
        if len(arrays.names) != 1:
            msg = (
                f"{path}: must contain x_test, images, or one array only, "
                f"got {', '.join(arrays.names) or 'no array'}."
            )
            raise DatasetError(msg)
        return arrays.read(arrays.names[0])


def _read_picture(
    path: Path, shape: tuple[int, ...], prepared: Preparation | None
) -> NDArray[np.uint8]:
    channels = _check_channels(path, shape, "pictures")
    if prepared is None:
        rows, columns = shape[-2:]
        return read_picture(path, channels, (rows, columns)).reshape(shape)
    return prepared.read(path, shape)


def _check_channels(path: Path, shape: tuple[int, ...], what: str) -> int:
    """Count the channels; refuse a number for which ``what`` cannot be read."""
    channels = 1 if len(shape) == 2 else shape[0]
    if channels not in (1, 3):
        msg = (
            f"{path}: {what} can be read for 1 or 3 channels, and this network takes images of "
            f"shape {shape}; give an array."
        )
        raise DatasetError(msg)
    return channels
