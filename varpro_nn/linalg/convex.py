r"""Convex fits of a linear layer, softmax and hinge, by Newton's method with conjugate gradients.

For rows ``phi_i`` of fixed features, labels ``y_i`` and a penalty ``lam``, find

    min_A  f(A) = sum_i loss(A' phi_i, y_i) + lam/2 ||A||^2    (the constant column's row is free).

A Newton step ``X`` solves ``H X = -g`` by conjugate gradients. A product with ``H`` is two products
with the rows whose loss curves. Near the optimum of the hinge few rows curve. Softmax leaves rows
out of these products that are classified correctly and hardly curve. Gradients and costs have all
rows, so the optimum stays; the gain is estimated too large, so the fit does not end too early. The
eigenvalues of the features' Gram matrix span ten orders of magnitude, so the system is
preconditioned by ``R'R``, the Cholesky factorisation of the Gram matrix of the same rows, each
weighted by the curvature of its loss, plus ``lam``. If there are more than 10 such rows for each
column, the matrix is estimated from rows of large curvature and some of the others
(``drawn_by_weight``): few rows curve much, and these make most of the matrix. The rows change from
step to step, so the factor is recomputed as soon as the products since the last one have cost as
much as a factorisation.

One factor serves all outputs: their mean curvature weights the rows. With many classes and a small
penalty, few rows curve for each output, and not the same ones, so conjugate gradients take hundreds
of products. Then each output gets a factor of its own, its diagonal block of the Hessian, after a
step of many products, if all of them have cost as much as these factors (300 classes of 3,300
images: 30 products in the place of 250 to 1,000).

The Hessian of the hinge changes from step to step, and with a small penalty conjugate gradients
take many products and still estimate too small a gain. So a hinge with few violated margins
is solved exactly, in the dual form of the squared hinge, as least squares on these margins alone.

Conjugate gradients stop where the quadratic model has little left to gain (Nash and Sofer). The
total gain of the model, ``q = -g'X / 2``, estimates ``f - min f`` with any preconditioner. The fit
ends with the step for which ``q`` is at most ``tolerance f``. The step goes to a point where the
slope along ``X`` is a tenth of the slope at its start. Slopes, unlike costs, do not lose half of
their digits near the optimum.

The losses are in :mod:`varpro_nn.linalg.losses`.

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
from numpy.typing import NDArray

from varpro_nn._io.mapped import rows_in_use
from varpro_nn._typing import FloatArray, IndexArray, LabelArray, RealArray
from varpro_nn.linalg import add_gram, definite_factor, run_tiles
from varpro_nn.linalg.losses import FLAT, LOSSES
from varpro_nn.linalg.preconditioner import Factor, Preconditioner, drawn_by_weight
from varpro_nn.linalg.ridge import ROWS
from varpro_nn.linalg.threads import Threads

MARGINS = 2000
"""Violated margins up to which a Newton step of the hinge is solved exactly.

It takes three matrices of up to 32 MB, and a copy of the rows in double precision.
"""
ROWS_FOR_GRAM = 10
"""Rows for each column that a factor of a preconditioner is made of, or all rows if fewer."""
CACHE_BYTES, ROWS_PER_OUTPUT = 2**20, 8
"""Bytes of a slice of rows, and its least number of rows for each output.

A product with the Hessian multiplies each slice twice. A small slice is still in the cache for the
second product, but products of very few rows are slow.
"""
MANY_PRODUCTS = 20
"""Products of a step from which on each output is worth a factor of its own."""
LARGEST_FACTORS = 2**30
"""Bytes that the factors of a preconditioner may take, if each output has its own."""
_STRAIGHT = 1e-3
"""Share of the mean curvature below which a row is flat, with its weight and without it."""
_ILL_CONDITIONED = 1e-4
"""Largest rounding error of a solution, relative to it, with which a step counts as exact."""
_LEFT = 0.25
"""Largest share of the gain of the quadratic model that conjugate gradients may leave."""
_FEWEST = 10
"""Least number of iterations of conjugate gradients over which the gain must level off."""
_FLATTER = 0.1
"""Slope at the end of a step, relative to the slope at its start."""
_TRIALS = 20
"""Largest number of trial points along a step; each costs less than a product."""

_logger = logging.getLogger(__name__)


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
        Gradients and products with the Hessian.
    gradient_norm : float
        Norm of the gradient of the cost by ``A``.
    excess : float
        Estimated distance of the cost from its minimum before the last step, relative to it; 0 for
        a cost of less than 2e-16 a row.
    converged : bool
        Whether ``excess`` is at most the tolerance, or the rounding error of the products.
    preconditioner : Preconditioner or None
        The last one: good for a fit of the same rows with another penalty. None if there was no
        need for any.
    """

    A: FloatArray
    cost: float
    n_iterations: int
    gradient_norm: float
    excess: float
    converged: bool
    preconditioner: Preconditioner | None


def fit_linear(
    loss: str,
    Phi: RealArray,
    labels: LabelArray,
    start: FloatArray,
    penalty: float,
    *,
    max_iterations: int = 3000,
    tolerance: float = 1e-4,
    preconditioner: Preconditioner | None = None,
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
        the quadratic model. After the step it is smaller: with a tolerance of 1e-4 at most 1e-5,
        measured against scikit-learn. For a hinge with more than ``MARGINS`` violated margins and a
        small penalty, the estimate can be several times too small. A tolerance below rounding error
        is not reached.
    preconditioner : Preconditioner, optional
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
    # A number that is added to all outputs changes no loss, so the mean over the outputs is taken
    # off each row of A. Else conjugate gradients would need steps for it, because in this direction
    # only the penalty curves. In the row of the constant it would only add rounding errors.
    A = start.copy()
    A -= A.mean(axis=1, keepdims=True)
    point = problem.at(A)
    M, spent, spent_on_all, count = preconditioner, 0.0, 0.0, 0
    n_iterations, least = 1, np.inf
    rounding = float(np.finfo(Phi.dtype).eps)
    while True:
        step = problem.exact_newton_step(point)
        if step is not None:
            gain, count = max(-0.5 * float(np.vdot(point.gradient, step)), 0.0), 1
        else:
            by_output = count > MANY_PRODUCTS or (M is not None and M.is_by_output)
            if by_output and spent_on_all >= problem.price_of_factors(point):
                M, spent, spent_on_all = problem.factor_by_output(point), 0.0, 0.0
            elif M is None or (not M.is_by_output and spent >= problem.price_of_factor(point)):
                M, spent = problem.common_factor(point), 0.0
            step, gain, count = _newton_step(problem, point, M, max_iterations - n_iterations)
            spent += count * problem.price_of_product(point)
            spent_on_all += count * problem.price_of_product(point)
        excess = min(gain, point.cost) / point.cost if point.cost > problem.least_cost else 0.0
        # Where all that is left is rounding error, the estimate stops falling.
        over = excess <= tolerance or (excess <= rounding and excess > 0.25 * least)
        least = min(least, excess)
        there = _search_along(problem, point, step)
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
    return ConvexFit(point.A, point.cost, n_iterations, norm, excess, converged, M)


def _newton_step(
    problem: "_Problem", point: "_Point", M: Preconditioner, most: int
) -> tuple[FloatArray, float, int]:
    """Solve ``H X = -g`` roughly; return ``X``, the gain of the model, and the iterations."""
    X, gain, count = np.zeros_like(point.A), 0.0, 0
    residual = -point.gradient
    Z = M.solve(residual)
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
        Z = M.solve(residual)
        before, product = product, float(np.vdot(residual, Z))
        direction = Z + (product / before) * direction
    return X, gain, count


def _search_along(problem: "_Problem", point: "_Point", step: FloatArray) -> "_Point":
    """Go to ``A + s X`` with ``|f'(A + s X)| <= 0.1 |f'(A)|`` along the step ``X``.

    The slope of a convex cost grows with ``s``: regula falsi from both sides, after doubling; the
    slope of an end that stays is halved each time (Illinois). A small slope may lie far up behind a
    kink, so the cost must not be larger than at the start. One product with the rows serves all
    ``s``, and the cost at the end.
    """
    first = low_slope = float(np.vdot(point.gradient, step))
    if first >= 0:  # a step of rounding errors
        return point
    change = problem.outputs(step)
    along = problem.along(point, step, change)
    most = point.cost * (1 + float(np.finfo(np.float64).eps) * len(change))
    # Rows that are wrong beyond doubt have a slope and no curvature: the model gains more than the
    # whole cost, which a straight line has used up at cost / |slope|.
    s = 1.0 if point.cost >= abs(first) else point.cost / abs(first)
    low, high, high_slope, last = 0.0, np.inf, np.inf, 0
    for _ in range(_TRIALS):
        cost, slope = along(s)
        if abs(slope) <= _FLATTER * abs(first) and cost <= most:
            low = s
            break
        if slope > 0:
            high, high_slope = s, slope
            low_slope *= 0.5 if last > 0 else 1.0
        else:
            low, low_slope = s, slope
            high_slope *= 0.5 if last < 0 else 1.0
        last = 1 if slope > 0 else -1
        if np.isinf(high):
            s *= 2
        else:  # well inside: one side may be steep
            share = np.clip(-low_slope / (high_slope - low_slope), 0.1, 0.9)
            s = low + float(share) * (high - low)
    # Up to the last low end the cost falls.
    return problem.at(point.A + low * step, point.outputs + low * change, point.reach)


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """Cost and derivatives at one ``A``.

    Attributes
    ----------
    outputs, slopes : ndarray, shape (n, k)
        Slopes of the losses by the outputs, without sample weights.
    curvature : ndarray, shape (n,)
        Of the losses, mean over the outputs, without sample weights.
    curved : list
        Blocks of the rows that take part in the Hessian.
    cost : float
    gradient : ndarray, shape (q + 1, k)
    reach : float
        Largest absolute output since outputs were computed from the rows. Outputs that were
        updated since have rounding errors of its size.
    """

    A: FloatArray
    outputs: FloatArray
    slopes: FloatArray
    curvature: FloatArray
    curved: list[Any]
    cost: float
    gradient: FloatArray
    reach: float

    @property
    def n_curved(self) -> int:
        """Number of rows that take part in the Hessian."""
        return sum(
            rows.stop - rows.start if isinstance(rows, slice) else len(rows) for rows in self.curved
        )


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
        self._is_hinge = loss == "hinge"
        self._loss = LOSSES[loss]
        self._Phi, self._labels = Phi, labels
        self._weights = np.ones(n) if sample_weight is None else sample_weight
        # Outputs that grow without end, as those of a single class do, lower the cost for ever.
        self.least_cost = float(np.finfo(np.float64).eps * self._weights.sum())
        self._threads = threads
        self._slices = [slice(i, min(i + ROWS, n)) for i in range(0, n, ROWS)]
        self._penalty = np.full((q + 1, 1), penalty)
        self._penalty[-1] = 0.0

    def _blocks_of(self, chosen: NDArray[np.bool_]) -> list[Any]:
        """Blocks of the chosen rows; of all, if copies of the chosen ones would save nothing."""
        if np.count_nonzero(chosen) > len(chosen) // 2:
            return list(self._slices)
        index = np.flatnonzero(chosen)
        return [index[i : i + ROWS] for i in range(0, len(index), ROWS)]

    def _over(self, blocks: list[Any], term: Callable[[Any], Any]) -> list[Any]:
        """Call ``term`` on each block, in threads if there are any; results in order."""
        terms: list[Any] = [None] * len(blocks)

        def block(number: int) -> None:
            terms[number] = term(blocks[number])

        run_tiles(self._threads, block, range(len(terms)))
        return terms

    def _over_features(self, blocks: list[Any], term: Callable[[Any, Any], Any]) -> list[Any]:
        """Call ``term`` on each block and its features."""

        def with_features(rows: Any) -> Any:
            with rows_in_use(self._Phi, rows) as Phi:
                return term(rows, Phi)

        return self._over(blocks, with_features)

    def _outputs(self, Phi: RealArray, A: FloatArray) -> FloatArray:
        return (Phi @ A[:-1].astype(Phi.dtype)).astype(np.float64) + A[-1]

    def outputs(self, A: FloatArray) -> FloatArray:
        """``Phi A``, (n, k), with the constant column."""
        outputs = np.empty((len(self._Phi), A.shape[1]))

        def term(rows: slice, Phi: RealArray) -> None:
            outputs[rows] = self._outputs(Phi, A)

        self._over_features(self._slices, term)
        return outputs

    def _moments(self, Phi: RealArray, V: FloatArray, rows: Any) -> tuple[RealArray, FloatArray]:
        """``Phi' diag(weights) V`` of a block, and the row of the constant column."""
        weighted = V * self._weights[rows, None]
        return Phi.T @ weighted.astype(Phi.dtype), weighted.sum(axis=0)

    def _sum(self, moments: list[tuple[RealArray, FloatArray]], A: FloatArray) -> FloatArray:
        """Add up blocks of moments and the penalty times ``A``."""
        total = self._penalty * A
        for by_columns, constant in moments:
            total[:-1] += by_columns
            total[-1] += constant
        return total

    def at(self, A: FloatArray, outputs: FloatArray | None = None, reach: float = 0.0) -> _Point:
        """Compute the cost and its derivatives, from the outputs (n, k) at ``A`` if known.

        Outputs much smaller than on the way, ``reach``, are computed anew.
        """
        if outputs is None or np.abs(outputs).max(initial=0.0) < 0.1 * reach:
            outputs, reach = self.outputs(A), 0.0
        reach = max(reach, float(np.abs(outputs).max(initial=0.0)))
        slopes, curvature = np.empty_like(outputs), np.empty(len(outputs))

        def losses(rows: slice) -> float:
            values, slopes[rows], curvature[rows] = self._loss.at(outputs[rows], self._labels[rows])
            return float(values @ self._weights[rows])

        cost = sum(self._over(self._slices, losses)) + 0.5 * float((self._penalty * A**2).sum())
        sloping = self._blocks_of(np.count_nonzero(slopes, axis=1) > 0)

        def moments(rows: Any, Phi: RealArray) -> tuple[RealArray, FloatArray]:
            return self._moments(Phi, slopes[rows], rows)

        gradient = self._sum(self._over_features(sloping, moments), A)
        curved = self._blocks_of(self._curves(slopes, curvature))
        return _Point(A, outputs, slopes, curvature, curved, cost, gradient, reach)

    def _curves(self, slopes: FloatArray, curvature: FloatArray) -> NDArray[np.bool_]:
        """Whether each row takes part in the Hessian."""
        weighted = curvature * self._weights
        if self._is_hinge:
            return weighted > 0
        # Rows that are wrong beyond doubt are flat as well, but not for long.
        right = np.abs(slopes).max(axis=1, initial=0.0) < 0.5
        flat = curvature <= _STRAIGHT * curvature.mean()
        flat &= weighted <= _STRAIGHT * weighted.mean()
        return ~(right & flat)

    def times_hessian(self, point: _Point, direction: FloatArray) -> FloatArray:
        """Multiply the (generalised) Hessian at a point by a direction (q + 1, k)."""

        def term(rows: Any, Phi: RealArray) -> tuple[RealArray, FloatArray]:
            slopes, labels, weights = point.slopes[rows], self._labels[rows], self._weights[rows]
            by_columns = np.zeros((direction.shape[1], Phi.shape[1]), Phi.dtype)
            constant = np.zeros(direction.shape[1])
            # A slice is still in the cache for the second product.
            size = max(CACHE_BYTES // max(1, Phi[:1].nbytes), ROWS_PER_OUTPUT * direction.shape[1])
            for some in (slice(i, i + size) for i in range(0, len(Phi), size)):
                U = self._outputs(Phi[some], direction)
                V = self._loss.curvature(slopes[some], labels[some], U) * weights[some, None]
                by_columns += V.T.astype(Phi.dtype) @ Phi[some]
                constant += V.sum(axis=0)
            return by_columns.T, constant

        return self._sum(self._over_features(point.curved, term), direction)

    def exact_newton_step(self, point: _Point) -> FloatArray | None:
        """Solve ``H X = -g`` for a hinge with few violated margins; else give None.

        With ``b_j = (e_c - e_y) x phi_i`` for each margin, and ``w_j`` the weight of its row, the
        model is ``1/2 sum_j w_j (1 + b_j'A)^2 + lam/2 ||A||^2``. At its minimum
        ``A = -sum_j sqrt(w_j) v_j b_j / lam`` with ``v_j = sqrt(w_j) (1 + b_j'A)``, so that
        ``(I + B B' / lam) v = sqrt(w) + C a`` and ``C'v = 0``. Here ``B`` has the rows
        ``sqrt(w_j) b_j`` without the constant column, ``C`` the rows of the constant column, whose
        weights are ``a``.
        """
        q, k = len(point.A) - 1, point.A.shape[1]
        if not self._is_hinge:
            return None
        violated = (point.slopes > 0) & (self._weights[:, None] > 0)
        if not 0 < np.count_nonzero(violated) <= min(MARGINS, q * k):
            return None
        rows, at = np.unique(np.nonzero(violated)[0], return_inverse=True)
        outputs = np.nonzero(violated)[1]
        root = np.sqrt(self._weights[rows])[at]
        C = -np.eye(k)[self._labels[rows]][at]
        C[np.arange(len(C)), outputs] += 1.0
        C *= root[:, None]
        with rows_in_use(self._Phi, rows) as some:
            Phi = some.astype(np.float64)
        del some
        K = (Phi @ Phi.T)[np.ix_(at, at)]
        K *= C @ C.T / self._penalty[0, 0]
        # The smallest eigenvalue of I + B B' / lam is at least 1.
        if not np.finfo(np.float64).eps * np.trace(K) <= _ILL_CONDITIONED:
            return None
        K[np.diag_indices_from(K)] += 1.0
        factor = scipy.linalg.cho_factor(K, overwrite_a=True, check_finite=False)
        solved = scipy.linalg.cho_solve(factor, np.column_stack([root, C]), check_finite=False)
        # Constants of outputs that no violated margin connects are free: take the shortest a.
        a = np.linalg.lstsq(C.T @ solved[:, 1:], -C.T @ solved[:, 0], rcond=1e-12)[0]
        v = solved[:, 0] + solved[:, 1:] @ a
        by_rows = np.zeros((len(rows), k))
        np.add.at(by_rows, at, v[:, None] * C)
        A = np.vstack([Phi.T @ by_rows / -self._penalty[0, 0], a])
        return A - point.A

    def along(
        self, point: _Point, step: FloatArray, change: FloatArray
    ) -> Callable[[float], tuple[float, float]]:
        """Make the function of ``s`` that is the cost at ``A + s X`` and its slope.

        ``change`` (n, k) is that of the outputs with the step.
        """
        penalised = self._penalty * step
        slope_of_penalty, bend = (float(np.vdot(penalised, each)) for each in (point.A, step))
        penalty = 0.5 * float((self._penalty * point.A**2).sum())

        def cost_and_slope(s: float) -> tuple[float, float]:
            def term(rows: slice) -> tuple[float, float]:
                U, weights = change[rows], self._weights[rows]
                values, slopes, _ = self._loss.at(point.outputs[rows] + s * U, self._labels[rows])
                return float(values @ weights), float(weights @ (slopes * U).sum(axis=1))

            costs, slopes = zip(*self._over(self._slices, term), strict=True)
            cost = sum(costs) + penalty + s * (slope_of_penalty + 0.5 * s * bend)
            return cost, sum(slopes) + slope_of_penalty + s * bend

        return cost_and_slope

    def price_of_product(self, point: _Point) -> float:
        """Operations of a product with the Hessian and a solution with the preconditioner."""
        q, k = point.A.shape
        return 2.0 * k * q * (2 * point.n_curved + q)

    def price_of_factor(self, point: _Point) -> float:
        """Operations of a factor for all outputs."""
        q = len(point.A)
        return q**2 * (min(point.n_curved, self._enough) + q / 3)

    def price_of_factors(self, point: _Point) -> float:
        """Operations of a factor for each output; infinite if they take too much memory."""
        q, k = point.A.shape
        if 4 * k * q**2 > LARGEST_FACTORS:
            return np.inf
        n_rows = np.zeros(k)
        for rows in point.curved:
            n_rows += np.count_nonzero(self._diagonal(point, rows), axis=0)
        return q**2 * (float(np.minimum(n_rows, self._enough).sum()) + k * q / 3)

    @property
    def _enough(self) -> int:
        """Number of rows that a factor is made of; all rows, if there are fewer."""
        return max(ROWS_FOR_GRAM * self._Phi.shape[1], ROWS)

    def _diagonal(self, point: _Point, rows: Any) -> FloatArray:
        """Curvature of the weighted loss along each output, (b, k)."""
        return (
            self._loss.diagonal(point.slopes[rows], self._labels[rows]) * self._weights[rows, None]
        )

    def common_factor(self, point: _Point) -> Preconditioner:
        """Factorise one Gram matrix for all outputs, each row weighted by its mean curvature.

        It need not be exact, so some of many rows stand for all.
        """
        curved = self._positions(point.curved)
        curvature = (point.curvature[curved] + FLAT) * self._weights[curved]
        R = self._cholesky(self._weighted_gram(curved, curvature, self._threads))
        return Preconditioner((Factor.of(R),))

    def factor_by_output(self, point: _Point) -> Preconditioner:
        """Factorise the diagonal block of the Hessian for each output.

        Of many rows that curve, some stand for all.
        """
        k = point.A.shape[1]
        curved = self._positions(point.curved)
        curvature = self._diagonal(point, curved)
        factors: list[Any] = [None] * k

        def factorise(c: int) -> None:
            of_output = np.flatnonzero(curvature[:, c])
            gram = self._weighted_gram(curved[of_output], curvature[of_output, c], None)
            factors[c] = Factor.of(self._cholesky(gram))

        run_tiles(self._threads, factorise, range(k))
        return Preconditioner(tuple(factors))

    def _positions(self, blocks: list[Any]) -> IndexArray:
        """Positions of the rows of blocks."""
        index = np.arange(len(self._Phi))
        return np.concatenate([index[:0], *(index[rows] for rows in blocks)])

    def _weighted_gram(
        self, rows: IndexArray, weights: FloatArray, threads: Threads | None
    ) -> FloatArray:
        """Sum up a Gram matrix of weighted rows; of many rows, some stand for all."""
        q = self._Phi.shape[1]
        some, weights = drawn_by_weight(weights, self._enough)
        rows = rows[some]
        gram = np.zeros((q + 1, q + 1))
        for i in range(0, len(rows), ROWS):
            self._add_weighted(gram, rows[i : i + ROWS], weights[i : i + ROWS], threads)
        return gram

    def _add_weighted(
        self, gram: FloatArray, rows: Any, weights: FloatArray, threads: Threads | None
    ) -> None:
        """Add the Gram matrix of weighted rows, the constant column last."""
        with rows_in_use(self._Phi, rows) as Phi:
            root = np.sqrt(weights).astype(Phi.dtype)[:, None]
            weighted = np.concatenate([root * Phi, root], axis=1)
        add_gram(gram, weighted, threads)

    def _cholesky(self, gram: FloatArray) -> FloatArray:
        """Factorise a Gram matrix plus the penalty.

        The matrix may be singular, because of flat rows or linearly dependent columns, so a floor
        is added to its diagonal. The floor is relative to each column. A common floor could exceed
        the square of the constant column, which has no penalty: its gradient would look like zero.
        """
        squares = np.diag(gram)
        # For a column of zeros in these rows, any positive number will do.
        floor = np.where(squares > 0, FLAT * squares, 1.0)
        return definite_factor(gram, self._penalty[:, 0], floor)
