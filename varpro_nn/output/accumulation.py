"""Sums of the normal equations over many images: in threads here, or as tasks of an executor.

Images are cut into the same parts whatever computes them, and the sums of the parts are added in
their order, so the result is bitwise the same for any number of threads or workers.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from itertools import pairwise

import numpy as np

from varpro_nn._typing import FloatArray, ImageArray, RealArray, TargetArray
from varpro_nn.compute.pool import run_in_order
from varpro_nn.compute.published import DataReference, images_of
from varpro_nn.data.images import targets_of
from varpro_nn.errors import TrainingError, WorkerDiedError
from varpro_nn.linalg import GramAccumulator
from varpro_nn.output.features import block_features, block_slices, check_finite, workers
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
    images: ImageArray,
    labels: TargetArray,
    n_classes: int,
    *,
    threads: Executor | None = None,
    executor: Executor | None = None,
    data: DataReference | None = None,
    shift: RealArray | None = None,
    sample_weight: FloatArray | None = None,
    tick: Callable[[], object] = lambda: None,
) -> GramAccumulator:
    """Sum over all images, part by part.

    Parameters
    ----------
    units : Units
    W : ndarray, shape (h, p)
    images : ndarray, shape (n, ...)
    labels : ndarray of int, shape (n,); or of float, shape (n, k)
    n_classes : int
    threads : Executor, optional
        Threads of this process that share the work.
    executor : Executor, optional
        Workers that compute the parts instead.
    data : NamedImages or StoredImages
        Where those workers find ``images`` and ``labels``.
    shift : ndarray, shape (h * m,), optional
        See :class:`varpro_nn.linalg.GramAccumulator`; by default the mean of the first images.
    sample_weight : ndarray of float, shape (n,), optional
        Weights of the images.
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
    shift = _shift_of(units, W, images) if shift is None else shift
    total = GramAccumulator(len(shift), n_classes, threads, shift=shift)
    blocks = block_slices(len(images), len(shift))
    bounds = np.linspace(0, len(blocks), min(PARTS, len(blocks)) + 1).astype(int)
    parts = [blocks[start:stop] for start, stop in pairwise(bounds)]
    if executor is None or data is None:
        for part in parts:
            total.merge(
                _sums(units, W, images, labels, sample_weight, n_classes, shift, part, threads)
            )
            tick()
        return total
    tasks = [(units, W, data, n_classes, shift, part) for part in parts]
    try:
        for sums in run_in_order(_sums_of_part, tasks, executor):
            total.merge(sums)
            tick()
    except WorkerDiedError as error:
        msg = f"the sums of the output layer cannot be had: {error}"
        raise TrainingError(msg) from error
    return total


def _sums_of_part(
    units: Units,
    W: RealArray,
    data: DataReference,
    n_classes: int,
    shift: RealArray,
    part: list[slice],
) -> GramAccumulator:
    """Do the task of a worker."""
    here = images_of(data)
    with workers(1):
        return _sums(units, W, here.images, here.labels, here.weights, n_classes, shift, part, None)


def _sums(
    units: Units,
    W: RealArray,
    images: ImageArray,
    labels: TargetArray,
    sample_weight: FloatArray | None,
    n_classes: int,
    shift: RealArray,
    part: list[slice],
    threads: Executor | None,
) -> GramAccumulator:
    sums = GramAccumulator(len(shift), n_classes, threads, shift=shift)
    for rows in part:
        Phi = block_features(units, W, images[rows], threads)
        check_finite(Phi)
        weights = None if sample_weight is None else sample_weight[rows]
        sums.add(Phi, targets_of(labels[rows], n_classes), weights)
    return sums
