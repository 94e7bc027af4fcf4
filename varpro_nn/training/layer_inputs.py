"""Inputs of a layer in training: the images of a round, or their maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._io.atomic import errors_named
from varpro_nn._io.reserve import reserve
from varpro_nn._io.temporary import temporary_folder
from varpro_nn._typing import ImageArray
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.linalg.threads import Threads, in_order
from varpro_nn.units import Units, UnitsOnMaps

MAPS_BYTES = 2**32
"""Larger maps are in a temporary file, and read from it as they are needed."""
AT_A_TIME = 256
"""Images whose maps a thread makes at a time. It is a multiple of the images that
``Maps`` takes, so no bit of a map depends on where it is kept."""


def maps_bytes(units: Units, n: int) -> int:
    """Count the bytes of the maps of ``n`` images that units on maps take; 0 for other units."""
    return 4 * n * prod(units.below.shape) if isinstance(units, UnitsOnMaps) else 0


@contextmanager
def layer_inputs(
    units: Units,
    images: ImageArray,
    folder: Path | None = None,
    threads: Threads | None = None,
) -> Iterator[tuple[Units, Any]]:
    """Give the units of the last layer and their inputs. Each map is computed once.

    Parameters
    ----------
    units : Units
    images : ndarray, shape (n, ...)
    folder : Path, optional
        Where the file of large maps is, until the end of the ``with`` block. By default the
        temporary folder of the system, which may be in memory.
    threads : Threads, optional
        Share the images. No bit of a map depends on them.

    Yields
    ------
    units : Units
    inputs : ndarray or ImagesOnDisk, shape (n, ...)

    Raises
    ------
    OSError
        The disk is full; the error names the folder.
    """
    if not isinstance(units, UnitsOnMaps):
        yield units, images
        return
    n, n_bytes = len(images), maps_bytes(units, len(images))
    below = units.below

    def maps_of(start: int) -> Any:
        return below(images[start : start + AT_A_TIME])

    starts = range(0, n, AT_A_TIME)
    blocks = in_order(threads, maps_of, starts, maps_bytes(units, AT_A_TIME))
    if n_bytes <= MAPS_BYTES:
        maps = np.empty((n, *below.shape), np.float32)
        for start, block in zip(starts, blocks, strict=True):
            maps[start : start + AT_A_TIME] = block
        yield units.top, maps
        return
    with temporary_folder(folder) as own:
        path = own / "maps.bin"
        with errors_named(path.parent), path.open("wb") as file:
            reserve(file, n_bytes)
            file.seek(0)
            for block in blocks:
                file.write(block.tobytes())
        single = np.dtype(np.float32)
        yield units.top, ImagesOnDisk(path, 0, (n, *below.shape), single, single)
