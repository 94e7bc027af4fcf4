"""Sums of the normal equations over many images: in threads here, or as tasks of an executor.

Images are cut into the same parts whatever computes them, and the sums of the parts are added in
their order, so the result is bitwise the same for any number of threads or workers.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from itertools import pairwise

import numpy as np

from varpro_nn._typing import ImageArray, RealArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import TrainingError, WorkerDiedError
from varpro_nn.linalg import GramAccumulator
from varpro_nn.linalg.threads import single_threaded_blas
from varpro_nn.output.features import block_features, block_slices, check_finite
from varpro_nn.units import Units

PARTS = 16
"""Parts that the images are cut into, at most."""
_FOR_SHIFT = 256


def _shift_of(units: Units, W: RealArray, images: ImageArray) -> RealArray:
    """About the mean of the columns: that of the first images, (h * m,) in the type of ``W``."""
    Phi = block_features(units, W, images[:_FOR_SHIFT])
    check_finite(Phi)
    return Phi.mean(axis=0, dtype=np.float64).astype(W.dtype)


def accumulate(
    units: Units,
    W: RealArray,
    training: TrainingSet,
    *,
    threads: Executor | None = None,
    compute: Compute | None = None,
    shift: RealArray | None = None,
    tick: Callable[[], object] = lambda: None,
) -> GramAccumulator:
    """Sum over all images, part by part.

    Parameters
    ----------
    units : Units
    W : ndarray, shape (h, p)
    training : TrainingSet
    threads : Executor, optional
        Threads of this process that share the work.
    compute : Compute, optional
        Its cluster, if it has one, computes the parts instead.
    shift : ndarray, shape (h * m,), optional
        See :class:`varpro_nn.linalg.GramAccumulator`; by default the mean of the first images.
    tick : callable, optional
        Called after each part.

    Returns
    -------
    GramAccumulator
        Its threads are ``threads``.

    Raises
    ------
    NonFiniteError
        Features are NaN or infinite.
    TrainingError
        The workers of a part were killed each time.
    """
    shift = _shift_of(units, W, training.images) if shift is None else shift
    total = GramAccumulator(len(shift), training.n_targets, threads, shift=shift)
    blocks = block_slices(len(training), len(shift))
    bounds = np.linspace(0, len(blocks), min(PARTS, len(blocks)) + 1).astype(int)
    parts = [blocks[start:stop] for start, stop in pairwise(bounds)]
    if compute is None or not compute.on_cluster:
        for part in parts:
            total.merge(_sums(training, units, W, shift, part, threads))
            tick()
        return total
    tasks = [(units, W, shift, part) for part in parts]
    try:
        for sums in compute.map_in_order(_sums_of_part, training, tasks):
            total.merge(sums)
            tick()
    except WorkerDiedError as error:
        msg = f"could not sum up the output layer: {error}"
        raise TrainingError(msg) from error
    return total


def _sums_of_part(
    training: TrainingSet, units: Units, W: RealArray, shift: RealArray, part: list[slice]
) -> GramAccumulator:
    """Do the task of a worker."""
    with single_threaded_blas():
        return _sums(training, units, W, shift, part, None)


def _sums(
    training: TrainingSet,
    units: Units,
    W: RealArray,
    shift: RealArray,
    part: list[slice],
    threads: Executor | None,
) -> GramAccumulator:
    sums = GramAccumulator(len(shift), training.n_targets, threads, shift=shift)
    for rows in part:
        Phi = block_features(units, W, training.images[rows], threads)
        check_finite(Phi)
        sums.add(Phi, training.tau(rows), training.weights_at(rows))
    return sums
