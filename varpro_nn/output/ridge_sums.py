"""Sums of the normal equations over many images: in threads here, or as tasks of a cluster.

Images are cut into the same parts whatever computes them, and the sums of the parts are added in
their order, so the result is bitwise the same for any number of threads or workers.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from varpro_nn._typing import RealArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import TrainingError, WorkerDiedError
from varpro_nn.linalg import GramAccumulator
from varpro_nn.linalg.blas_limit import single_threaded_blas
from varpro_nn.linalg.threads import Threads, thread_pool
from varpro_nn.output.features import block_features, block_slices, feature_blocks
from varpro_nn.units import Units

PARTS = 16
"""Parts that the images are cut into, at most."""
_FOR_SHIFT = 256


def ridge_sums(
    units: Units,
    W: RealArray,
    training: TrainingSet,
    compute: Compute,
    *,
    shift: RealArray | None = None,
    tick: Callable[[], object] = lambda: None,
) -> GramAccumulator:
    """Sum the normal equations of a ridge layer over all images.

    Parameters
    ----------
    compute : Compute
        Its threads share the work; its cluster, if it has one, computes the parts instead.
    shift : ndarray, shape (q,), optional
        See :class:`varpro_nn.linalg.GramAccumulator`; by default the mean of the first images.
    tick : callable, optional
        Called after each part.

    Raises
    ------
    TrainingError
        The workers of a part were killed at every try.
    """
    with thread_pool(compute.n_jobs) as threads:
        if shift is None:
            first = block_features(units, W, training.images[:_FOR_SHIFT], threads)
            shift = first.mean(axis=0, dtype=np.float64).astype(W.dtype)
        total = GramAccumulator(len(shift), training.n_targets, shift=shift)
        blocks = block_slices(len(training), len(shift))
        bounds = np.linspace(0, len(blocks), min(PARTS, len(blocks)) + 1).astype(int)
        parts = [blocks[start:stop] for start, stop in pairwise(bounds)]
        if not compute.distributes(training):
            for part in parts:
                total.merge(_sums_of_part(training, units, W, shift, part, threads))
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
    training: TrainingSet,
    units: Units,
    W: RealArray,
    shift: RealArray,
    part: list[slice],
    threads: Threads | None = None,
) -> GramAccumulator:
    """Sum over some blocks of images, here or as the task of a worker."""
    sums = GramAccumulator(len(shift), training.n_targets, shift=shift)
    with single_threaded_blas():
        for rows, Phi in feature_blocks(units, W, training.images, threads, blocks=part):
            sums.add(Phi, training.tau(rows), training.weights_at(rows), threads)
    return sums
