"""Features of many units on many images: blocks of images, tiles of units, threads.

The one way in which the output layer and the finished network compute ``Phi``. A tile of units on
some images is one task for one thread with one thread of BLAS; the tasks do not depend on the
number of threads, so neither do the bits of the result.
"""

from concurrent.futures import Executor

import numpy as np

from varpro_nn._typing import ImageArray, RealArray
from varpro_nn.data.images import intensities
from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg import column_tiles, run_tiles
from varpro_nn.units import Units

BLOCK_BYTES = 2**24
"""Bytes of ``Phi`` that one block of images may take."""
TASK_IMAGES = 256
"""Images of one task."""


def block_slices(n: int, n_columns: int) -> list[slice]:
    """Cut ``n`` images into blocks whose single-precision ``Phi`` keeps to ``BLOCK_BYTES``."""
    size = max(256, BLOCK_BYTES // (4 * max(n_columns, 1)))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def check_finite(Phi: RealArray) -> None:
    """Refuse features that are NaN or infinite.

    Raises
    ------
    NonFiniteError
    """
    if not np.isfinite(Phi.sum(dtype=np.float64)):
        msg = "the features are NaN or infinite at these weights."
        raise NonFiniteError(msg)


def block_features(
    units: Units, W: RealArray, images: ImageArray, executor: Executor | None = None
) -> RealArray:
    """Features of all rows of ``W`` on one block of images, (b, h * m), in the type of ``W``."""
    X = intensities(images, W.dtype)  # once for all tiles
    h, m = len(W), units.n_cells
    Phi = np.empty((len(X), m, h), dtype=W.dtype)

    def one_task(task: tuple[slice, slice]) -> None:
        rows, tile = task
        Phi[rows, :, tile] = units.features(W[tile], X[rows]).reshape(len(X[rows]), m, -1)

    parts = [slice(start, start + TASK_IMAGES) for start in range(0, len(X), TASK_IMAGES)]
    run_tiles(executor, one_task, [(rows, tile) for rows in parts for tile in column_tiles(h)])
    return Phi.reshape(len(X), m * h)
