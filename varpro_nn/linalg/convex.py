r"""Convex fits of a linear layer, softmax and hinge, by Newton's method with conjugate gradients.

For rows ``phi_i`` of fixed features, labels ``y_i`` and a penalty ``lam``, find

    min_A  f(A) = sum_i loss(A' phi_i, y_i) + lam/2 ||A||^2    (the constant column's row is free).

A Newton step ``X`` solves ``H X = -g`` with the exact Hessian, by conjugate gradients: a product
with ``H`` costs two products with the rows, as a gradient does. The eigenvalues of the features'
Gram matrix span ten orders of magnitude, so the system is preconditioned by ``R'R``, the Cholesky
factorisation of the Gram matrix plus ``lam``, each row weighted by the curvature of its loss. Near
the optimum only a few hard rows have any curvature, so the factor is recomputed as soon as the
products since the last one have cost as much as a factorisation.

Conjugate gradients stop where the quadratic model has little left to gain (Nash and Sofer). The
total gain of the model, ``q = -g'X / 2``, estimates ``f - min f`` with any preconditioner. The fit
ends with the step for which ``q`` is at most ``tolerance f``. The step goes to a point where the
slope along ``X`` is a tenth of the slope at its start. Slopes, unlike costs, do not lose half of
their digits near the optimum.

Losses: ``softmax``, the multinomial cross-entropy ``-log p_y``; ``hinge``, the squared multiclass
hinge of Weston and Watkins, ``1/2 sum_{c != y} max(0, 1 + z_c - z_y)^2`` (squared, so that it has
a gradient; its generalised Hessian is the Hessian of the positive terms).

References
----------
S. Nash and A. Sofer, Assessing a search direction within a truncated-Newton method, Operations
Research Letters 9 (1990).
S. Keerthi and D. DeCoste, A modified finite Newton method for fast solution of large scale linear
SVMs, Journal of Machine Learning Research 6 (2005).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from varpro_nn._typing import FloatArray, LabelArray, RealArray
from varpro_nn.linalg import add_gram, definite_factor, run_tiles
from varpro_nn.linalg.ridge import ROWS
from varpro_nn.linalg.threads import Threads

ROWS_FOR_GRAM = 10
"""Rows for each column that a preconditioner is made of at least."""
_FLAT = 1e-6
"""Relative floor: of the curvature of a row, and of the squared norm of a weighted column."""
_LEFT = 0.25
"""Largest share of the gain of the quadratic model that conjugate gradients may leave."""
_FEWEST = 10
"""Least number of iterations of conjugate gradients over which the gain must level off."""
_FLATTER = 0.1
"""Slope at the end of a step, relative to the slope at its start."""
_TRIALS = 20
"""Largest number of trial points along a step; each costs less than a product."""

_logger = logging.getLogger(__name__)

LossFunction = Callable[[FloatArray, LabelArray], tuple[FloatArray, FloatArray, FloatArray]]
"""Outputs (b, k) and labels to values (b,), gradients by the outputs (b, k), curvatures (b,)."""


def _softmax(z: FloatArray, labels: LabelArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    rows = np.arange(len(z))
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z)
    total = p.sum(axis=1, keepdims=True)
    p /= total
    value = np.log(total[:, 0]) - z[rows, labels]
    curvature = (p * (1 - p)).mean(axis=1)
    p[rows, labels] -= 1
    return value, p, curvature


def _hinge(z: FloatArray, labels: LabelArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    rows = np.arange(len(z))
    slack = np.maximum(1 + z - z[rows, labels][:, None], 0.0)
    slack[rows, labels] = 0.0
    value = 0.5 * np.square(slack).sum(axis=1)
    curvature = 2 * np.count_nonzero(slack, axis=1) / z.shape[1]
    slack[rows, labels] = -slack.sum(axis=1)
    return value, slack, curvature


LOSSES: dict[str, LossFunction] = {"softmax": _softmax, "hinge": _hinge}
"""The losses by name."""


def _softmax_curvature(slopes: FloatArray, labels: LabelArray, U: FloatArray) -> FloatArray:
    p = slopes.copy()  # p - e_y
    p[np.arange(len(p)), labels] += 1
    V = p * U
    V -= p * V.sum(axis=1, keepdims=True)
    return V


def _hinge_curvature(slopes: FloatArray, labels: LabelArray, U: FloatArray) -> FloatArray:
    rows = np.arange(len(U))
    # The slope by another output than the label's is positive where its term is.
    V = np.where(slopes > 0, U - U[rows, labels][:, None], 0.0)
    V[rows, labels] = -V.sum(axis=1)
    return V


_CURVATURES = {"softmax": _softmax_curvature, "hinge": _hinge_curvature}
"""Slopes, labels and changes of the outputs, (b, k), to the changes of the slopes."""


@dataclass(frozen=True, slots=True, eq=False)
class ConvexFit:
    """A fitted linear layer.

    Attributes
    ----------
    A : ndarray, shape (q + 1, k)
        The row of the constant column is last.
    cost : float
        Sum of losses and penalty.
    n_iterations : int
        Gradients and products with the Hessian; each passes over the rows twice.
    gradient_norm : float
        Norm of the gradient of the cost by ``A``.
    excess : float
        Estimated distance of the cost from its minimum before the last step, relative to it; 0 for
        a cost of less than 2e-16 a row.
    converged : bool
        Whether ``excess`` is at most the tolerance, or the rounding error of the products.
    preconditioner : ndarray, shape (q + 1, q + 1)
        The last one: good for a fit of the same rows with another penalty.
    """

    A: FloatArray
    cost: float
    n_iterations: int
    gradient_norm: float
    excess: float
    converged: bool
    preconditioner: FloatArray


def fit_linear(
    loss: str,
    Phi: RealArray,
    labels: LabelArray,
    start: FloatArray,
    penalty: float,
    *,
    max_iterations: int = 3000,
    tolerance: float = 1e-4,
    preconditioner: FloatArray | None = None,
    threads: Threads | None = None,
    sample_weight: FloatArray | None = None,
) -> ConvexFit:
    """Fit the linear layer on rows of features.

    Parameters
    ----------
    loss : {"softmax", "hinge"}
    Phi : ndarray, shape (n, q)
        Without the constant column; may be a memory map. Products run in its type.
    labels : ndarray of int, shape (n,)
    start : ndarray, shape (q + 1, k)
        Linear weights to start from, as of a ridge solution.
    penalty : float
        ``lam > 0``.
    max_iterations : int
        Gradients and products with the Hessian, at most.
    tolerance : float
        Largest relative distance of the cost from its minimum before the last step, estimated by
        the quadratic model. After the step it is smaller: at most 1e-5 with 1e-4, measured against
        scikit-learn. A tolerance below rounding error is not reached.
    preconditioner : ndarray, shape (q + 1, q + 1), optional
        Of an earlier fit, to begin with.
    threads : Threads, optional
        Threads that share the rows. The result does not depend on it.
    sample_weight : ndarray of float, shape (n,), optional
        Weights of the rows in the sum of losses.

    Returns
    -------
    ConvexFit
    """
    problem = _Problem(loss, Phi, labels, penalty, threads, sample_weight)
    # What a column gives to all outputs alike changes no loss, so its best share is none. Only the
    # penalty curves there, which conjugate gradients would have to find out.
    A = start.copy()
    A[:-1] -= A[:-1].mean(axis=1, keepdims=True)
    point = problem.at(A)
    R = problem.preconditioner(point) if preconditioner is None else preconditioner
    price = problem.price_of_preconditioner(start.shape[1])
    n_iterations, since, least = 1, 0.0, np.inf
    rounding = float(np.finfo(Phi.dtype).eps)
    while True:
        if since >= price:
            R, since = problem.preconditioner(point), 0.0
        step, gain, count = _newton_step(problem, point, R, max_iterations - n_iterations)
        since += count
        excess = min(gain, point.cost) / point.cost if point.cost > problem.least_cost else 0.0
        # Where all that is left is rounding error, the estimate stops falling.
        over = excess <= tolerance or (excess <= rounding and excess > 0.25 * least)
        least = min(least, excess)
        there = problem.at(point.A + _length(problem, point, step) * step)
        n_iterations += count + 1
        # A step made of rounding errors may lead anywhere.
        over = over or there.cost > point.cost * (1 + rounding)
        if there.cost <= point.cost * (1 + rounding):
            point = there
        _logger.debug("%s: cost %.6g after %d, %.3g above", loss, point.cost, n_iterations, excess)
        if over or n_iterations >= max_iterations:
            break
    norm = float(np.linalg.norm(point.gradient))
    converged = excess <= max(tolerance, rounding)
    return ConvexFit(point.A, point.cost, n_iterations, norm, excess, converged, R)


def _newton_step(
    problem: "_Problem", point: "_Point", R: FloatArray, most: int
) -> tuple[FloatArray, float, int]:
    """Solve ``H X = -g`` roughly; return ``X``, the gain of the model, and the iterations."""

    def precondition(residual: FloatArray) -> FloatArray:
        solved: FloatArray = scipy.linalg.cho_solve((R, False), residual, check_finite=False)
        return solved

    X, gain, count = np.zeros_like(point.A), 0.0, 0
    residual = -point.gradient
    Z = precondition(residual)
    direction, product = Z, float(np.vdot(residual, Z))
    while product > 0:
        HD = problem.times_hessian(point, direction)
        curvature = float(np.vdot(direction, HD))
        count += 1
        if curvature <= 0:  # rounding: the gradient is all but zero
            break
        # No direction gains more than all of the cost. With less curvature than that, as of rows
        # that are wrong beyond doubt, a straight line is the better model.
        most_length = 2 * point.cost / product if product > np.finfo(np.float64).tiny else 0.0
        length = min(product / curvature, most_length)
        X += length * direction
        residual = residual - length * HD
        more = 0.5 * length * product  # what this iteration gains
        gain += more
        levelled_off = max(count, _FEWEST) * more <= _LEFT * gain
        if levelled_off or length == most_length or count >= most:
            break
        Z = precondition(residual)
        before, product = product, float(np.vdot(residual, Z))
        direction = Z + (product / before) * direction
    return X, gain, count


def _length(problem: "_Problem", point: "_Point", step: FloatArray) -> float:
    """Find ``s`` with ``|f'(A + s X)| <= 0.1 |f'(A)|`` along the step ``X``.

    The slope of a convex cost grows with ``s``: regula falsi from both sides, after doubling.
    """
    slope_at = problem.slopes_along(point, step)
    first = low_slope = float(np.vdot(point.gradient, step))
    # Rows that are wrong beyond doubt have a slope and no curvature: the model gains more than the
    # whole cost, which a straight line has used up at cost / |slope|.
    s = 1.0 if point.cost >= abs(first) else point.cost / abs(first)
    low, high, high_slope = 0.0, np.inf, np.inf
    for _ in range(_TRIALS):
        slope = slope_at(s)
        if abs(slope) <= _FLATTER * abs(first):
            return s
        if slope > 0:
            high, high_slope = s, slope
        else:
            low, low_slope = s, slope
        if np.isinf(high):
            s *= 2
        else:  # well inside: one side may be steep
            share = np.clip(-low_slope / (high_slope - low_slope), 0.1, 0.9)
            s = low + float(share) * (high - low)
    return low  # up to there the cost falls


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """Cost and derivatives at one ``A``.

    Attributes
    ----------
    outputs, slopes : ndarray, shape (n, k)
        Slopes of the losses by the outputs, without sample weights.
    curvature : ndarray, shape (n,)
        Of the losses, mean over the outputs, without sample weights.
    gradient : ndarray, shape (q + 1, k)
    """

    A: FloatArray
    outputs: FloatArray
    slopes: FloatArray
    curvature: FloatArray
    cost: float
    gradient: FloatArray


class _Problem:
    """Cost, gradient, Hessian products and weighted Gram matrix as sums over blocks of rows."""

    def __init__(
        self,
        loss: str,
        Phi: RealArray,
        labels: LabelArray,
        penalty: float,
        threads: Threads | None,
        sample_weight: FloatArray | None,
    ) -> None:
        n, q = Phi.shape
        self._loss, self._curvature = LOSSES[loss], _CURVATURES[loss]
        self._Phi, self._labels = Phi, labels
        self._weights = np.ones(n) if sample_weight is None else sample_weight
        # Outputs that grow without end, as those of a single class do, lower the cost for ever.
        self.least_cost = float(np.finfo(np.float64).eps * self._weights.sum())
        self._threads = threads
        self._slices = [slice(i, min(i + ROWS, n)) for i in range(0, n, ROWS)]
        self._penalty = np.full((q + 1, 1), penalty)
        self._penalty[-1] = 0.0
        # With many rows, every second (third, ...) block makes the preconditioner.
        self._chosen = self._slices[:: max(1, n // max(ROWS_FOR_GRAM * q, ROWS))]

    def _outputs(self, rows: slice, A: FloatArray) -> FloatArray:
        return (self._Phi[rows] @ A[:-1].astype(self._Phi.dtype)).astype(np.float64) + A[-1]

    def _over_rows(self, term: Callable[[slice], Any]) -> list[Any]:
        """Call ``term`` on each block, in threads if there are any; results in order."""
        terms: list[Any] = [None] * len(self._slices)

        def block(number: int) -> None:
            terms[number] = term(self._slices[number])

        run_tiles(self._threads, block, range(len(terms)))
        return terms

    def _summed(self, V: FloatArray, A: FloatArray) -> FloatArray:
        """``Phi' diag(weights) V`` (with the constant column) plus the penalty times ``A``."""

        def term(rows: slice) -> tuple[RealArray, FloatArray]:
            weighted = V[rows] * self._weights[rows, None]
            return self._Phi[rows].T @ weighted.astype(self._Phi.dtype), weighted.sum(axis=0)

        total = self._penalty * A
        for by_columns, constant in self._over_rows(term):
            total[:-1] += by_columns
            total[-1] += constant
        return total

    def at(self, A: FloatArray) -> _Point:
        """Compute the cost and its derivatives."""
        n, k = len(self._Phi), A.shape[1]
        outputs, slopes, curvature = np.empty((n, k)), np.empty((n, k)), np.empty(n)

        def term(rows: slice) -> float:
            outputs[rows] = self._outputs(rows, A)
            values, slopes[rows], curvature[rows] = self._loss(outputs[rows], self._labels[rows])
            return float(values @ self._weights[rows])

        cost = sum(self._over_rows(term)) + 0.5 * float((self._penalty * A**2).sum())
        return _Point(A, outputs, slopes, curvature, cost, self._summed(slopes, A))

    def times_hessian(self, point: _Point, direction: FloatArray) -> FloatArray:
        """Multiply the (generalised) Hessian at a point by a direction (q + 1, k)."""
        V = np.empty_like(point.slopes)

        def term(rows: slice) -> None:
            U = self._outputs(rows, direction)
            V[rows] = self._curvature(point.slopes[rows], self._labels[rows], U)

        self._over_rows(term)
        return self._summed(V, direction)

    def slopes_along(self, point: _Point, step: FloatArray) -> Callable[[float], float]:
        """Make the function of ``s`` that is the slope of the cost along a step.

        One product with the rows serves all ``s``.
        """
        U = np.concatenate(self._over_rows(lambda rows: self._outputs(rows, step)))
        penalised = self._penalty * step
        at_start, bend = float(np.vdot(penalised, point.A)), float(np.vdot(penalised, step))

        def slope_at(s: float) -> float:
            def term(rows: slice) -> float:
                slopes = self._loss(point.outputs[rows] + s * U[rows], self._labels[rows])[1]
                return float(self._weights[rows] @ (slopes * U[rows]).sum(axis=1))

            return sum(self._over_rows(term)) + at_start + s * bend

        return slope_at

    def price_of_preconditioner(self, n_outputs: int) -> float:
        """Cost of a preconditioner in products with the Hessian, by their operations."""
        n, q = self._Phi.shape
        n_rows = sum(rows.stop - rows.start for rows in self._chosen)
        return q * (n_rows + q / 3) / (4 * n * n_outputs)

    def preconditioner(self, point: _Point) -> FloatArray:
        """Upper Cholesky factor of the Gram matrix, each row weighted by its curvature.

        It need not be exact, so some of many blocks stand for all. The
        Gram matrix may be singular, because of flat rows or linearly dependent columns, so a floor
        is added to its diagonal. The floor is relative to each column. A common floor could exceed
        the square of the constant column, which has no penalty: its gradient would look like zero.
        """
        n, q = self._Phi.shape
        gram = np.zeros((q + 1, q + 1))
        for rows in self._chosen:
            curvature = (point.curvature[rows] + _FLAT) * self._weights[rows]
            root = np.sqrt(curvature).astype(self._Phi.dtype)[:, None]
            add_gram(gram, np.concatenate([root * self._Phi[rows], root], axis=1), self._threads)
        gram *= n / sum(rows.stop - rows.start for rows in self._chosen)
        squares = np.diag(gram)
        # For a column of zeros, or rows without weight, any positive number will do.
        return definite_factor(
            gram, self._penalty[:, 0], np.where(squares > 0, _FLAT * squares, 1.0)
        )
