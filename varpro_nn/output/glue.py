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
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray, ImageArray, LabelArray, RealArray, TargetArray
from varpro_nn.compute.published import DataReference
from varpro_nn.data.images import check_targets, targets_of
from varpro_nn.linalg import DualPath, KernelAccumulator, RidgePath, spread
from varpro_nn.linalg.ridge import LeaveOneOut
from varpro_nn.output.accumulation import accumulate
from varpro_nn.output.features import block_features, block_slices, check_finite, workers
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
    images: ImageArray,
    labels: TargetArray,
    n_classes: int,
    *,
    ridge: float | Sequence[float] = RIDGES,
    standardise: bool = False,
    n_jobs: int = 1,
    executor: Executor | None = None,
    data: DataReference | None = None,
    sample_weight: FloatArray | None = None,
    progress: bool = False,
) -> GlueReport:
    """Fit the linear weights of all units on all images.

    Parameters
    ----------
    units : Units
    W : ndarray, shape (h, p)
        Weights of all units; the features are computed in its type.
    images : ndarray, shape (n, ...)
    labels : ndarray of int, shape (n,); or of float, shape (n, k)
        Class numbers 0 to n_classes - 1, or real targets.
    n_classes : int
        Or number of targets.
    ridge : float or sequence of float
        ``lam``, or the grid to choose it from by the leave-one-out error rate, the squared
        error breaking ties (of real targets by that alone).
    standardise : bool
        Let the ridge act on columns scaled to variance 1.
    n_jobs : int
        Threads, -1 for all cores. The result is bitwise the same for any number.
    executor : concurrent.futures.Executor, optional
        Workers that compute the sums instead of threads; the same bits.
    data : NamedImages or StoredImages, optional
        Where those workers find ``images`` and ``labels``; needed with ``executor``.
    sample_weight : ndarray of float, shape (n,), optional
        Weights of the images in the sum of squares.
    progress : bool
        Show a bar on standard error (never off a terminal).

    Returns
    -------
    GlueReport

    Raises
    ------
    TrainingError
        If the workers of some sums were killed each time.
    ValueError
        If a ridge is negative or not finite, or labels do not fit the images or the classes.
    """
    targets: Any = check_targets(labels, len(images), n_classes)
    ridges = _check_ridges(ridge)
    from tqdm import tqdm  # not at the top: imported where it is used

    n_columns = len(W) * units.n_cells
    slices = block_slices(len(images), n_columns)
    # disable=None: silent where standard error is not a terminal.
    bar = tqdm(desc="glue", unit="part", disable=None if progress else True)
    with bar, workers(n_jobs) as threads:

        def blocks() -> Iterator[tuple[RealArray, FloatArray, FloatArray | None]]:
            for rows in slices:
                yield (
                    block_features(units, W, images[rows], threads),
                    targets_of(targets[rows], n_classes),
                    None if sample_weight is None else sample_weight[rows],
                )
                bar.update()

        sums = accumulate(
            units, W, images, targets, n_classes, sample_weight=sample_weight,
            threads=threads, executor=executor, data=data, tick=bar.update,
        )  # fmt: skip
        path = sums.path(standardise=standardise, keep=False)
        del sums
        n_kept = min(MOST_LEFT_OUT, max(1, LEFT_OUT_BYTES // (4 * len(ridges) * n_classes)))
        every = -(-len(images) // n_kept)
        errors = path.leave_one_out(blocks(), ridges, threads, every=every)
    for value, mse, error in zip(ridges, errors.mean_squared_error, errors.error_rate, strict=True):
        _logger.info("glue, ridge %.3g: left-out squared error %.5g, rate %.5f", value, mse, error)
    best = _best(errors, targets)
    of_unit = np.tile(np.arange(len(W)), units.n_cells)
    # Of fewer images than columns any so many columns make up for the rest.
    redundant = path.redundant_groups(of_unit) if len(images) > n_columns else []
    return _report(path.solve(ridges[best]), path, ridges, errors, best, redundant)


def dual_glue(
    units: Units,
    W: RealArray,
    images: ImageArray,
    labels: TargetArray,
    n_classes: int,
    *,
    ridge: float | Sequence[float] = RIDGES,
    standardise: bool = False,
    n_jobs: int = 1,
    progress: bool = False,
) -> GlueReport:
    """Fit the same linear weights as :func:`glue` by the dual form.

    Parameters, errors and result are those of :func:`glue`; memory is that of two matrices of
    images by images (:data:`varpro_nn.linalg.dual.MEMORY_BUDGET`).
    """
    targets: Any = check_targets(labels, len(images), n_classes)
    ridges = _check_ridges(ridge)
    from tqdm import tqdm  # not at the top: imported where it is used

    images = images[:]  # fewer than columns: if they are on disk, memory holds them
    h, m = len(W), units.n_cells
    size = max(1, DUAL_BLOCK_BYTES // (4 * m * len(images)))
    tiles = [slice(start, min(start + size, h)) for start in range(0, h, size)]
    deviations = np.ones((m, h))
    # disable=None: silent where standard error is not a terminal.
    bar = tqdm(total=2 * len(tiles), desc="glue", unit="block", disable=None if progress else True)
    with bar, workers(n_jobs) as executor:

        def blocks() -> Iterator[RealArray]:
            for tile in tiles:
                Phi = block_features(units, W[tile], images, executor)
                check_finite(Phi)
                if standardise:
                    deviation = spread(
                        Phi.std(axis=0, dtype=np.float64), Phi.mean(axis=0, dtype=np.float64)
                    )
                    deviations[:, tile] = deviation.reshape(m, -1)
                    Phi /= deviation.astype(Phi.dtype)
                yield Phi
                bar.update()

        kernel = KernelAccumulator(len(images), executor)
        for Phi in blocks():
            kernel.add(Phi)
        path = kernel.path(targets_of(targets, n_classes))
        errors = path.leave_one_out(ridges, executor)
        best = _best(errors, targets)
        by_blocks = path.weights(blocks(), float(ridges[best]), executor)
    A = np.empty((m * h + 1, n_classes))
    A[-1] = by_blocks[-1]
    by_unit = A[:-1].reshape(m, h, n_classes)
    for tile in tiles:
        part = by_blocks[m * tile.start : m * tile.stop].reshape(m, -1, n_classes)
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


def _best(errors: LeaveOneOut, targets: TargetArray) -> int:
    """Position of the best ridge: by the error rate, the squared error breaking ties."""
    rates = errors.error_rate if targets.ndim == 1 else np.zeros_like(errors.mean_squared_error)
    return int(np.lexsort((errors.mean_squared_error, rates))[0])


def _check_ridges(ridge: float | Sequence[float]) -> FloatArray:
    ridges = np.atleast_1d(np.asarray(ridge, dtype=np.float64))
    if ridges.size == 0 or not np.isfinite(ridges).all() or ridges.min() < 0:
        msg = f"ridge must be finite and not negative, got {ridge}."
        raise ValueError(msg)
    return ridges
