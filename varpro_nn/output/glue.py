"""The glue: one ridge solve over all training images joins the sub-networks.

*primal* (:func:`glue`): sums over blocks of images, a matrix of columns by columns; *dual*
(:func:`dual_glue`): sums over blocks of units, a matrix of images by images, for more columns
than images. In neither does the matrix of all features exist.

Only unit weights come from the sub-networks. The linear weights of the whole network are fitted
anew on all images: the sums of the normal equations are accumulated over blocks of images, one
eigendecomposition solves for every ridge of a grid, and a second pass over the images gives the
exact leave-one-out error of each, by which the ridge is chosen. No label of another set is
involved.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from varpro_nn._typing import FloatArray, LabelArray, RealArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.linalg import DualPath, KernelAccumulator, RidgePath, spread
from varpro_nn.linalg.ridge import LeaveOneOut
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.output.accumulation import accumulate
from varpro_nn.output.features import block_features, block_slices, check_finite
from varpro_nn.units import Units

RIDGES = tuple(float(10.0**e) for e in np.arange(-2.0, 5.01, 0.5))
"""The grid of ridges that the leave-one-out error chooses from."""
DUAL_BLOCK_BYTES = 2**26
"""Bytes of the columns that the dual form takes at a time."""


MOST_LEFT_OUT = 20_000
"""Images whose left-out outputs are kept at most, evenly spread over all."""
LEFT_OUT_BYTES = 2**27
"""Bytes that these outputs may take for all ridges together."""


_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """Outputs of linear layers that never saw the image (the units may have seen it).

    Attributes
    ----------
    rows : ndarray of int, shape (r,)
        Positions of the images.
    outputs : ndarray of float, shape (r, k)
        NaN for an image whose output without it is not determined.
    """

    rows: LabelArray
    outputs: RealArray


@dataclass(frozen=True, slots=True, eq=False)
class GlueReport:
    """What the glue found.

    Attributes
    ----------
    A : ndarray, shape (h * m + 1, k)
        Linear weights; the row of the constant column is last.
    ridge : float
        ``lam``, chosen or given.
    ridges, loo_mse, loo_error : tuple of float
        The trace: mean squared leave-one-out residual and leave-one-out error rate along the
        grid (exact, of the linear fit for the given units).
    degrees_of_freedom : float
        Trace of the hat matrix at ``ridge``.
    rank : int
        Directions of the columns that are above rounding: of h * m (dual form: n) at most.
    redundant_units : tuple of int
        Units that the others make up for: all of these could go without loss. Of units that are
        alike the last ones. (Not looked for
        unless there are more images than columns.)
    left_out : LeftOut or None
        Outputs at ``ridge`` of fits that never saw the image, of :data:`MOST_LEFT_OUT` images at
        most.
    """

    A: FloatArray
    ridge: float
    ridges: tuple[float, ...]
    loo_mse: tuple[float, ...]
    loo_error: tuple[float, ...]
    degrees_of_freedom: float
    rank: int
    redundant_units: tuple[int, ...]
    left_out: LeftOut | None = None


def glue(
    units: Units,
    W: RealArray,
    training: TrainingSet,
    compute: Compute,
    *,
    ridge: float | Sequence[float] = RIDGES,
    standardise: bool = False,
) -> GlueReport:
    """Fit the linear weights of all units on all images.

    Parameters
    ----------
    units : Units
    W : ndarray, shape (h, p)
        Weights of all units; the features are computed in its type.
    training : TrainingSet
    compute : Compute
        Its threads, or the workers of its cluster, share the sums; the same bits for any number.
    ridge : float or sequence of float
        ``lam``, or the grid to choose it from by the leave-one-out error rate, the squared
        error breaking ties (of real targets by that alone).
    standardise : bool
        Let the ridge act on columns scaled to variance 1.

    Returns
    -------
    GlueReport

    Raises
    ------
    TrainingError
        If the workers of some sums were killed each time.
    ValueError
        If a ridge is negative or not finite.
    """
    ridges = _check_ridges(ridge)
    n, n_columns = len(training), len(W) * units.n_cells
    slices = block_slices(n, n_columns)
    with compute.bar(desc="glue", unit="part") as bar, thread_pool(compute.n_jobs) as threads:

        def blocks() -> Iterator[tuple[RealArray, FloatArray, FloatArray | None]]:
            for rows in slices:
                Phi = block_features(units, W, training.images[rows], threads)
                yield Phi, training.tau(rows), training.weights_at(rows)
                bar.update()

        sums = accumulate(units, W, training, threads=threads, compute=compute, tick=bar.update)
        path = sums.path(standardise=standardise, keep=False)
        del sums
        n_kept = min(
            MOST_LEFT_OUT, max(1, LEFT_OUT_BYTES // (4 * len(ridges) * training.n_targets))
        )
        every = -(-n // n_kept)
        errors = path.leave_one_out(blocks(), ridges, threads, every=every)
    for value, mse, error in zip(ridges, errors.mean_squared_error, errors.error_rate, strict=True):
        _logger.info("glue, ridge %.3g: left-out squared error %.5g, rate %.5f", value, mse, error)
    best = _best(errors, training)
    of_unit = np.tile(np.arange(len(W)), units.n_cells)
    # Of fewer images than columns any so many columns make up for the rest.
    redundant = path.redundant_groups(of_unit) if n > n_columns else []
    return _report(path.solve(ridges[best]), path, ridges, errors, best, redundant)


def dual_glue(
    units: Units,
    W: RealArray,
    training: TrainingSet,
    compute: Compute,
    *,
    ridge: float | Sequence[float] = RIDGES,
    standardise: bool = False,
) -> GlueReport:
    """Fit the same linear weights as :func:`glue` by the dual form.

    Parameters, errors and result are those of :func:`glue`; memory is that of two matrices of
    images by images (:data:`varpro_nn.linalg.dual.MEMORY_BUDGET`).
    """
    ridges = _check_ridges(ridge)
    images = training.images[:]  # fewer than columns: if they are on disk, memory holds them
    h, m = len(W), units.n_cells
    size = max(1, DUAL_BLOCK_BYTES // (4 * m * len(images)))
    tiles = [slice(start, min(start + size, h)) for start in range(0, h, size)]
    deviations = np.ones((m, h))
    bar = compute.bar(total=2 * len(tiles), desc="glue", unit="block")
    with bar, thread_pool(compute.n_jobs) as threads:

        def blocks() -> Iterator[RealArray]:
            for tile in tiles:
                Phi = block_features(units, W[tile], images, threads)
                check_finite(Phi)
                if standardise:
                    deviation = spread(
                        Phi.std(axis=0, dtype=np.float64), Phi.mean(axis=0, dtype=np.float64)
                    )
                    deviations[:, tile] = deviation.reshape(m, -1)
                    Phi /= deviation.astype(Phi.dtype)
                yield Phi
                bar.update()

        kernel = KernelAccumulator(len(images), threads)
        for Phi in blocks():
            kernel.add(Phi)
        path = kernel.path(training.tau())
        errors = path.leave_one_out(ridges, threads)
        best = _best(errors, training)
        by_blocks = path.weights(blocks(), float(ridges[best]), threads)
    A = np.empty((m * h + 1, training.n_targets))
    A[-1] = by_blocks[-1]
    by_unit = A[:-1].reshape(m, h, -1)
    for tile in tiles:
        part = by_blocks[m * tile.start : m * tile.stop].reshape(m, tile.stop - tile.start, -1)
        by_unit[:, tile] = part / deviations[:, tile, None]
    return _report(A, path, ridges, errors, best)


def _report(
    A: FloatArray,
    path: RidgePath | DualPath,
    ridges: FloatArray,
    errors: LeaveOneOut,
    best: int,
    redundant_units: Sequence[int] = (),
) -> GlueReport:
    return GlueReport(
        A=A,
        ridge=float(ridges[best]),
        ridges=tuple(ridges.tolist()),
        loo_mse=tuple(errors.mean_squared_error.tolist()),
        loo_error=tuple(errors.error_rate.tolist()),
        left_out=None if errors.outputs is None else LeftOut(errors.rows, errors.outputs[:, best]),
        degrees_of_freedom=path.degrees_of_freedom(float(ridges[best])),
        rank=path.rank,
        redundant_units=tuple(redundant_units),
    )


def _best(errors: LeaveOneOut, training: TrainingSet) -> int:
    """Position of the best ridge: by the error rate, the squared error breaking ties."""
    rates = errors.error_rate
    if not training.is_classified:
        rates = np.zeros_like(errors.mean_squared_error)
    return int(np.lexsort((errors.mean_squared_error, rates))[0])


def _check_ridges(ridge: float | Sequence[float]) -> FloatArray:
    ridges = np.atleast_1d(np.asarray(ridge, dtype=np.float64))
    if ridges.size == 0 or not np.isfinite(ridges).all() or ridges.min() < 0:
        msg = f"ridge must be finite and not negative, got {ridge}."
        raise ValueError(msg)
    return ridges
