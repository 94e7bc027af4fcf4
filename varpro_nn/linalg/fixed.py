r"""Columns that do not change, eliminated once from many linear least-squares problems.

Each problem has the columns ``[F, Y]`` (rows weighted), with a ridge ``lam`` on ``F`` (n, f). Let
``F = U diag(sigma) V'`` be its thin singular value decomposition, r its rank. With

    Q = U diag(sigma / sqrt(sigma^2 + lam)),   d = lam / (sigma^2 + lam),
    T = V diag(1 / sqrt(sigma^2 + lam)),

``F T = Q`` and ``lam ||T z||^2 = sum_j d_j z_j^2``. So ``F`` with the ridge ``lam`` can be replaced
by the columns ``Q`` (n, r) with the ridges ``d``, which are orthonormal together with the square
roots of their ridges: ``Q'Q + diag(d) = I``. The first r rows of the triangular factor are known
then: ``[I, Q'Y]``. The rest is that of

    [ Y - Q (Q'Y) ]
    [ - diag(sqrt(d)) (Q'Y) ],

which costs ``4 n r`` operations a column of ``Y``, and no cube of f. Without a ridge, ``Q`` is an
orthonormal basis of the columns and ``d = 0``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy

from varpro_nn._typing import FloatArray
from varpro_nn.linalg.qr import (
    RANK_TOLERANCE,
    LinearSolution,
    StreamingQR,
    least_squares_with_ridge,
)


@dataclass(frozen=True, slots=True, eq=False)
class FixedColumns:
    """Columns that do not change, in their orthonormal basis.

    Attributes
    ----------
    Q : ndarray, shape (n, r)
    ridge : ndarray, shape (r,)
        ``d`` of each column of ``Q``.
    T : ndarray, shape (f, r)
        Turns linear weights of ``Q`` into those of ``F``.
    rank : int
        Numerical rank of ``F`` with its ridge: f, or that of ``F`` without one.
    """

    Q: FloatArray
    ridge: FloatArray
    T: FloatArray
    rank: int

    @classmethod
    def of(
        cls,
        F: FloatArray,
        lam: float,
        rank_tolerance: float = RANK_TOLERANCE,
        *,
        length: float = np.inf,
    ) -> "FixedColumns":
        """Take in weighted columns.

        Parameters
        ----------
        F : ndarray, shape (n, f)
        lam : float
            Ridge of all of them.
        rank_tolerance, length : float
            As in :func:`varpro_nn.linalg.least_squares_with_ridge`, to decide the rank where the
            ridge is zero.
        """
        f, eps = F.shape[1], np.finfo(np.float64).eps
        root = np.sqrt(lam)
        # Errors of the singular values are relative to the largest one, whose square is at most the
        # largest sum of a row of |F| |F|'.
        largest = np.abs(F).max(initial=0.0) or 1.0
        G = np.abs(F) / largest
        bound = largest * np.sqrt((G @ G.sum(axis=0)).max(initial=0.0))
        if root > max(rank_tolerance, np.sqrt(eps)) * bound:
            U, sigma, Vt = scipy.linalg.svd(F, full_matrices=False, check_finite=False)
            # Directions of rounding errors are left out: they have no weights at all.
            r = int(np.count_nonzero(sigma > max(F.shape) * eps * sigma[0]))
            U, sigma, Vt = U[:, :r], sigma[:r], Vt[:r]
            size = np.hypot(sigma, root)
            return cls(U * (sigma / size), (root / size) ** 2, Vt.T / size, f)
        # A factorisation is exact column by column, and decides the rank as one of all columns.
        sums = StreamingQR(f)
        sums.add(F)
        solution = least_squares_with_ridge(sums, np.full(f, lam), rank_tolerance, length=length)
        T = solution.transposed_map(np.eye(f)).T
        both, R = scipy.linalg.qr(
            np.concatenate([F @ T, root * T]), mode="economic", check_finite=False
        )  # orthonormal but for rounding errors of ill-conditioned columns; now altogether
        T = scipy.linalg.solve_triangular(R, T.T, trans="T", check_finite=False).T
        Q, below = both[: len(F)], both[len(F) :]
        d, turn = np.linalg.eigh(below.T @ below)
        some = 1 - d > max(both.shape) * eps
        d, turn = np.clip(d[some], 0.0, 1.0), turn[:, some]
        return cls(Q @ turn, d if lam else np.zeros(len(d)), T @ turn, solution.rank)


@dataclass(frozen=True, slots=True, eq=False)
class SolutionBesideFixed(LinearSolution):
    """A :class:`LinearSolution` whose columns, but for ``n_first`` and the last ones, are ``Q``.

    ``A`` belongs to ``Q``, not to ``F``; the rank counts the columns of ``F``, and the condition is
    that of the others. Without a ridge, fixed columns take all they can: where they span others,
    the fit is not that of least norm.
    """

    _rest: LinearSolution
    _C: FloatArray  # Q'Y without the targets
    _n_first: int

    def transposed_map(self, columns: FloatArray) -> FloatArray:
        """Multiply ``columns`` (q, any) by ``T'``, here ``[[I, 0], [-T_Y' C', T_Y']]``."""
        r, u = len(self._C), self._n_first
        of_Q = columns[u : u + r]
        rest = np.concatenate([columns[:u], columns[u + r :]]) - self._C.T @ of_Q
        return np.concatenate([of_Q, self._rest.transposed_map(rest)])


def least_squares_beside_fixed(
    fixed: FixedColumns,
    blocks: Callable[[], Iterable[tuple[FloatArray, FloatArray, FloatArray]]],
    ridge: FloatArray,
    n_first: int,
    rank_tolerance: float,
    *,
    length: float,
) -> SolutionBesideFixed:
    """Fit the linear weights of ``[Y_first, Q, Y_last]``, the rows of which come in blocks.

    Parameters
    ----------
    fixed : FixedColumns
    blocks : callable
        Gives the blocks of rows anew with each call: ``Q`` (b, r), ``Y`` (b, c) and targets (b, k),
        all weighted.
    ridge : ndarray, shape (c,)
        Of the columns of ``Y``.
    n_first : int
        Columns of ``Y`` before those of ``Q``. They are trained: the longest of them, if it is
        shorter than ``length``, is the yardstick of the rank.
    rank_tolerance, length : float
        As in :func:`varpro_nn.linalg.least_squares_with_ridge`.

    Returns
    -------
    SolutionBesideFixed
    """
    c = ridge.size
    C = sum(Q.T @ np.concatenate([Y, tau], axis=1) for Q, Y, tau in blocks())
    assert isinstance(C, np.ndarray)  # a block has been added
    sums = StreamingQR(C.shape[1])
    for Q, Y, tau in blocks():
        sums.add(np.concatenate([Y, tau], axis=1) - Q @ C)
    sums.add(-np.sqrt(fixed.ridge)[:, None] * C)
    # Rounding errors are relative to the columns before Q was projected off.
    norms = np.hypot(np.linalg.norm(sums.factor, axis=0), np.linalg.norm(C, axis=0))[:c]
    rest = least_squares_with_ridge(
        sums, ridge, rank_tolerance, norms=norms,
        length=min(length, norms[:n_first].max(initial=0.0) or np.inf),
    )  # fmt: skip
    z = C[:, c:] - C[:, :c] @ rest.A
    A = np.concatenate([rest.A[:n_first], z, rest.A[n_first:]])
    return SolutionBesideFixed(
        A, rest.sum_of_squares, rest.rank + fixed.rank, rest.condition, rest._triangle, rest._map,
        rest, C[:, :c], n_first,
    )  # fmt: skip
