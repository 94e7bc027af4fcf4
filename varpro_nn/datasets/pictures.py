"""Images without labels, to be classified: ``.npz``, IDX and PNG files, or a folder of PNGs.

PNG files are read with Pillow, imported where one is.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import ImageArray
from varpro_nn.datasets.folder import images_in
from varpro_nn.datasets.idx import read_idx
from varpro_nn.datasets.npz import open_npz
from varpro_nn.errors import DatasetError
from varpro_nn.images import check_images

_PNG_MAGIC = b"\x89PNG"
_NPY_MAGIC = b"\x93N"
_ZIP_MAGIC = b"PK"


def png_files(folder: Path) -> list[Path]:
    """PNG files of a folder in the order of their names, hidden ones left out.

    Raises
    ------
    DatasetError
        There is none.
    """
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() == ".png" and not file.name.startswith(".")
    )
    if not files:
        msg = f"{folder}: must contain PNG files, got a folder without any."
        raise DatasetError(msg)
    return files


def read_images(path: str | os.PathLike[str], image_shape: Sequence[int]) -> ImageArray:
    """Read images of a given shape.

    Parameters
    ----------
    path : str or path
        A ``.npz`` file (array ``x_test``, else ``images``, else its only array); an IDX file,
        gzipped or not; a ``.npy`` array; a PNG file; or a folder, whose PNG files are read in
        the order of their names. What a file is, its first bytes say, not its name.
    image_shape : sequence of int
        (rows, columns) or (channels, rows, columns). PNG files become gray for one channel and
        red, green, blue for three.

    Returns
    -------
    ndarray, shape (n, *image_shape)
        ``uint8``, or what the ``.npz`` file has. Images are never scaled to another size.

    Raises
    ------
    ValueError
        ``image_shape`` is not two or three positive numbers.
    DatasetError
        The file cannot be read, holds no images, or images of another shape; a PNG file with
        16 bits a channel or with transparent pixels.
    """
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        msg = f"image_shape must be (rows, columns) or (channels, rows, columns), got {shape}."
        raise ValueError(msg)
    where = Path(path).expanduser()
    try:
        if where.is_dir():
            return np.stack([_read_png(file, shape) for file in png_files(where)])
        with open(where, "rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        msg = f"{where}: cannot be read: {error.strerror or error}"
        raise DatasetError(msg) from error
    if magic == _PNG_MAGIC:
        return _read_png(where, shape)[np.newaxis]
    if magic[:2] == _NPY_MAGIC:
        images: NDArray[Any] = images_in(where)[:]
    else:
        images = _from_npz(where) if magic[:2] == _ZIP_MAGIC else read_idx(where)
    return _with_shape(where, images, shape)


def _from_npz(path: Path) -> NDArray[Any]:
    with open_npz(path) as arrays:
        for name in ("x_test", "images"):
            if name in arrays.names:
                return arrays.read(name)
        if len(arrays.names) != 1:
            msg = (
                f"{path}: must contain x_test, images, or one array only, "
                f"got {', '.join(arrays.names) or 'no array'}."
            )
            raise DatasetError(msg)
        return arrays.read(arrays.names[0])


def _with_shape(path: Path, images: NDArray[Any], shape: tuple[int, ...]) -> ImageArray:
    """Check images of a file; a single channel may or may not have its axis."""
    try:
        checked = check_images(images)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise DatasetError(msg) from error
    if _without_gray_axis(checked.shape[1:]) != _without_gray_axis(shape):
        raise DatasetError(_wrong_shape(path, checked.shape[1:], shape))
    return checked.reshape(-1, *shape)


def _without_gray_axis(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _wrong_shape(path: Path, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    return f"{path}: images must have shape {expected}, got {found}."


def _read_png(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    channels = 1 if len(shape) == 2 else shape[0]
    if channels not in (1, 3):
        msg = f"{path}: a PNG file can be read for 1 or 3 channels, got image shape {shape}."
        raise DatasetError(msg)
    from PIL import Image  # not at the top: imported where it is used

    damage = (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            # Before any pixel is decoded: the size that a file claims may be absurd.
            if (image.height, image.width) != shape[-2:]:
                found = (*shape[:-2], image.height, image.width)
                raise DatasetError(_wrong_shape(path, found, shape))
            if image.mode.startswith(("I", "F")):
                msg = f"{path}: must have 8 bits a channel, got 16 (Pillow mode {image.mode})."
                raise DatasetError(msg)
            # Pixels under full transparency have any colour: black, often, so all would be black.
            if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
                msg = f"{path}: must be opaque, got transparent pixels."
                raise DatasetError(msg)
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    except damage as error:
        msg = f"{path}: cannot be read as PNG: {error}"
        raise DatasetError(msg) from error
    return (pixels if channels == 1 else np.moveaxis(pixels, -1, 0)).reshape(shape)
