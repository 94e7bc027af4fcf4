"""A ridge regression with fewer rows than columns: the rows themselves are what is kept.

They take less memory than the sums over them, and a row that is taken out is gone to the last bit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from varpro_nn._typing import FloatArray, IndexArray, RealArray
from varpro_nn.linalg.gram import GramAccumulator
from varpro_nn.linalg.ridge import ROWS, RidgePath, spread
from varpro_nn.linalg.threads import Threads

_ROUNDING = 100
"""Units of the last digit, relative to a row, by which features made in other blocks may differ."""


class RowStore:
    """Rows of ``Phi`` and ``tau``; a change gives another store, and leaves this one as it is.

    Parameters
    ----------
    Phi : ndarray, shape (n, q)
    tau : ndarray of float64, shape (n, k)
    """

    def __init__(self, Phi: RealArray, tau: FloatArray) -> None:
        self._Phi, self._tau = Phi, tau

    @property
    def n_columns(self) -> int:
        """Columns of ``Phi``, without the constant column."""
        return self._Phi.shape[1]

    @property
    def n_targets(self) -> int:
        """Columns of ``tau``."""
        return self._tau.shape[1]

    @property
    def sum_weights(self) -> float:
        """Number of rows."""
        return float(len(self._Phi))

    @property
    def sum_tau(self) -> FloatArray:
        """Sum of the rows of ``tau``, (k,)."""
        return self._tau.sum(axis=0)

    def added(self, Phi: RealArray, tau: FloatArray) -> "RowStore":
        """Append rows."""
        return RowStore(np.concatenate([self._Phi, Phi]), np.concatenate([self._tau, tau]))

    def find(self, Phi: RealArray, tau: FloatArray) -> IndexArray:
        """Find the given rows, up to rounding; each row of the store is found at most once.

        Returns
        -------
        ndarray of int, shape (b,)
            Their positions.

        Raises
        ------
        ValueError
            One of them is not there.
        """
        free = np.ones(len(self._Phi), dtype=bool)
        tolerance = _ROUNDING * np.finfo(Phi.dtype).eps
        found = []
        for number, (phi, target) in enumerate(zip(Phi, tau, strict=True)):
            alike = np.flatnonzero(free & (self._tau == target).all(axis=1))
            distances = np.linalg.norm(self._Phi[alike] - phi, axis=1)
            nearest = int(np.argmin(distances)) if len(alike) else -1
            if nearest < 0 or distances[nearest] > tolerance * np.linalg.norm(phi):
                msg = f"images must be among those taken in, got others: number {number} is not."
                raise ValueError(msg)
            found.append(alike[nearest])
            free[found[-1]] = False
        return np.array(found, dtype=np.int64)

    def without_rows(self, positions: IndexArray) -> "RowStore":
        """Take the rows at those positions out."""
        return RowStore(
            np.delete(self._Phi, positions, axis=0), np.delete(self._tau, positions, axis=0)
        )

    def of_columns(self, columns: IndexArray) -> "RowStore":
        """Keep the columns at those positions, in that order, and drop the others."""
        return RowStore(np.ascontiguousarray(self._Phi[:, columns]), self._tau)

    def with_columns(self, positions: IndexArray, Phi: RealArray, order: IndexArray) -> "RowStore":
        """Append columns of all rows, ``Phi`` (n, q_new) being those of the rows ``positions``.

        Then all columns are put into ``order``.
        """
        wider = np.concatenate([self._Phi, np.empty_like(Phi)], axis=1)
        wider[positions, self.n_columns :] = Phi
        return RowStore(wider[:, order], self._tau)

    def sums(self, threads: Threads | None = None) -> GramAccumulator:
        """Sum over the rows, block by block; threads share the work."""
        sums = GramAccumulator(self.n_columns, self.n_targets)
        for start in range(0, len(self._Phi), ROWS):
            rows = slice(start, start + ROWS)
            sums.add(self._Phi[rows].copy(), self._tau[rows], threads=threads)
        return sums

    def path(self, *, standardise: bool = False) -> RidgePath:
        """Factorise the rows by a singular value decomposition, in double precision.

        Parameters
        ----------
        standardise : bool
            Let the ridge act on columns scaled to variance 1.

        Returns
        -------
        RidgePath
            Of ``min(n, q)`` eigenvalues; the null space holds those of them alone that are zero.

        Raises
        ------
        ValueError
            There is no row.
        """
        if not len(self._Phi):
            msg = "a ridge regression needs at least one row of positive weight, got none."
            raise ValueError(msg)
        Phi = self._Phi.astype(np.float64)
        mean_Phi, mean_tau = Phi.mean(axis=0), self._tau.mean(axis=0)
        Phi -= mean_Phi
        scale = np.ones(self.n_columns)
        if standardise:
            scale = 1 / spread(Phi.std(axis=0), mean_Phi)
            Phi *= scale
        tau = self._tau - mean_tau
        U, sigma, Vt = scipy.linalg.svd(
            Phi, full_matrices=False, overwrite_a=True, check_finite=False
        )
        U, sigma, V = U[:, ::-1], sigma[::-1], Vt[::-1].T  # ascending, as of an eigenproblem
        eps = float(np.finfo(self._Phi.dtype).eps)
        # The rows were rounded to their type, then centred in double precision. The singular values
        # are off by at most this (Weyl).
        size = np.hypot(np.linalg.norm(sigma), np.sqrt(len(tau)) * np.linalg.norm(mean_Phi * scale))
        rounding = float((eps + 2 * np.finfo(np.float64).eps) * size)
        return RidgePath(
            eigenvalues=sigma**2,
            eigenvectors=V * scale[:, None],
            projected_moments=sigma[:, None] * (U.T @ tau),
            mean_Phi=mean_Phi,
            mean_tau=mean_tau,
            squares_tau=float(np.square(tau).sum()),
            sum_weights=self.sum_weights,
            precision=float(np.finfo(np.float64).eps),
            rounding=rounding**2,
            null_space=V[:, sigma <= rounding],
        )

    def arrays(self) -> dict[str, Any]:
        """Give all that there is as arrays, for a file."""
        return {"Phi": self._Phi, "tau": self._tau}

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, Any], n_columns: int, dtype: np.dtype[Any]
    ) -> "RowStore":
        """Make the rows again that ``arrays`` gave.

        Raises
        ------
        KeyError, ValueError
            An array is missing, not finite, or of a shape or type that it should not have.
        """
        Phi, tau = arrays["Phi"], arrays["tau"]
        if tau.ndim != 2 or tau.shape[1] < 1 or Phi.shape != (len(tau), n_columns):
            msg = f"Phi must be (n, {n_columns}) and tau (n, k), got {Phi.shape} and {tau.shape}."
            raise ValueError(msg)
        if Phi.dtype != dtype or tau.dtype != np.float64:
            msg = f"Phi must be of {dtype} and tau of float64, got {Phi.dtype} and {tau.dtype}."
            raise ValueError(msg)
        if not (np.isfinite(Phi).all() and np.isfinite(tau).all()):
            msg = "Phi and tau must be finite, got NaN or infinity."
            raise ValueError(msg)
        return cls(Phi, tau)
