"""Images without labels, to be classified: ``.npz``, ``.npy``, IDX and picture files, or a folder.

Pictures (PNG, JPEG, PGM, PPM, BMP) are read with Pillow, imported where one is.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import ImageArray
from varpro_nn.data.folder import images_in
from varpro_nn.data.idx import read_idx
from varpro_nn.data.images import check_images
from varpro_nn.data.npz import open_npz
from varpro_nn.data.preparation import Preparation
from varpro_nn.errors import DatasetError

_MAGIC_OF_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"P5", b"P6", b"BM")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".bmp")
_FORMATS = ("PNG", "JPEG", "PPM", "BMP")
_MAX_PIXELS = 2**26
"""No picture is larger: 64 million pixels."""
_NPY_MAGIC = b"\x93N"
_ZIP_MAGIC = b"PK"


def picture_files(folder: Path) -> list[Path]:
    """Pictures of a folder in the order of their names, hidden ones left out.

    Raises
    ------
    DatasetError
        There is none.
    """
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        msg = f"{folder}: must contain PNG or other pictures, got a folder without any."
        raise DatasetError(msg)
    return files


def read_images(
    path: str | os.PathLike[str],
    image_shape: Sequence[int],
    *,
    prepared: Preparation | None = None,
) -> ImageArray:
    """Read images of a given shape.

    Parameters
    ----------
    path : str or path
        A ``.npz`` file (array ``x_test``, else ``images``, else its only array); an IDX file,
        gzipped or not; a ``.npy`` array; a PNG, JPEG, PGM, PPM or BMP file; or a folder, whose
        pictures are read in the order of their names. What a file is, its first bytes say, not
        its name.
    image_shape : sequence of int
        (rows, columns) or (channels, rows, columns). Pictures become gray for one channel and
        red, green, blue for three.
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
        The file cannot be read, holds no images, or images of another shape; a picture with
        16 bits a channel, with transparent pixels, or of absurd size.
    """
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        msg = f"image_shape must be (rows, columns) or (channels, rows, columns), got {shape}."
        raise ValueError(msg)
    where = Path(path).expanduser()
    try:
        if not where.exists():
            msg = f"{where}: there is no such file or folder; check the path."
            raise DatasetError(msg)
        if where.is_dir():
            return np.stack([_read_picture(f, shape, prepared) for f in picture_files(where)])
        with open(where, "rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        msg = f"{where}: cannot be read: {error.strerror or error}"
        raise DatasetError(msg) from error
    if magic.startswith(_MAGIC_OF_PICTURES):
        return _read_picture(where, shape, prepared)[np.newaxis]
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


def _read_picture(
    path: Path, shape: tuple[int, ...], prepared: Preparation | None
) -> NDArray[np.uint8]:
    channels = 1 if len(shape) == 2 else shape[0]
    if channels not in (1, 3):
        msg = f"{path}: a picture can be read for 1 or 3 channels, got image shape {shape}."
        raise DatasetError(msg)
    from PIL import Image  # not at the top: imported where it is used

    damage = (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            # Before any pixel is decoded: the size that a file claims may be absurd.
            size = image.height, image.width
            if prepared is None and size != shape[-2:]:
                wrong = _wrong_shape(path, (*shape[:-2], *size), shape)
                msg = f"{wrong} predict --prepare scales pictures of another size."
                raise DatasetError(msg)
            if image.height * image.width > _MAX_PIXELS:
                msg = f"{path}: must have {_MAX_PIXELS} pixels at most, got {size}."
                raise DatasetError(msg)
            if image.mode.startswith(("I", "F")):
                msg = f"{path}: must have 8 bits a channel, got 16 (Pillow mode {image.mode})."
                raise DatasetError(msg)
            # Pixels under full transparency have any colour: black, often, so all would be black.
            if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
                msg = f"{path}: must be opaque, got transparent pixels."
                raise DatasetError(msg)
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    except damage as error:
        msg = f"{path}: cannot be read as a picture: {error}"
        raise DatasetError(msg) from error
    planes = pixels if channels == 1 else np.moveaxis(pixels, -1, 0)
    if prepared is None:
        return planes.reshape(shape)
    of_planes = shape[-2:] if channels == 1 else shape
    return prepared.picture(planes, of_planes).reshape(shape)
