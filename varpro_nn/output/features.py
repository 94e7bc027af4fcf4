"""Features of many units on many images: blocks of images, tiles of units, threads.

The one way in which the output layer and the finished network compute ``Phi``. A tile of units on
some images is one task for one thread with one thread of BLAS; the tasks do not depend on the
number of threads, so neither do the bits of the result.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from varpro_nn._typing import ImageArray, RealArray
from varpro_nn.data.images import intensities
from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg import column_tiles, run_tiles
from varpro_nn.linalg.threads import Threads
from varpro_nn.units import Units
from varpro_nn.units.contract import check_features

BLOCK_BYTES = 2**24
"""Bytes of ``Phi`` that one block of images may take."""
TASK_IMAGES = 256
"""Images of one task."""


def _same(images: Any) -> Any:
    return images


def _mirrored(images: Any) -> Any:
    return images[..., ::-1]


VIEWS: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "single": (_same,),
    "flip": (_same, _mirrored),
}
"""Test-time augmentation: the outputs of an image are averaged over these versions of it."""


def block_slices(n: int, n_columns: int) -> list[slice]:
    """Cut ``n`` images into blocks whose single-precision ``Phi`` keeps to ``BLOCK_BYTES``."""
    size = max(256, BLOCK_BYTES // (4 * max(n_columns, 1)))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def check_finite(Phi: RealArray) -> None:
    """Raise NonFiniteError for features that are NaN or infinite."""
    if not np.isfinite(Phi.sum(dtype=np.float64)):
        msg = "the features are NaN or infinite at these weights."
        raise NonFiniteError(msg)


def block_features(
    units: Units, W: RealArray, images: ImageArray, threads: Threads | None = None
) -> RealArray:
    """Compute the features of all rows of ``W`` on some images, as one block (b, h * m).

    They have the type of ``W``. Columns are ordered by cell, then by unit. Threads share the work.

    Raises
    ------
    NonFiniteError
        Features are NaN or infinite.
    TypeError, ValueError
        Features break the contract of units.
    """
    X = intensities(images, W.dtype)  # once for all tiles
    h, m = len(W), units.n_cells
    Phi = np.empty((len(X), m, h), dtype=W.dtype)

    def one_task(task: tuple[slice, slice]) -> None:
        rows, tile = task
        some, these = X[rows], W[tile]
        part = units.features(these, some)
        check_features(units, part, len(some), len(these))
        Phi[rows, :, tile] = part.reshape(len(some), m, -1)

    of_tasks = [slice(start, start + TASK_IMAGES) for start in range(0, len(X), TASK_IMAGES)]
    run_tiles(threads, one_task, [(rows, tile) for rows in of_tasks for tile in column_tiles(h)])
    columns = Phi.reshape(len(X), m * h)
    check_finite(columns)
    return columns


def feature_blocks(
    units: Units,
    W: RealArray,
    images: ImageArray,
    threads: Threads | None = None,
    *,
    blocks: Iterable[Any] | None = None,
    view: Callable[[Any], Any] = _same,
) -> Iterator[tuple[Any, RealArray]]:
    """Compute the features of many images, block by block, as :func:`block_features`.

    Parameters
    ----------
    blocks : iterable of slice or array of int, optional
        Positions of the images of each block. By default all images, :func:`block_slices`.
    view : callable, optional
        Turns a block of images into the images to use: mirror images, for example.

    Yields
    ------
    rows : slice or array of int
        Positions of the images of the block.
    Phi : ndarray, shape (b, h * m)
        The caller may overwrite it.
    """
    if blocks is None:
        blocks = block_slices(len(images), len(W) * units.n_cells)
    for rows in blocks:
        yield rows, block_features(units, W, view(images[rows]), threads)
