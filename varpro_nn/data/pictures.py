"""Picture files, read with Pillow: upright, opaque, 8 bits per channel.

Pillow is imported where one is read.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._io.regular_file import open_regular
from varpro_nn._warn import warn_user
from varpro_nn.data.cropping import crop, decode_smaller
from varpro_nn.errors import DatasetError

if TYPE_CHECKING:
    from PIL import Image

_MAX_PIXELS = 2**26
"""No picture is larger: 64 million pixels."""
_LEFT_OUT = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow knows but does not decode itself; for EPS it starts another program."""
_ORIENTATION = 0x0112
"""Tag of EXIF."""
_ON_ITS_SIDE = 5
"""From this orientation on, rows and columns are exchanged."""
_DEEP = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I;16N": 65535, "F": 1}
"""Modes of more than 8 bits, and the value of white."""
_GREY = {"1", "L", "LA", "La", "I", *_DEEP}
"""Modes of one channel."""
_DECODED_SMALLER = ("JPEG", "MPO")
_SCALED_TO_16_BITS = ("PNG", "PPM")
"""Formats whose 16-bit pictures have 32-bit numbers in Pillow."""


def entries_of(folder: Path) -> list[Path]:
    """Return what is in a folder, in the order of names, but for hidden files.

    Raises
    ------
    DatasetError
    """
    return list(_entries_of(folder))


def _entries_of(folder: Path) -> Iterator[Path]:
    """Give what is in a folder; a name takes less memory than a path, where there are many."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        msg = f"{folder}: cannot be read: {error.strerror or error}"
        raise DatasetError(msg) from error
    for name in names:
        yield folder / name


def files_below(
    folder: Path, home: Path | None = None, *, follow_links: bool
) -> Iterator[tuple[Path, bool]]:
    """Give each file below a folder, and whether it is a link that is not to be followed.

    Parameters
    ----------
    folder : Path
    home : Path, optional
        Links to files within it are read like files. By default ``folder``.
    follow_links : bool
        Follow all links, but for those to a folder that contains the link: that would not end.
    """
    home = (home or folder).resolve()
    if folder.is_symlink() and not follow_links:
        yield folder, True
        return
    for entry in _entries_of(folder):
        if entry.is_symlink() and not follow_links:
            target = entry.resolve()
            yield entry, target.is_dir() or not target.is_relative_to(home)
        elif entry.is_dir():
            if not entry.is_symlink() or not folder.resolve().is_relative_to(entry.resolve()):
                yield from files_below(entry, home, follow_links=follow_links)
        else:
            yield entry, False


def is_picture(path: Path) -> bool:
    """Whether a path is no folder, and its name ends like that of a picture."""
    return path.suffix.lower() in _endings() and not path.is_dir()


def picture_size(path: Path) -> tuple[int, int]:
    """Read the size of a picture, upright; no pixel is decoded.

    Returns
    -------
    rows, columns : int

    Raises
    ------
    DatasetError
        Pillow cannot read it.
    """
    with _opened(path) as image:
        return _turned(image, (image.height, image.width))


def read_picture(
    path: Path, channels: int, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Read a picture.

    Its EXIF orientation is applied. 16 bits are scaled to 8; with several channels, Pillow keeps
    the upper 8 bits. Transparent parts show a white background, or a black one if all opaque parts
    are light. If there are several frames or pages, the first is read. Colour profiles are not
    applied.

    Parameters
    ----------
    channels : {1, 3}
        Grey, or red, green and blue.
    size : (rows, columns), optional
        Size that the picture must have.

    Returns
    -------
    ndarray of uint8, shape (channels, rows, columns)

    Raises
    ------
    DatasetError
        Pillow cannot read it; another size; more than 2^26 pixels; pixels of 32 bits, or floating
        point outside 0 to 1.

    Warns
    -----
    UserWarning
        A TIFF file has more than one page.
    """
    image, _ = _read(path, channels, size)
    return _planes(image)


def read_cropped(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], bool]:
    """Read a picture of any size as an image: crop it in the middle and resize it.

    As :func:`read_picture`, but the picture is never an array. A JPEG picture more than four times
    as large as the image is decoded at a reduced size.

    Parameters
    ----------
    path : Path
    shape : (rows, columns), (1, rows, columns) or (3, rows, columns)
        Of the image.

    Returns
    -------
    image : ndarray of uint8, shape ``shape``
    differs : bool
        Whether the picture has another size than the image.

    Raises
    ------
    DatasetError
        As :func:`read_picture`.

    Warns
    -----
    UserWarning
        As :func:`read_picture`.
    """
    rows, columns = shape[-2:]
    image, size = _read(path, 1 if len(shape) == 2 else shape[0], room=(rows, columns))
    return _planes(crop(image, rows, columns)).reshape(shape), size != (rows, columns)


def pixels_of(image: "Image.Image", what: str) -> NDArray[np.uint8]:
    """Return the pixels of an open picture, grey or in colour, as :func:`read_picture` does.

    Parameters
    ----------
    what : str
        What messages call the picture.

    Returns
    -------
    ndarray of uint8, shape (1, rows, columns) or (3, rows, columns)

    Raises
    ------
    DatasetError
        Pixels of 32 bits, or floating point outside 0 to 1.
    """
    channels = 1 if image.mode in _GREY else 3
    return _planes(_channels_of(_opaque(_eight_bits(what, _upright(image))), channels))


def _read(
    path: Path,
    channels: int,
    size: tuple[int, int] | None = None,
    room: tuple[int, int] | None = None,
) -> "tuple[Image.Image, tuple[int, int]]":
    """Read a picture, grey or in colour, and its size; smaller where ``room`` allows it."""
    with _opened(path) as image:
        # Before any pixel is decoded: the size that a file claims may be absurd.
        claimed = image.height, image.width
        if claimed[0] * claimed[1] > _MAX_PIXELS:
            msg = (
                f"{path}: must have at most {_MAX_PIXELS} pixels, got {claimed[0]} x {claimed[1]}."
            )
            raise DatasetError(msg)
        if size is not None and sorted(claimed) != sorted(size):
            raise _wrong_size(path, size, claimed)
        if room is not None and image.format in _DECODED_SMALLER:
            decode_smaller(image, *_turned(image, room))
        # Frames of other formats are an animation, or previews of one picture.
        n_pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        upright = _upright(image)
        whole = _turned(image, claimed)
        if size is not None and whole != size:
            raise _wrong_size(path, size, whole)
        found = _channels_of(_opaque(_eight_bits(path, upright)), channels)
    if n_pages > 1:
        msg = f"{path}: read the first of {n_pages} pages; save the others as separate files."
        warn_user(msg)
    return found, whole


def _turned(image: "Image.Image", size: tuple[int, int]) -> tuple[int, int]:
    """Exchange rows and columns, where the file has a picture on its side."""
    return size[::-1] if _orientation(image) >= _ON_ITS_SIDE else size


def _wrong_size(path: Path, size: tuple[int, int], found: tuple[int, int]) -> DatasetError:
    return DatasetError(
        f"{path}: images must have shape {size}, got {found}. predict --prepare scales pictures of "
        "another size."
    )


def _channels_of(image: "Image.Image", channels: int) -> "Image.Image":
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _planes(image: "Image.Image") -> NDArray[np.uint8]:
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0).copy()


@contextmanager
def _opened(path: Path) -> "Iterator[Image.Image]":
    """Open a picture; what Pillow raises then becomes a DatasetError, for it may be anything."""
    from PIL import Image, UnidentifiedImageError

    try:
        # Pillow warns of damage to metadata and of sizes that are refused here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with (
                open_regular(path) as stream,
                Image.open(stream, formats=_formats()) as image,
            ):
                yield image
    except DatasetError:
        raise
    except UnidentifiedImageError as error:
        msg = (
            f"{path}: cannot be read as a picture: it is damaged, or of a format that Pillow "
            "does not know; expected a picture, or an .npz, .npy or IDX file."
        )
        raise DatasetError(msg) from error
    except Exception as error:
        msg = f"{path}: cannot be read as a picture: {_reason(error)}"
        raise DatasetError(msg) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.ID if name not in _LEFT_OUT)


@cache
def _endings() -> frozenset[str]:
    """Collect the endings of the names of pictures."""
    from PIL import Image

    known = set(_formats())
    return frozenset(e for e, name in Image.registered_extensions().items() if name in known)


def _orientation(image: "Image.Image") -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata may be damaged in any way, and the pixels sound
        return 1


def _upright(image: "Image.Image") -> "Image.Image":
    from PIL import ImageOps

    image.load()
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _eight_bits(path: Path | str, image: "Image.Image") -> "Image.Image":
    """Scale more than 8 bits a channel to 8; Pillow has such pictures of one channel alone."""
    from PIL import Image

    white = _DEEP.get(image.mode)
    if image.mode == "I" and image.format in _SCALED_TO_16_BITS:
        white = 65535
    if white is None:
        if image.mode != "I":
            return image
        msg = f"{path}: must have up to 16 bits per channel, got 32, where white is not defined."
        raise DatasetError(msg)
    pixels = np.asarray(image, dtype=np.float32)  # has 16 bits exactly
    if not (pixels.min() >= 0 and pixels.max() <= white):
        msg = f"{path}: must have pixels from 0 to {white}, got {pixels.min()} to {pixels.max()}."
        raise DatasetError(msg)
    scaled = Image.fromarray(np.round(pixels * (255 / white)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return scaled
    alpha = Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (scaled, alpha))


def _opaque(image: "Image.Image") -> "Image.Image":
    """Lay a picture on a ground, where it is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    # Pixels under full transparency have any colour: black, often, and so may the opaque ones.
    seen = image.convert("RGBA")
    alpha: Any = np.asarray(seen.getchannel("A"))
    if alpha.min() == 255:
        return image if image.mode == "P" else seen.convert("RGB")
    shown = np.asarray(seen.convert("RGB").convert("L"))[alpha >= 128]
    light = shown.size > 0 and shown.min() >= 128
    ground = Image.new("RGBA", seen.size, "black" if light else "white")
    return Image.alpha_composite(ground, seen).convert("RGB")
