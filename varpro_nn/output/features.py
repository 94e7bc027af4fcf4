"""Features of many units on many images: blocks of images, tiles of units, threads.

The one way in which the output layer and the finished network compute ``Phi``. A task, for one
thread with one thread of BLAS, is one or all tiles of units on some images. The products of a tile
do not depend on the number of threads, so neither do the bits of the result.
"""

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

import numpy as np

from varpro_nn._typing import ImageArray, RealArray
from varpro_nn.data.images import intensities
from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg import column_tiles, run_tiles
from varpro_nn.linalg.threads import Threads
from varpro_nn.units import Units
from varpro_nn.units.contract import check_features
from varpro_nn.units.maps import folded, last_layer_and_below, n_columns

BLOCK_BYTES = 2**24
"""Bytes of ``Phi`` that one block of images may take."""
TASK_IMAGES = 256
"""Images of one task."""
SPAN_BYTES = 2**26
"""Bytes of intensities that exist at a time; but at least those of one task."""


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
    """Compute the features of all rows of ``W`` on some images, as one block (b, q).

    They have the type of ``W``. Columns are ordered by cell, then by unit. Those of layers below
    (``cells_below``) come last. Threads share the work.

    Raises
    ------
    NonFiniteError
        Features are NaN or infinite.
    TypeError, ValueError
        Features break the contract of units.
    """
    return _features(*folded(units, W), images, slice(None), _same, threads)


def images_at_a_time(image_shape: tuple[int, ...]) -> int:
    """Count the images whose intensities exist at a time while the features of a block are made.

    Parameters
    ----------
    image_shape : tuple of int
    """
    return max(1, SPAN_BYTES // (4 * prod(image_shape) * TASK_IMAGES)) * TASK_IMAGES


def _features(
    units: Units,
    W: RealArray,
    images: ImageArray,
    rows: Any,
    view: Callable[[Any], Any],
    threads: Threads | None,
) -> RealArray:
    """Compute the features of a block; images on disk are read a part of it at a time."""
    at = range(len(images))[rows] if isinstance(rows, slice) else rows
    n, h, m = len(at), len(W), units.n_cells
    columns = np.empty((n, n_columns(units, h)), dtype=W.dtype)
    Phi, below = columns[:, : m * h].reshape(n, m, h), columns[:, m * h :]
    tiles, n_threads = column_tiles(h), 1 if threads is None else threads.n_threads
    size = images_at_a_time(images.shape[1:])
    for first in range(0, n, size):
        end = min(first + size, n)
        part = at[first:end]
        chosen: Any = slice(part.start, part.stop) if isinstance(part, range) else part
        X = intensities(view(images[chosen]), W.dtype)  # once for all tiles

        def one_task(task: tuple[int, list[slice]], X: RealArray = X, first: int = first) -> None:
            start, tiles = task
            some = X[start - first : start - first + TASK_IMAGES]
            there = slice(start, start + len(some))
            # Tasks for other tiles of the same images write the same columns.
            top, inputs, below[there] = last_layer_and_below(units, some, W.dtype)
            for tile in tiles:
                found = top.features(W[tile], inputs)
                check_features(units, found, len(some), len(W[tile]))
                Phi[there, :, tile] = found.reshape(len(some), m, -1)

        starts = range(first, end, TASK_IMAGES)
        # With images for all threads, a task has all units: maps are then computed once.
        groups = [tiles] if len(starts) >= n_threads else [[tile] for tile in tiles]
        run_tiles(threads, one_task, [(start, some) for start in starts for some in groups])
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
    Phi : ndarray, shape (b, q)
        The caller may overwrite it.
    """
    if blocks is None:
        blocks = block_slices(len(images), n_columns(units, len(W)))
    units, W = folded(units, W)
    for rows in blocks:
        yield rows, _features(units, W, images, rows, view, threads)
