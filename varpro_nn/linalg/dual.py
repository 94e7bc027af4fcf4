r"""Ridge regression with more columns than rows, for every ridge at once, in its dual form.

``Phi`` (n, q) and ``tau`` (n, k) are centred by their means, which is what leaving the constant
column unpenalised amounts to. For them the push-through identity

    (Phi' Phi + lam I_q)^-1 Phi' = Phi' (Phi Phi' + lam I_n)^-1

turns the normal equations of ``varpro_nn.linalg.ridge`` into those of the kernel matrix
``Phi Phi' = V diag(e) V'`` (n, n), whose size does not depend on the number of columns:

    alpha(lam) = V diag(1 / (e + lam)) V'tau,     A(lam) = Phi' alpha(lam),
    r(lam)     = V diag(lam / (e + lam)) V'tau,   1 - h_i(lam) = sum_j V_ij^2 lam / (e_j + lam),

where ``V`` is without the constant vector, whose share of ``h_i`` is ``1 / n``. The residual of
image i in a fit without it is ``r_i / (1 - h_i)``, exactly. With many columns and a small ridge,
nearly all rows are interpolated; even then these formulas subtract no numbers close to each other.
Both follow from the kernel matrix alone. So one pass over blocks of columns, all rows of some
columns at a time, gives the matrix. One factorisation gives the solutions and the leave-one-out
errors of all ridges. A second pass over the columns gives ``A`` for the chosen ridge. ``Phi`` is
never stored as a whole.

The products run in the type of the columns that are handed in (centred first, which keeps their
entries small); sums and solves are double. The work is cut into tiles that do not depend on the
number of threads, each computed by one thread of BLAS, so the result is bitwise the same for any
number of them.

References
----------
Saunders, Gammerman and Vovk, Ridge regression learning algorithm in dual variables, 1998.
The same matrix equality for random features in blocks, without a constant column: "Using a matrix
equality for (small-scale) image classification".
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.linalg.ridge import (
    LeaveOneOut,
    add_gram,
    column_tiles,
    eigenvalue_rounding,
    left_out_errors,
    product_over_rows,
    run_tiles,
    shrinkage,
)
from varpro_nn.linalg.threads import Threads

MEMORY_BUDGET = 4 * 2**30
"""Bytes that the kernel matrix and its eigenvectors may take together: 16384 rows."""

_MARGIN = 4
"""Rounding errors of a kernel matrix are up to 2.6 times as large as estimated (measured).

Images differ in their squares more than columns do.
"""

_USED_UP = "path() has used this accumulator up; take the columns in with a new one."


@dataclass(frozen=True, slots=True, eq=False)
class DualPath:
    """Ridge regression in dual form for every ridge, from one eigendecomposition.

    A ridge is in the squared units of ``Phi``, dual coefficients in those of ``tau`` over a
    ridge, and the linear weights in those of ``tau`` over ``Phi``.

    Attributes
    ----------
    eigenvalues : ndarray, shape (n,)
        Of the centred kernel matrix, ascending; those of the centred Gram matrix and zeros.
    eigenvectors : ndarray, shape (n, n)
        Centred: orthonormal, but for the part of the constant vector that was taken out.
    projected_targets : ndarray, shape (n, k)
        ``V'tau`` of the centred targets.
    tau : ndarray, shape (n, k)
        Targets.
    mean_tau : ndarray, shape (k,)
    n_columns : int
        Columns that were taken in, q, without the constant column.
    precision : float
        Relative rounding error of the products: that of the coarsest type of a block.
    rounding : float
        Rounding error of the eigenvalues, as in ``RidgePath``.
    """

    eigenvalues: FloatArray
    eigenvectors: FloatArray
    projected_targets: FloatArray
    tau: FloatArray
    mean_tau: FloatArray
    n_columns: int
    precision: float
    rounding: float

    def alpha(self, ridge: float) -> FloatArray:
        """Dual coefficients for one ridge, (n, k): the weights of the rows in ``A``.

        Parameters
        ----------
        ridge : float
            ``lam``. Directions at the level of rounding get nothing. If 0, ``A`` has the minimum
            norm.

        Returns
        -------
        ndarray, shape (n, k)

        Raises
        ------
        ValueError
            If the ridge is negative or not finite.
        """
        return self.eigenvectors @ (self._shrinkage(ridge)[:, None] * self.projected_targets)

    def weights(
        self, blocks: Iterable[RealArray], ridge: float, threads: Threads | None = None
    ) -> FloatArray:
        """Linear weights for one ridge by one more pass over the columns.

        Parameters
        ----------
        blocks : iterable of ndarray of float, shape (n, b)
            The same columns that were taken in, in any blocks and in the order that the rows of
            ``A`` are to have; each is overwritten and not kept.
        ridge : float
        threads : Threads, optional
            Threads that share the columns.

        Returns
        -------
        ndarray, shape (q + 1, k)
            ``A``; the row of the constant column is last.

        Raises
        ------
        ValueError
            If a block does not have n rows, the blocks do not have q columns in all, or the
            ridge is negative or not finite.
        TypeError
            If a block is not of a float type.

        Notes
        -----
        Where the rows outnumber the columns, the part of ``tau`` that no column explains is in
        ``alpha`` divided by the ridge, and cancels here up to the rounding of the columns' type:
        a small ridge then asks for double precision, or better for ``RidgePath``.
        """
        alpha = self.alpha(ridge)
        A = np.zeros((self.n_columns + 1, alpha.shape[1]))
        A[-1] = self.mean_tau
        stop = 0
        for Phi in blocks:
            check_block(Phi, len(alpha))
            start, stop = stop, stop + Phi.shape[1]
            if stop > self.n_columns:
                break
            mean = centre(Phi, threads)
            slopes = A[start:stop]
            _add_transposed_product(Phi, alpha.astype(Phi.dtype), slopes, threads)
            A[-1] -= mean @ slopes
        if stop != self.n_columns:
            msg = f"the blocks must have the {self.n_columns} columns taken in, got {stop}."
            raise ValueError(msg)
        return A

    @property
    def rank(self) -> int:
        """Directions of the columns that are above rounding; n - 1 at most."""
        return int(np.count_nonzero(self.eigenvalues > self.rounding))

    @property
    def bounds_of_ridges(self) -> tuple[float, float]:
        """The ridges between which the fit changes, as in ``RidgePath``."""
        return self.rounding, 10 * float(self.eigenvalues.sum())

    def degrees_of_freedom(self, ridge: float) -> float:
        """Trace of the hat matrix, the constant column included.

        Raises
        ------
        ValueError
            If the ridge is negative or not finite.
        """
        return float(1.0 + self.eigenvalues @ self._shrinkage(ridge))

    def leave_one_out(self, ridges: ArrayLike, threads: Threads | None = None) -> LeaveOneOut:
        """Leave-one-out errors of all ``ridges``; no column is needed again.

        Parameters
        ----------
        ridges : array_like, shape (g,)
        threads : Threads, optional
            Threads that share the rows.

        Returns
        -------
        LeaveOneOut

        Raises
        ------
        ValueError
            If a ridge is negative or not finite.

        Notes
        -----
        As in ``RidgePath``, a row that is fitted exactly has an infinite error and is wrong: all
        rows, with a ridge of 0 and columns enough. A positive ridge, however small, has the error
        that it leads to, down to the rounding of the columns' type.
        """
        ridges = np.asarray(ridges, dtype=np.float64)
        n, k = self.tau.shape
        shrunk = np.stack([self._shrinkage(ridge) for ridge in ridges], axis=1)  # (n, g)
        # lam / (e + lam): what 1 - e / (e + lam) is, without the cancellation where lam << e.
        left_share = np.where(shrunk > 0, ridges * shrunk, 1.0)
        # Residuals for all ridges side by side: (n, g * k), one product a tile of rows.
        coefficients = left_share[:, :, None] * self.projected_targets[:, None, :]
        coefficients = coefficients.reshape(n, -1)
        squared = np.empty((n, len(ridges)))
        wrong = np.empty((n, len(ridges)), dtype=np.bool_)
        outputs = np.empty((n, len(ridges), k), dtype=np.float32)

        def one_tile(rows: slice) -> None:
            V = self.eigenvectors[rows]
            residual = (V @ coefficients).reshape(len(V), len(ridges), k)
            rest = np.square(V) @ left_share  # 1 - h
            alone = rest <= self.precision
            # Divided here, by 1 - h itself: from h it would have the digits that are left of 1.
            residual /= np.where(alone, 1.0, rest)[..., None]
            outputs[rows] = self.tau[rows, None, :] - residual
            outputs[rows][alone] = np.nan
            squared[rows], wrong[rows] = left_out_errors(
                residual, self.tau[rows, None, :], alone.astype(np.float64), self.precision
            )

        run_tiles(threads, one_tile, column_tiles(n))
        return LeaveOneOut(squared.mean(axis=0), wrong.mean(axis=0), np.arange(n), outputs)

    def _shrinkage(self, ridge: float) -> FloatArray:
        if not 0 <= ridge < np.inf:
            msg = f"ridge must be finite and not negative, got {ridge}."
            raise ValueError(msg)
        # A direction of rounding error would get coefficients that cancel in the linear weights
        # only up to rounding.
        return shrinkage(self.eigenvalues, ridge, self.rounding)


def check_block(Phi: RealArray, n_rows: int) -> None:
    """Raise if ``Phi`` is no float array (n_rows, b)."""
    # Without it a block of one row would be broadcast, and further rows be cut off.
    if Phi.ndim != 2 or len(Phi) != n_rows:
        msg = f"a block of columns must have shape ({n_rows}, b), got {Phi.shape}."
        raise ValueError(msg)
    if not np.issubdtype(Phi.dtype, np.floating):
        msg = f"a block of columns must be of a float type, got {Phi.dtype}."
        raise TypeError(msg)


def centre(Phi: RealArray, threads: Threads | None) -> FloatArray:
    """Centre the columns in place, by means (b,) rounded to their type; return the means."""
    mean = np.empty(Phi.shape[1])

    def one_tile(tile: slice) -> None:
        mean[tile] = Phi[:, tile].mean(axis=0, dtype=np.float64)
        Phi[:, tile] -= mean[tile].astype(Phi.dtype)

    run_tiles(threads, one_tile, column_tiles(Phi.shape[1]))
    return mean


def _add_transposed_product(
    left: RealArray, right: RealArray, out: FloatArray, threads: Threads | None
) -> None:
    """``out += left' right``, its rows shared among threads."""

    def one_tile(columns: slice) -> None:
        out[columns] += product_over_rows(left[:, columns], right)

    run_tiles(threads, one_tile, column_tiles(left.shape[1]))


class KernelAccumulator:
    """The sum over blocks of columns from which a ridge regression in dual form follows.

    Parameters
    ----------
    n_rows : int
        Rows of ``Phi``, n: every block has all of them, in the same order.

    Raises
    ------
    ValueError
        If there is no row, or if two (n, n) arrays in double precision, the kernel matrix and
        its eigenvectors, exceed ``MEMORY_BUDGET`` bytes; nothing has been allocated then.

    Notes
    -----
    Up to rounding, the kernel matrix does not depend on the order of the columns or on their
    blocks.
    """

    def __init__(self, n_rows: int) -> None:
        if n_rows < 1:
            msg = f"a ridge regression needs at least one row, got n_rows={n_rows}."
            raise ValueError(msg)
        n_bytes = 2 * 8 * n_rows**2
        if n_bytes > MEMORY_BUDGET:
            msg = (
                f"the dual form for {n_rows} rows needs {n_bytes} bytes for the kernel matrix and "
                f"its eigenvectors, and the budget is {MEMORY_BUDGET} bytes; give it fewer rows, "
                "or use GramAccumulator, whose size is that of the columns."
            )
            raise ValueError(msg)
        self._n_rows = n_rows
        self._tiles = column_tiles(n_rows)  # the kernel matrix has a column for each row of Phi
        self._kernel: FloatArray | None = np.zeros((n_rows, n_rows))  # upper tiles alone are filled
        self._n_columns = 0
        self._precision = float(np.finfo(np.float64).eps)

    def add(self, Phi: RealArray, threads: Threads | None = None) -> None:
        """Take in a block of columns.

        Parameters
        ----------
        Phi : ndarray of float, shape (n, b)
            All rows of ``b`` columns, of any float type: the products run in it. It is used as
            work space and overwritten, and may be used again: no reference to it is kept.
        threads : Threads, optional
            Threads that share the tiles. None: one tile after the other.

        Raises
        ------
        ValueError
            If the block does not have n rows, or ``path`` has used the accumulator up.
        TypeError
            If the block is not of a float type.
        """
        kernel = self._kernel
        if kernel is None:
            raise ValueError(_USED_UP)
        check_block(Phi, self._n_rows)
        centre(Phi, threads)
        add_gram(kernel, Phi.T, threads)
        self._n_columns += Phi.shape[1]
        self._precision = max(self._precision, float(np.finfo(Phi.dtype).eps))

    def path(self, tau: ArrayLike) -> DualPath:
        """Factorise what has been taken in; the accumulator is used up.

        Parameters
        ----------
        tau : array_like, shape (n, k)
            Targets, copied.

        Returns
        -------
        DualPath

        Raises
        ------
        ValueError
            If no column has been taken in, an entry of a column is not finite or too large for
            its type, ``tau`` does not have n rows, or the accumulator has been used up before.
        """
        tau = np.array(tau, dtype=np.float64)
        if tau.ndim != 2 or len(tau) != self._n_rows:
            msg = f"tau must have shape ({self._n_rows}, k), got {tau.shape}."
            raise ValueError(msg)
        if self._n_columns == 0:
            msg = "a ridge regression in dual form needs at least one column, got none."
            raise ValueError(msg)
        kernel, self._kernel = self._kernel, None  # LAPACK overwrites it, and then it is freed
        if kernel is None:
            raise ValueError(_USED_UP)
        self._centre_kernel(kernel)
        if not np.isfinite(np.trace(kernel)):  # one bad entry of Phi is in the sum of its row
            msg = "the columns must be finite, and so must their squares in the type they have."
            raise ValueError(msg)
        # The transpose is in the memory order of LAPACK, and its lower triangle is filled. This
        # driver needs no more than the eigenvectors beside it; "evd" would take two (n, n) more.
        eigenvalues, V = scipy.linalg.eigh(
            kernel.T, lower=True, overwrite_a=True, check_finite=False, driver="evr"
        )
        # Take the constant vector out: it has no share in a centred fit, but is in the null space.
        V -= V.mean(axis=0)
        mean_tau = tau.mean(axis=0)
        return DualPath(
            eigenvalues=np.maximum(eigenvalues, 0.0),
            eigenvectors=V,
            projected_targets=V.T @ (tau - mean_tau),
            tau=tau,
            mean_tau=mean_tau,
            n_columns=self._n_columns,
            precision=self._precision,
            # The sum of the eigenvalues is that of the diagonal.
            rounding=eigenvalue_rounding(
                eigenvalues, np.maximum(eigenvalues, 0.0), self._precision, _MARGIN
            ),
        )

    def _centre_kernel(self, kernel: FloatArray) -> None:
        """Remove the rest of the means, which were rounded to the type of the columns."""
        sums = np.zeros(self._n_rows)
        for i, upper in enumerate(self._tiles):
            for other in self._tiles[i:]:
                sums[upper] += kernel[upper, other].sum(axis=1)
                if other != upper:
                    sums[other] += kernel[upper, other].sum(axis=0)
        means = sums / self._n_rows
        half = means - means.mean() / 2
        for upper in self._tiles:
            kernel[upper] -= half[upper, None]
            kernel[upper] -= half
