r"""Ridge regression with more columns than rows, for every ridge at once, in its dual form.

``Phi`` (n, q) and ``tau`` (n, k) are centred by their means, which is what leaving the constant
column unpenalised amounts to. For them the push-through identity

    (Phi' Phi + lam I_q)^-1 Phi' = Phi' (Phi Phi' + lam I_n)^-1

turns the normal equations of ``varpro_nn.linalg.ridge`` into those of the kernel matrix
``Phi Phi' = V diag(e) V'`` (n, n), whose size does not depend on the number of columns:

    alpha(lam) = V diag(1 / (e + lam)) V'tau,     A(lam) = Phi' alpha(lam),
    r(lam)     = V diag(lam / (e + lam)) V'tau,   1 - h_i(lam) = sum_j V_ij^2 lam / (e_j + lam),

where ``V`` is without the constant vector, whose share of ``h_i`` is ``1 / n``. The residual of
image i in a fit that never saw it is ``r_i / (1 - h_i)``, exactly; neither is a difference of
numbers close to each other, as it would be where nearly all rows are interpolated, which is where
a small ridge leads with many columns. Both follow from the kernel matrix alone. So one pass over
blocks of columns, all rows of some columns at a time, gives the sum, one factorisation solves for
all ridges with their leave-one-out errors, and a second pass over the columns gives ``A`` for the
ridge that was chosen. ``Phi`` as a whole never exists.

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
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.linalg.ridge import LeaveOneOut, column_tiles, left_out_errors, run_tiles


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
    """

    eigenvalues: FloatArray
    eigenvectors: FloatArray
    projected_targets: FloatArray
    tau: FloatArray
    mean_tau: FloatArray
    n_columns: int
    precision: float

    def alpha(self, ridge: float) -> FloatArray:
        """Dual coefficients for one ridge, (n, k): the weights of the rows in ``A``.

        Parameters
        ----------
        ridge : float
            ``lam``. If 0, directions at the level of rounding get nothing, so that ``A`` has
            the minimum norm.

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
        self, blocks: Iterable[RealArray], ridge: float, executor: Executor | None = None
    ) -> FloatArray:
        """Linear weights for one ridge by one more pass over the columns.

        Parameters
        ----------
        blocks : iterable of ndarray of float, shape (n, b)
            The same columns that were taken in, in any blocks and in the order that the rows of
            ``A`` are to have; each is overwritten and not kept.
        ridge : float
        executor : concurrent.futures.Executor, optional
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
            mean = centre(Phi, executor)
            slopes = A[start:stop]
            _add_transposed_product(Phi, alpha.astype(Phi.dtype), slopes, executor)
            A[-1] -= mean @ slopes
        if stop != self.n_columns:
            msg = f"the blocks must have the {self.n_columns} columns taken in, got {stop}."
            raise ValueError(msg)
        return A

    @property
    def rank(self) -> int:
        """Directions of the columns that are above rounding; n - 1 at most."""
        # As for the Gram matrix: errors of random signs, of eps times a diagonal entry.
        rounding = self.precision * self.eigenvalues.sum() / np.sqrt(len(self.eigenvalues))
        rounding += 10 * float(np.finfo(np.float64).eps) * self.eigenvalues[-1]
        return int(np.count_nonzero(self.eigenvalues > rounding))

    def degrees_of_freedom(self, ridge: float) -> float:
        """Trace of the hat matrix, the constant column included.

        Raises
        ------
        ValueError
            If the ridge is negative or not finite.
        """
        return float(1.0 + self.eigenvalues @ self._shrinkage(ridge))

    def leave_one_out(self, ridges: ArrayLike, executor: Executor | None = None) -> LeaveOneOut:
        """Leave-one-out errors of all ``ridges``; no column is needed again.

        Parameters
        ----------
        ridges : array_like, shape (g,)
        executor : concurrent.futures.Executor, optional
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
        shrinkage = np.stack([self._shrinkage(ridge) for ridge in ridges], axis=1)  # (n, g)
        # lam / (e + lam): what 1 - e / (e + lam) is, without the cancellation where lam << e.
        left_share = np.where(ridges > 0, ridges * shrinkage, shrinkage == 0)
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

        run_tiles(executor, one_tile, column_tiles(n))
        return LeaveOneOut(squared.mean(axis=0), wrong.mean(axis=0), np.arange(n), outputs)

    def _shrinkage(self, ridge: float) -> FloatArray:
        if not 0 <= ridge < np.inf:
            msg = f"ridge must be finite and not negative, got {ridge}."
            raise ValueError(msg)
        if ridge > 0:
            return 1 / (self.eigenvalues + ridge)
        # Without a ridge a direction that the rows do not excite, but for rounding, gets nothing.
        noise = len(self.eigenvalues) * self.precision
        excited = self.eigenvalues > noise * self.eigenvalues[-1]
        return np.divide(1.0, self.eigenvalues, out=np.zeros_like(self.eigenvalues), where=excited)


def check_block(Phi: RealArray, n_rows: int) -> None:
    """Raise if ``Phi`` is no float array (n_rows, b)."""
    # Without it a block of one row would be broadcast, and further rows be cut off.
    if Phi.ndim != 2 or len(Phi) != n_rows:
        msg = f"a block of columns must have shape ({n_rows}, b), got {Phi.shape}."
        raise ValueError(msg)
    if not np.issubdtype(Phi.dtype, np.floating):
        msg = f"a block of columns must be of a float type, got {Phi.dtype}."
        raise TypeError(msg)


def centre(Phi: RealArray, executor: Executor | None) -> FloatArray:
    """Centre the columns in place, by means (b,) rounded to their type; return the means."""
    mean = np.empty(Phi.shape[1])

    def one_tile(tile: slice) -> None:
        mean[tile] = Phi[:, tile].mean(axis=0, dtype=np.float64)
        Phi[:, tile] -= mean[tile].astype(Phi.dtype)

    run_tiles(executor, one_tile, column_tiles(Phi.shape[1]))
    return mean


def _add_transposed_product(
    left: RealArray, right: RealArray, out: FloatArray, executor: Executor | None
) -> None:
    """``out += left' right``, its rows shared among threads; the sum over tiles is double."""

    def one_tile(columns: slice) -> None:
        for rows in column_tiles(len(left)):
            out[columns] += left[rows, columns].T @ right[rows]

    run_tiles(executor, one_tile, column_tiles(left.shape[1]))
