"""The kernel matrix of a dual ridge regression, as a sum over blocks of columns."""

from concurrent.futures import Executor

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.linalg.dual import DualPath, centre, check_block
from varpro_nn.linalg.ridge import add_gram, column_tiles

MEMORY_BUDGET = 4 * 2**30
"""Bytes that the kernel matrix and its eigenvectors may take together: 16384 rows."""

_USED_UP = "path() has used this accumulator up; take the columns in with a new one."


class KernelAccumulator:
    """The sum over blocks of columns from which a ridge regression in dual form follows.

    Parameters
    ----------
    n_rows : int
        Rows of ``Phi``, n: every block has all of them, in the same order.
    executor : concurrent.futures.Executor, optional
        Threads that share the tiles. None: one tile after the other.

    Raises
    ------
    ValueError
        If there is no row, or if two (n, n) arrays in double precision, the kernel matrix and
        its eigenvectors, exceed ``MEMORY_BUDGET`` bytes; nothing has been allocated then.

    Notes
    -----
    The kernel matrix does not depend on the order of the columns, nor on how they are cut into
    blocks, but for rounding.
    """

    def __init__(self, n_rows: int, executor: Executor | None = None) -> None:
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
        self._executor = executor
        self._kernel: FloatArray | None = np.zeros((n_rows, n_rows))  # upper tiles alone are filled
        self._n_columns = 0
        self._precision = float(np.finfo(np.float64).eps)

    def add(self, Phi: RealArray) -> None:
        """Take in a block of columns.

        Parameters
        ----------
        Phi : ndarray of float, shape (n, b)
            All rows of ``b`` columns, of any float type: the products run in it. It is used as
            work space and overwritten, and may be used again: no reference to it is kept.

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
        centre(Phi, self._executor)
        add_gram(kernel, Phi.T, self._executor)
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
        eigenvalues, V = linalg.eigh(
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
        )

    def _centre_kernel(self, kernel: FloatArray) -> None:
        """Take out what is left of the means, which were rounded to the type of the columns."""
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
