"""Features of all images, in memory or in a file, for fits that pass over them often."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from varpro_nn._io.atomic import errors_named
from varpro_nn._io.mapped import release_rows
from varpro_nn._io.reserve import reserve
from varpro_nn._typing import FloatArray, ImageArray, IndexArray, RealArray
from varpro_nn.compute.compute import Compute
from varpro_nn.linalg import spread
from varpro_nn.linalg.threads import Threads
from varpro_nn.output.features import block_slices, feature_blocks
from varpro_nn.units import Units

FEATURE_BYTES = 2**30
"""Larger features go to a temporary file, of which the system keeps in memory what fits.

The process itself has a few blocks of rows in memory: see ``release_rows``.
"""


@contextmanager
def feature_store(n: int, q: int, folder: Path | None = None) -> Iterator[RealArray]:
    """Make an array (n, q) in memory, or in a temporary file that is removed after the block.

    Parameters
    ----------
    folder : Path, optional
        Where the file is. By default among the temporary files, which may themselves be in memory.

    Raises
    ------
    OSError
        The disk is full; the error names the folder.
    """
    n_bytes = 4 * n * q
    if n_bytes <= FEATURE_BYTES:
        yield np.empty((n, q), dtype=np.float32)
        return
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    with tempfile.TemporaryFile(dir=folder) as file:
        with errors_named(folder):
            reserve(file, n_bytes)
        yield np.memmap(file, dtype=np.float32, mode="r+", shape=(n, q))


def fill_features(
    Phi: RealArray,
    units: Units,
    W: RealArray,
    images: ImageArray,
    order: IndexArray,
    threads: Threads | None,
    compute: Compute,
) -> None:
    """Compute the features of ``images[order]``."""
    places = block_slices(len(order), Phi.shape[1])
    blocks = feature_blocks(units, W, images, threads, blocks=[order[rows] for rows in places])
    with compute.bar("features", total=len(places)) as bar:
        for rows, (_, block) in zip(places, blocks, strict=True):
            Phi[rows] = block
            release_rows(Phi, rows)
            bar.update()


def standardise_columns(Phi: RealArray, *, scale: bool) -> tuple[FloatArray, FloatArray]:
    """Bring columns to mean 0 and, with ``scale``, variance 1, in place; return both."""
    n, q = Phi.shape
    blocks = block_slices(n, q)
    shift = Phi[: blocks[0].stop].mean(axis=0, dtype=np.float64)
    total, squares = np.zeros(q), np.zeros(q)
    for rows in blocks:
        shifted = Phi[rows] - shift.astype(Phi.dtype)
        total += shifted.sum(axis=0, dtype=np.float64)
        squares += np.einsum("ij,ij->j", shifted, shifted, dtype=np.float64)
        release_rows(Phi, rows)
    mean = total / n
    deviation = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
    mean += shift
    # A column that is constant up to rounding is not scaled.
    deviation = spread(deviation, mean) if scale else np.ones(q)
    factor = (1 / deviation).astype(Phi.dtype)
    for rows in blocks:
        Phi[rows] -= mean.astype(Phi.dtype)
        Phi[rows] *= factor
        release_rows(Phi, rows)
    return mean, deviation


def restored(
    Phi: RealArray, mean: FloatArray, deviation: FloatArray, order: IndexArray, dtype: DTypeLike
) -> RealArray:
    """Undo :func:`standardise_columns`, and put the rows back into the order of the images."""
    columns = np.empty(Phi.shape, dtype)
    for rows in block_slices(*Phi.shape):
        columns[order[rows]] = Phi[rows] * deviation + mean
        release_rows(Phi, rows)
    return columns
