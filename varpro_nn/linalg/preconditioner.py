"""Preconditioners of the linear layer's Newton steps: one Gram matrix for all outputs, or each.

Of many rows, :func:`drawn_by_weight` chooses those that a Gram matrix is made of.
"""

from dataclasses import dataclass

import numpy as np
import scipy

from varpro_nn._typing import FloatArray, IndexArray, RealArray


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """``M = (factor diag(pivots))' (factor diag(pivots))``, an approximation of a Gram matrix.

    Of many columns, reading the factor takes all the time, so it is in single precision. Its pivots
    are 1, so that nothing in it is too small: an entry is at most the root of the largest ratio of
    a diagonal entry of the Gram matrix to its square pivot, 1e3.

    Attributes
    ----------
    factor : ndarray of float32, shape (q + 1, q + 1)
        Upper triangular.
    pivots : ndarray of float64, shape (q + 1,)
    """

    factor: RealArray
    pivots: FloatArray

    @classmethod
    def of(cls, R: FloatArray) -> "Factor":
        """Take over an upper Cholesky factor, which is used up."""
        pivots = np.diag(R).copy()
        R /= pivots
        return cls(R.astype(np.float32, order="F"), pivots)

    def solve(self, B: FloatArray) -> FloatArray:
        """Solve ``M X = B``, both (q + 1, m)."""
        scaled = B / self.pivots[:, None]
        size = float(np.abs(scaled).max(initial=0.0)) or 1.0
        right = (scaled / size).astype(self.factor.dtype)
        solved = scipy.linalg.cho_solve((self.factor, False), right, check_finite=False)
        return solved.astype(np.float64) * (size / self.pivots[:, None])


@dataclass(frozen=True, slots=True, eq=False)
class Preconditioner:
    """Factors that stand for the Hessian: one for all outputs, or one for each.

    Attributes
    ----------
    factors : tuple of Factor
        One, or ``k``.
    """

    factors: tuple[Factor, ...]

    @property
    def is_by_output(self) -> bool:
        """Whether each output has a factor of its own."""
        return len(self.factors) > 1

    def solve(self, B: FloatArray) -> FloatArray:
        """Solve ``M X = B``, both (q + 1, k); the constant column's row of ``X`` has the mean 0.

        A number that is added to all outputs changes no loss, and has no penalty in that row.
        """
        if not self.is_by_output:
            return self.factors[0].solve(B)
        columns = zip(self.factors, B.T, strict=True)
        X = np.column_stack([factor.solve(column[:, None]) for factor, column in columns])
        X[-1] -= X[-1].mean()
        return X


def drawn_by_weight(weights: FloatArray, size: int) -> tuple[IndexArray, FloatArray]:
    """Choose about ``size`` of many weighted rows, and weights with which they stand for all.

    A row is chosen at the rate ``p = min(1, c w)``, where ``c`` is such that the rates sum to
    ``size``, and then has the weight ``w / p``. Rows with ``p = 1``, which make most of a sum, are
    all chosen. The others are chosen at equal steps of the cumulative sum of ``p``, so nothing is
    random (systematic sampling).

    Parameters
    ----------
    weights : ndarray, shape (n,)
        Not negative.
    size : int
        Number of rows to choose, to within one.

    Returns
    -------
    rows : ndarray of int, shape (m,)
        Ascending. All rows with a weight if there are no more than ``size``. Rows with less than
        1e-100 of the largest weight count as rows without one.
    weights : ndarray, shape (m,)
    """
    # Rows of next to no weight would make c overflow.
    rows = np.flatnonzero(weights > 1e-100 * weights.max(initial=0.0))
    weights = weights[rows]
    if len(rows) <= size:
        return rows, weights
    p = weights / weights.max()
    ascending = np.partition(p, len(p) - size)
    largest = np.sort(ascending[-size:])[::-1]
    # With the m largest always chosen, c is such that the p of the others sum to size - m.
    rest = ascending[:-size].sum() + np.cumsum(largest[::-1])[::-1]
    c = (size - np.arange(size)) / rest
    certain = int(np.argmax(c * largest <= 1))  # the first m whose next row is not certain
    p *= c[certain]
    np.minimum(p, 1.0, out=p)
    steps = np.cumsum(p)
    steps += 0.5
    np.floor(steps, out=steps)
    drawn = np.flatnonzero(np.diff(steps, prepend=0.0))
    return rows[drawn], weights[drawn] / p[drawn]
