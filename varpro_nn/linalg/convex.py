r"""Convex fits of a linear layer: softmax and hinge, preconditioned by the ridge solution's matrix.

For rows ``phi_i`` of fixed features, labels ``y_i`` and a penalty ``lam``, find

    min_A  sum_i loss(A' phi_i, y_i) + lam/2 ||A||^2      (the constant column's row is free)

by SciPy's L-BFGS. Such a fit is slow because the eigenvalues of the features' Gram matrix span ten
orders of magnitude. So the search runs in ``Z = R A``, where ``R'R`` is the Cholesky factorisation
of the weighted Gram matrix plus ``lam``: there the Hessian is near a multiple of the identity. The
Gram matrix weights each row by the curvature of its loss. Each round computes it again, because at
the end only a few hard rows have any curvature.

The line search of L-BFGS compares costs. Their rounding error ``eps cost`` hides gradients below
about ``sqrt(eps cost)``. For a smaller tolerance, quasi-Newton steps with the same approximate
Hessian follow. Each must lower the norm of the gradient; they stop where they no longer halve it
every few steps. That is at its rounding error where the preconditioned problem is well
conditioned, else at about ``sqrt(eps cost)``.

Losses: ``softmax``, the multinomial cross-entropy ``-log p_y``; ``hinge``, the squared multiclass
hinge of Weston and Watkins, ``1/2 sum_{c != y} max(0, 1 + z_c - z_y)^2`` (squared, so that it has
a gradient).
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
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
_STALLED = 3
"""Consecutive steps that do not halve the gradient, after which it counts as rounding error."""
_MEMORY = 20
"""Number of pairs of a step and a change of the gradient in the approximate Hessian."""

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
    gradient_norm : float
        Norm of the gradient in the preconditioned variables.
    preconditioner : ndarray, shape (q + 1, q + 1)
        The last one: good for a fit of the same rows with another penalty.
    """

    A: FloatArray
    cost: float
    n_iterations: int
    gradient_norm: float
    preconditioner: FloatArray


def fit_linear(
    loss: str,
    Phi: RealArray,
    labels: LabelArray,
    start: FloatArray,
    penalty: float,
    *,
    rounds: int = 2,
    max_iterations: int = 30,
    tolerance: float = 1e-3,
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
    rounds : int
        How often the preconditioner is made anew.
    max_iterations : int
        Of each round.
    tolerance : float
        Stop when the squared norm of the preconditioned gradient is at most this share of the
        cost. The cost could then still fall by about half of that squared norm. A tolerance below
        rounding error is not reached: the norm ends at about ``sqrt(eps cost)`` or below.
    preconditioner : ndarray, shape (q + 1, q + 1), optional
        Of an earlier fit, for the first round.
    threads : Threads, optional
        Threads that share the rows. The result does not depend on it.
    sample_weight : ndarray of float, shape (n,), optional
        Weights of the rows in the sum of losses.

    Returns
    -------
    ConvexFit
    """
    problem = _Problem(LOSSES[loss], Phi, labels, start.shape[1], penalty, threads, sample_weight)
    # What a column gives to all outputs alike changes no loss, so its best share is none. Only the
    # penalty curves there: with what the preconditioner takes from the losses, the search would
    # see next to no slope, and stop far from the optimum.
    A, n_iterations = start.copy(), 0
    A[:-1] -= A[:-1].mean(axis=1, keepdims=True)
    for _ in range(rounds):
        R = problem.preconditioner(A) if preconditioner is None else preconditioner
        preconditioner = None
        A, cost, norm, count = _search(problem, R, A, max_iterations, tolerance)
        n_iterations += count
        _logger.debug("%s: cost %.6g, gradient %.3g after %d", loss, cost, norm, n_iterations)
        if norm**2 <= tolerance * cost or count < max_iterations:
            break
    return ConvexFit(A, cost, n_iterations, norm, R)


def _search(
    problem: "_Problem", R: FloatArray, A: FloatArray, max_iterations: int, tolerance: float
) -> tuple[FloatArray, float, float, int]:
    """Run L-BFGS in ``Z = R A`` from ``A``; polish the result where rounding hides the cost."""
    shape = A.shape

    def to_weights(z: FloatArray) -> FloatArray:
        return scipy.linalg.solve_triangular(R, z.reshape(shape), check_finite=False)

    last: Any = None
    path: deque[tuple[FloatArray, FloatArray]] = deque(maxlen=_MEMORY + 1)

    def objective(z: FloatArray) -> tuple[float, FloatArray]:
        nonlocal last
        cost, gradient = problem.value(to_weights(z))
        g = scipy.linalg.solve_triangular(R, gradient, trans="T", check_finite=False).ravel()
        last = cost, g
        return cost, g

    def enough(intermediate_result: Any) -> None:
        cost, g = last
        path.append((intermediate_result.x.copy(), g.copy()))
        if g @ g <= tolerance * cost:
            raise StopIteration  # SciPy's way to end the search

    result = scipy.optimize.minimize(
        objective,
        (R @ A).ravel(),
        jac=True,
        method="L-BFGS-B",
        callback=enough,
        options={"maxiter": max_iterations, "maxcor": _MEMORY, "ftol": 0.0, "gtol": 0.0},
    )
    z, cost, g, count = result.x, float(result.fun), result.jac, result.nit
    if count < max_iterations and g @ g > tolerance * cost:
        # The line search ended because further changes of the cost are rounding error.
        z, cost, g, more = _polish(objective, (z, cost, g), path, max_iterations - count, tolerance)
        count += more
    return to_weights(z), cost, float(np.linalg.norm(g)), count


def _polish(
    objective: Callable[[FloatArray], tuple[float, FloatArray]],
    point: tuple[FloatArray, float, FloatArray],
    path: "deque[tuple[FloatArray, FloatArray]]",
    max_iterations: int,
    tolerance: float,
) -> tuple[FloatArray, float, FloatArray, int]:
    """Take quasi-Newton steps from ``point`` (with cost and gradient) that lower the gradient.

    ``path`` has the previous points and their gradients, which give the curvature.
    """
    z, cost, g = point
    pairs = [(z1 - z0, g1 - g0) for (z0, g0), (z1, g1) in pairwise(path)]
    n_stalled = 0
    for count in range(max_iterations):
        pairs = [(step, change) for step, change in pairs if step @ change > 0][-_MEMORY:]
        if not pairs or n_stalled == _STALLED or g @ g <= tolerance * cost:
            return z, cost, g, count
        steps, changes = (np.array(each) for each in zip(*pairs, strict=True))
        # Nocedal and Wright, section 7.2: the multiple of the identity that the pairs correct.
        root = np.sqrt(steps[-1] @ changes[-1]) / np.linalg.norm(changes[-1])
        inverse = scipy.optimize.LbfgsInvHessProduct(steps / root, changes * root)
        step = -root * inverse.matvec(root * g)
        cost_there, g_there = objective(z + step)
        pairs.append((step, g_there - g))
        n_stalled += 1
        # Near the optimum of a convex function, a smaller gradient means a lower cost. A step to a
        # larger gradient is not taken, but it corrects the curvature for the next step.
        share = np.sqrt(g_there @ g_there / (g @ g))
        if share < 1:
            z, cost, g = z + step, cost_there, g_there
        if share < 0.5:
            n_stalled = 0
    return z, cost, g, max_iterations


class _Problem:
    """Value, gradient and weighted Gram matrix as sums over blocks of rows."""

    def __init__(
        self,
        loss: LossFunction,
        Phi: RealArray,
        labels: LabelArray,
        n_classes: int,
        penalty: float,
        threads: Threads | None,
        sample_weight: FloatArray | None,
    ) -> None:
        n, q = Phi.shape
        self._weights = sample_weight
        self._loss, self._Phi, self._labels = loss, Phi, labels
        self._threads = threads
        self._slices = [slice(i, min(i + ROWS, n)) for i in range(0, n, ROWS)]
        self._penalty = np.full((q + 1, 1), penalty)
        self._penalty[-1] = 0.0

    def _losses(self, rows: slice, A: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Values, slopes and curvatures of the rows, weighted."""
        outputs = (self._Phi[rows] @ A[:-1].astype(self._Phi.dtype)).astype(np.float64) + A[-1]
        values, slope, curvature = self._loss(outputs, self._labels[rows])
        if self._weights is not None:
            weights = self._weights[rows]
            values, curvature = values * weights, curvature * weights
            slope = slope * weights[:, None]
        return values, slope, curvature

    def value(self, A: FloatArray) -> tuple[float, FloatArray]:
        """Cost and its gradient (q + 1, k)."""
        parts: list[Any] = [None] * len(self._slices)

        def block(number: int) -> None:
            rows = self._slices[number]
            values, slope, _ = self._losses(rows, A)
            by_columns = self._Phi[rows].T @ slope.astype(self._Phi.dtype)
            parts[number] = float(values.sum()), by_columns, slope.sum(axis=0)

        run_tiles(self._threads, block, range(len(parts)))
        cost = 0.5 * float((self._penalty * A**2).sum())
        gradient = self._penalty * A
        for value, by_columns, total in parts:  # in a fixed order
            cost += value
            gradient[:-1] += by_columns
            gradient[-1] += total
        return cost, gradient

    def preconditioner(self, A: FloatArray) -> FloatArray:
        """Upper Cholesky factor of the Gram matrix, each row weighted by its curvature.

        It need not be exact: with many rows, only every second (third, ...) block is summed. The
        Gram matrix may be singular, because of flat rows or linearly dependent columns, so a floor
        is added to its diagonal. The floor is relative to each column. A common floor could exceed
        the square of the constant column, which has no penalty: its gradient would look like zero.
        """
        n, q = self._Phi.shape
        gram = np.zeros((q + 1, q + 1))
        step = max(1, n // max(ROWS_FOR_GRAM * q, ROWS))
        chosen = self._slices[::step]
        for rows in chosen:
            weights = 1.0 if self._weights is None else self._weights[rows]
            curvature = self._losses(rows, A)[2] + _FLAT * weights
            root = np.sqrt(curvature).astype(self._Phi.dtype)[:, None]
            add_gram(gram, np.concatenate([root * self._Phi[rows], root], axis=1), self._threads)
        gram *= n / sum(rows.stop - rows.start for rows in chosen)
        squares = np.diag(gram)
        # For a column of zeros, or rows without weight, any positive number will do.
        return definite_factor(
            gram, self._penalty[:, 0], np.where(squares > 0, _FLAT * squares, 1.0)
        )
