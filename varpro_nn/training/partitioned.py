"""The functional of one large sub-network, its sums shared among workers.

The images are cut into parts, each a task of an executor; the sums of the parts are added in their
order, so no bit depends on the workers. What travels is small beside the work: triangular factors
of ``[Phi, tau]`` and Gram matrices of the derivative, never images or features.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.compute.pool import run_in_order
from varpro_nn.compute.published import DataReference, images_of
from varpro_nn.data import ImageSet
from varpro_nn.data.images import check_targets, targets_of
from varpro_nn.linalg import LinearSolution, RowSums, least_squares_with_ridge
from varpro_nn.linalg.threads import single_threaded_blas
from varpro_nn.output.features import BLOCK_BYTES, check_finite
from varpro_nn.units import Units
from varpro_nn.varpro.design_matrix import Design
from varpro_nn.varpro.functional import (
    evaluation,
    left_out_sums,
    normal_sums,
    rank_tolerance_for,
    row_sums,
)
from varpro_nn.varpro.jacobian import NormalSums
from varpro_nn.varpro.reduced import Evaluation, ReducedFunctional, check_penalties


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What a worker needs to make the design of its images."""

    units: Units
    data: DataReference | ImageSet
    rows: slice
    n_classes: int
    fixed: RealArray | None
    ridge: float
    dtype: np.dtype[Any]

    def design(self) -> Design:
        here = images_of(self.data)
        images, labels = here.images[self.rows], here.labels[self.rows]
        fixed = None
        n_columns = self.units.n_units * self.units.n_cells + 1
        if self.fixed is not None:
            fixed = self.units.features(self.fixed.astype(self.dtype), images)
            check_finite(fixed)
            n_columns += fixed.shape[1]
        return Design(
            self.units, images, targets_of(labels, self.n_classes), fixed,
            None if here.weights is None else here.weights[self.rows],
            constant=True, ridge=self.ridge, dtype=self.dtype,
            block_size=max(256, BLOCK_BYTES // (8 * n_columns)),
        )  # fmt: skip


class PartitionedFunctional(ReducedFunctional):
    """Least squares of a classifier with its linear weights projected out, part by part.

    The same function of ``w`` as :class:`varpro_nn.VarProFunctional`, as its reduced problem.

    Parameters
    ----------
    units : Units
        The columns that are trained.
    images : ImageSet
    n_classes : int
        Or number of targets.
    executor : concurrent.futures.Executor, optional
        None: one part after the other in this process; the same bits.
    data : NamedImages or StoredImages, optional
        Where the workers of the executor find ``images``; see :mod:`varpro_nn.compute.published`.
    n_parts : int
        The sums, and with them the last bits, depend on it.
    fixed : ndarray of float, shape (f, p), optional
        Weights of further units that are not trained.
    ridge, weight_decay : float
        ``lam >= 0`` and ``nu >= 0``.
    dtype : {float32, float64}
        Type of the features and of the large products.

    Raises
    ------
    ValueError
        Penalties or a number of parts out of range, labels or fixed weights that do not fit, a
        type that is not one of the two, or an executor without ``data``.
    """

    has_leave_one_out: ClassVar[bool] = True

    def __init__(
        self,
        units: Units,
        images: ImageSet,
        n_classes: int,
        *,
        executor: Executor | None = None,
        data: DataReference | None = None,
        n_parts: int = 8,
        fixed: RealArray | None = None,
        ridge: float = 0.0,
        weight_decay: float = 0.0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        check_penalties(ridge, weight_decay)
        if not isinstance(n_parts, int) or n_parts < 1:
            msg = f"n_parts must be a whole number, 1 at least, got {n_parts}."
            raise ValueError(msg)
        if executor is not None and data is None:
            msg = "data must say where the workers of the executor find the images, got None."
            raise ValueError(msg)
        if np.dtype(dtype) not in (np.float32, np.float64):
            msg = f"dtype must be float32 or float64, got {np.dtype(dtype)}."
            raise ValueError(msg)
        if fixed is not None and np.shape(fixed)[1:] != (units.n_weights,):
            msg = f"fixed must have shape (f, {units.n_weights}), got {np.shape(fixed)}."
            raise ValueError(msg)
        check_targets(images.labels, len(images), n_classes)
        self.units, self.weight_decay, self.dtype = units, float(weight_decay), np.dtype(dtype)
        self._executor = executor
        n = len(images)
        self._total = float(n if images.weights is None else images.weights.sum())
        bounds = np.linspace(0, n, min(n_parts, n) + 1).astype(int).tolist()
        self._parts = [
            _Part(
                units,
                data or images,
                slice(start, stop),
                n_classes,
                fixed,
                float(ridge),
                self.dtype,
            )
            for start, stop in pairwise(bounds)
        ]
        n_fixed = 0 if fixed is None else len(fixed)
        self._ridge = np.full((units.n_units + n_fixed) * units.n_cells + 1, float(ridge))
        self._ridge[-1] = 0.0

    def _project(self, w: FloatArray) -> tuple[Evaluation, LinearSolution]:
        factors = list(self._each(_rows_of, w))
        sums = RowSums(factors[0].shape[1])
        with single_threaded_blas():  # the same bits on any number of cores
            for factor in factors:
                sums.add(factor)
            tolerance = rank_tolerance_for(self._ridge.size, self.dtype)
            solution = least_squares_with_ridge(sums, self._ridge, tolerance)
        each = np.array(list(self._each(_left_out_of, w, solution)))
        squares, wrong = each.sum(axis=0).tolist()
        point = evaluation(w, solution, self.weight_decay, (squares, wrong), self._total)
        return point, solution

    def _sums(self, w: FloatArray, *, matrix: bool, full: bool) -> tuple[FloatArray, FloatArray]:
        solution = self._evaluate(w)[1]
        n_unit_columns = self.units.n_units * self.units.n_cells
        sums = NormalSums(solution, self.units.n_cells, n_unit_columns, full=full)
        for part in self._each(_normal_of, w, solution, matrix, full):
            sums.merge(part)
        with single_threaded_blas():
            return sums.matrix() if matrix else np.zeros((0, 0)), sums.gradient()

    def _each(self, function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        """``function(part, *arguments)`` of all parts, in their order."""
        return run_in_order(function, [(part, *arguments) for part in self._parts], self._executor)


def _rows_of(part: _Part, w: FloatArray) -> FloatArray:
    with single_threaded_blas():
        return row_sums(part.design().blocks(w)).factor


def _left_out_of(part: _Part, w: FloatArray, solution: LinearSolution) -> tuple[float, float]:
    with single_threaded_blas():
        return left_out_sums(part.design().blocks(w), solution)


def _normal_of(
    part: _Part, w: FloatArray, solution: LinearSolution, matrix: bool, full: bool
) -> NormalSums:
    with single_threaded_blas():
        return normal_sums(part.design(), w, solution, matrix=matrix, full=full)
