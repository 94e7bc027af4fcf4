r"""Fits of n rows with more than n columns through n columns, if the penalty is the norm of ``A``.

Linear weights that minimise ``sum_i loss(A' phi_i) + lam/2 ||A||^2`` are a combination of the rows,
``A = Phi' alpha`` (representer theorem). With the Cholesky factorisation of the kernel matrix,
``Phi Phi' = R'R``, and ``B = R alpha``:

    Phi A = R'B,     ||A||^2 = alpha' Phi Phi' alpha = ||B||^2.

So ``R'`` (n, n) in the place of ``Phi`` (n, q) leads to the same outputs, cost and penalty, for any
loss, any weights of the rows and any part of the rows. All that follows costs as for n columns.

The kernel matrix is singular if columns are centred or rows repeat. Its factorisation then adds a
small number to the diagonal. This acts like a further column for each row, whose only entry is the
square root of that number. With a small penalty, such columns give equal rows different outputs.
The kernel matrix is therefore in double precision, where the added number is small.

References
----------
Schölkopf, Herbrich and Smola, A generalized representer theorem, 2001.
"""

import numpy as np
import scipy

from varpro_nn._io.mapped import release_rows
from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.linalg.ridge import add_gram, column_tiles, definite_factor, run_tiles
from varpro_nn.linalg.threads import Threads

COLUMNS = 1024
"""Columns that are in memory at a time, in double precision: a page of each row of a file."""


class RowSpace:
    """Columns that stand for those of ``Phi``, and the way back to its linear weights.

    Parameters
    ----------
    Phi : ndarray of float, shape (n, q)
        Without the constant column, whose linear weights have no penalty; may be a memory map. It
        is kept, and must not change.
    threads : Threads, optional
        Threads that share the work. The result does not depend on it.

    Attributes
    ----------
    columns : ndarray, shape (n, n)
        ``R'``, in the type of ``Phi``.

    Raises
    ------
    NonFiniteError
        ``Phi Phi'`` is NaN or infinite.
    """

    def __init__(self, Phi: RealArray, threads: Threads | None = None) -> None:
        self._Phi, self._threads = Phi, threads
        n = len(Phi)
        kernel = np.zeros((n, n))
        for columns in self._blocks():
            block = np.ascontiguousarray(Phi[:, columns].T, dtype=np.float64)
            add_gram(kernel, block, threads)
            del block
            release_rows(Phi, slice(0, n))
        squares = np.diag(kernel)
        # Rounding errors of the products. A row of zeros has none, but needs a positive number,
        # too small to look like a column of its own.
        squares = np.where(squares > 0, squares, squares.mean() or 1.0)
        noise = float(np.finfo(np.float64).eps) * squares
        self._R = definite_factor(kernel, np.zeros(n), noise)
        del kernel
        self.columns: RealArray = np.ascontiguousarray(self._R.T, dtype=Phi.dtype)

    def _blocks(self) -> list[slice]:
        q = self._Phi.shape[1]
        return [slice(start, min(start + COLUMNS, q)) for start in range(0, q, COLUMNS)]

    def weights(self, B: FloatArray) -> FloatArray:
        """Turn linear weights of :attr:`columns` into those of ``Phi``.

        Parameters
        ----------
        B : ndarray, shape (n + 1, k)
            The row of the constant column is last.

        Returns
        -------
        ndarray, shape (q + 1, k)
        """
        # Not in single precision: with equal rows, large entries cancel.
        alpha = scipy.linalg.solve_triangular(self._R, B[:-1], check_finite=False)
        A = np.empty((self._Phi.shape[1] + 1, B.shape[1]))
        A[-1] = B[-1]
        for columns in self._blocks():
            block, of_block = self._Phi[:, columns], A[columns]

            def one_tile(tile: slice, block: RealArray = block, out: FloatArray = of_block) -> None:
                out[tile] = block[:, tile].T.astype(np.float64) @ alpha  # Phi' R^-1 B

            run_tiles(self._threads, one_tile, column_tiles(block.shape[1]))
            release_rows(self._Phi, slice(0, len(alpha)))
        return A
