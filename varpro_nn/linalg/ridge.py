r"""Ridge regression on many rows, for every ridge at once, with exact leave-one-out errors.

The columns of ``Phi`` (n, q) and of ``tau`` (n, k) are centred by their weighted means, which
is what leaving the constant column unpenalised amounts to. With sample weights ``v`` (1 unless
given), the eigendecomposition of the centred Gram matrix ``Phi' diag(v) Phi = V diag(e) V'`` and
``b = Phi' diag(v) tau``, for any ridge ``lam``

    A(lam)   = V diag(1 / (e + lam)) V'b,
    h_i(lam) = v_i (1 / sum(v) + sum_j psi_ij^2 / (e_j + lam)),   psi_i = V' phi_i,

and the residual of image i in a fit that never saw it is ``r_i / (1 - h_i)``, exactly. So one
pass over the rows gives the sums, one factorisation solves for all ridges, and a second pass
gives the leave-one-out errors of all of them by three matrix products a block.

The products run in the type of the rows that are handed in (single precision as a rule, after a
shift by the mean of the first block that keeps their entries small); sums and solves are double.
The work is cut into tiles that do not depend on the number of threads, each computed by one
thread of BLAS, so the result is bitwise the same for any number of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg.threads import Threads

TILE = 512
"""Columns of one tile: a product of two tiles is large enough for BLAS, small enough to share."""
ROWS = 4096
"""Maximum number of rows of one product in single precision; their sum is in double precision.

The rounding error of a sum of ``b`` products, relative to the sum of their magnitudes, is at most
``b eps`` and typically about ``sqrt(b) eps / 2``. Here the typical error is at most 64 units of the
last digit, 4e-6, for any number of rows. BLAS sums in several lanes, which makes it smaller.
"""

_PRESENT = 1e-3
"""Entries of a null vector below this are rounding."""

Rows = tuple[RealArray, FloatArray, FloatArray | None]
"""A block: rows of ``Phi`` (b, q), of ``tau`` (b, k), and sample weights (b,) or None."""


def column_tiles(n_columns: int) -> list[slice]:
    """Cut columns into tiles, the same ones whatever the number of threads."""
    return [slice(start, min(start + TILE, n_columns)) for start in range(0, n_columns, TILE)]


def product_over_rows(left: RealArray, right: RealArray) -> FloatArray:
    """Compute ``left' right`` in double precision, by products of at most :data:`ROWS` rows."""
    total = (left[:ROWS].T @ right[:ROWS]).astype(np.float64, copy=False)
    for start in range(ROWS, len(left), ROWS):
        rows = slice(start, start + ROWS)
        total += left[rows].T @ right[rows]
    return total


def run_tiles(threads: Threads | None, task: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Call ``task`` on each item, in threads if there are any; their exceptions are raised here."""
    list(map(task, items) if threads is None else threads.map(task, items))


def spread(deviation: FloatArray, mean: FloatArray) -> FloatArray:
    """Compute divisors that bring columns to variance 1.

    A column that is constant up to rounding gets the divisor 1: if it were scaled up, its rounding
    errors would look like a feature.
    """
    return np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)


def add_gram(gram: FloatArray, rows: RealArray, threads: Threads | None) -> None:
    """Add ``rows' rows`` to ``gram`` (q, q), double: the upper tiles alone are filled."""
    tiles = column_tiles(gram.shape[0])

    def add_pair(pair: tuple[slice, slice]) -> None:
        left, right = pair
        gram[left, right] += product_over_rows(rows[:, left], rows[:, right])

    run_tiles(threads, add_pair, [(a, b) for i, a in enumerate(tiles) for b in tiles[i:]])


def definite_factor(gram: FloatArray, penalty: FloatArray, floor: FloatArray) -> FloatArray:
    """Compute the upper Cholesky factor of a Gram matrix that rounding may have made indefinite.

    ``R'R = gram + diag(max(penalty, floor))``. The floor is multiplied by ten until the matrix is
    positive definite by a margin.

    Parameters
    ----------
    gram : ndarray, shape (q, q)
        Its upper triangle is read.
    penalty : ndarray, shape (q,)
        Not negative.
    floor : ndarray, shape (q,)
        Positive: the rounding error of each diagonal entry of ``gram``. Columns may be of any
        scale.

    Returns
    -------
    ndarray, shape (q, q)
        Its lower triangle is zero.

    Raises
    ------
    NonFiniteError
        ``gram`` is NaN or infinite, as where single precision overflows.

    Notes
    -----
    The pivots ``R_jj^2`` are Schur complements. For a semidefinite matrix plus the floor, each
    pivot is at least the floor. A smaller pivot shows that the errors of ``gram`` exceed the floor,
    and the solution could be arbitrarily wrong. A larger floor damps only directions at the level
    of these errors. The error of ``q`` columns is at most ``q`` times that of an entry, so the
    floor stays below ``10 q`` times its first value.
    """
    if not np.isfinite(gram).all():  # which no floor would end
        msg = "the Gram matrix of the features is NaN or infinite."
        raise NonFiniteError(msg)
    while True:
        matrix = gram.copy(order="F")  # else SciPy copies it once more
        matrix[np.diag_indices_from(matrix)] += np.maximum(penalty, floor)
        try:
            R = scipy.linalg.cholesky(matrix, overwrite_a=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            pass
        else:
            if (np.square(np.diag(R)) >= 0.5 * floor).all():
                return R
        floor = 10 * floor


@dataclass(frozen=True, slots=True, eq=False)
class LeaveOneOut:
    """Leave-one-out errors along a grid of ridges, each of shape (number of ridges,).

    Attributes
    ----------
    mean_squared_error : ndarray
        Weighted mean over rows of the squared norm of the left-out residual.
    error_rate : ndarray
        Weighted share of rows whose left-out output is largest at another column than ``tau``.
    rows : ndarray of int, shape (r,)
        Rows whose outputs are kept.
    outputs : ndarray of float32, shape (r, number of ridges, k)
        Their left-out outputs; NaN where they are not determined.
    """

    mean_squared_error: FloatArray
    error_rate: FloatArray
    rows: NDArray[np.int64]
    outputs: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class RidgePath:
    """Ridge regression for every ridge, from one eigendecomposition.

    Attributes
    ----------
    eigenvalues : ndarray, shape (min(n, q),) or (q,)
        Ascending; those that are left out are zero.
    eigenvectors : ndarray, shape (q, number of eigenvalues)
        Row by row divided by the deviations of the columns, if those are standardised.
    projected_moments : ndarray, shape (number of eigenvalues, k)
        ``V'b``.
    mean_Phi, mean_tau : ndarray, shapes (q,), (k,)
    squares_tau : float
        Weighted sum of squares of the centred targets.
    sum_weights : float
    precision : float
        Relative rounding error of the products that the sums were made of.
    rounding : float
        Rounding error of the eigenvalues. Directions with eigenvalues up to this value do not
        count in the fit, the rank and the degrees of freedom, for any ridge.
    null_space : ndarray, shape (q, number of eigenvalues - rank)
        Eigenvectors of these eigenvalues, for columns of unit variance if they were standardised.
    """

    eigenvalues: FloatArray
    eigenvectors: FloatArray
    projected_moments: FloatArray
    mean_Phi: FloatArray
    mean_tau: FloatArray
    squares_tau: float
    sum_weights: float
    precision: float
    rounding: float
    null_space: FloatArray

    @property
    def rank(self) -> int:
        """Number of directions whose eigenvalues are above rounding error."""
        return len(self.eigenvalues) - self.null_space.shape[1]

    @property
    def bounds_of_ridges(self) -> tuple[float, float]:
        """The ridges between which the fit changes: rounding error, and ten times all eigenvalues.

        A smaller ridge changes no direction above rounding error. A larger ridge leaves less than
        a tenth of any linear weight.
        """
        return self.rounding, 10 * float(self.eigenvalues.sum())

    def redundant_groups(self, groups: NDArray[np.int_]) -> list[int]:
        """Find redundant groups of columns, all of which could be removed together.

        Parameters
        ----------
        groups : ndarray of int, shape (q,)
            The group of each column: the unit that it belongs to, say.

        Returns
        -------
        list of int
            Groups whose columns are all linear combinations (with a constant) of the columns that
            stay, up to rounding. Of several equal groups, the last ones.

        Raises
        ------
        ValueError
            There are fewer rows than columns, so the redundant columns are not unique.
        """
        N = self.null_space
        if len(self.eigenvalues) < len(self.eigenvectors):
            msg = (
                f"which of {len(self.eigenvectors)} columns are redundant is not determined by "
                f"{len(self.eigenvalues)} rows."
            )
            raise ValueError(msg)
        found = []
        for group in np.unique(groups)[::-1]:
            rows = np.flatnonzero(groups == group)
            if N.shape[1] < len(rows):
                continue
            # Combinations that vanish and take this group's columns in every proportion.
            if np.linalg.svd(N[rows], compute_uv=False)[-1] > _PRESENT:
                found.append(int(group))
                N = _without(N, rows)
        return sorted(found)

    def solve(self, ridge: float) -> FloatArray:
        """Linear weights for one ridge, (q + 1, k): the row of the constant column is last."""
        slopes = self.eigenvectors @ (self._shrinkage(ridge)[:, None] * self.projected_moments)
        return np.vstack([slopes, self.mean_tau - self.mean_Phi @ slopes])

    def degrees_of_freedom(self, ridge: float) -> float:
        """Trace of the hat matrix, the constant column included."""
        return float(1.0 + self.eigenvalues @ self._shrinkage(ridge))

    def generalised_cross_validation(self, ridge: float) -> float:
        """Mean squared residual over the squared share of degrees of freedom that is left.

        From the sums alone, without another pass over the rows; what leave-one-out would be if
        all rows had the same leverage (Golub, Heath and Wahba, 1979). Infinite if nothing is left.
        """
        shrunk = self._shrinkage(ridge)
        # |tau|^2 - 2 b'A + A' G A, of which the last two are sums over the eigenvectors.
        explained = (2 * shrunk - self.eigenvalues * shrunk**2) @ np.square(
            self.projected_moments
        ).sum(axis=1)
        left = self.sum_weights - self.degrees_of_freedom(ridge)
        # e / (e + lam) changes by lam rounding / (e + lam)^2, and by the last digit.
        error = ridge * self.rounding * float(shrunk @ shrunk)
        error += float(np.finfo(np.float64).eps) * max(self.sum_weights, len(shrunk))
        if left <= error:
            return np.inf
        # What is below the rounding error of the difference could be anything up to it. As zero, it
        # would make a fit that interpolates look perfect.
        residual = max(self.squares_tau - explained, self.precision * self.squares_tau)
        return float(residual * self.sum_weights / left**2)

    def _shrinkage(self, ridge: float) -> FloatArray:
        return shrinkage(self.eigenvalues, ridge, self.rounding)

    def leave_one_out(
        self,
        blocks: Iterable[Rows],
        ridges: FloatArray,
        threads: Threads | None = None,
        *,
        every: int = 0,
    ) -> LeaveOneOut:
        """Leave-one-out errors of all ``ridges`` by one more pass over the rows.

        Parameters
        ----------
        blocks : iterable of (Phi, tau, sample_weight)
            The same rows that were taken in, in any blocks; each ``Phi`` is overwritten.
        ridges : ndarray, shape (g,)
        threads : Threads, optional
            Threads that share the columns.
        every : int
            Keep the outputs of one row in ``every``, from the first row on; 0: of no row.

        Returns
        -------
        LeaveOneOut
        """
        kept: list[NDArray[np.float32]] = []
        n_rows = 0
        shrunk = np.stack([self._shrinkage(ridge) for ridge in ridges], axis=1)  # (q, g)
        # Coefficients of psi for all ridges side by side: (q, g * k), one product a block.
        k = self.projected_moments.shape[1]
        coefficients = shrunk[:, :, None] * self.projected_moments[:, None, :]
        coefficients = coefficients.reshape(len(shrunk), -1)
        squared = np.zeros(len(ridges))
        wrong = np.zeros(len(ridges))
        V: RealArray | None = None
        for Phi, tau, sample_weight in blocks:
            dtype = Phi.dtype
            if V is None or V.dtype != dtype:
                V = self.eigenvectors.astype(dtype)
            Phi -= self.mean_Phi.astype(dtype)
            psi = _product(Phi, V, threads)
            fitted = (psi @ coefficients.astype(dtype)).reshape(len(tau), len(ridges), -1)
            np.square(psi, out=psi)
            leverage = (psi @ shrunk.astype(dtype)).astype(np.float64) + 1 / self.sum_weights
            weights = np.ones(len(tau)) if sample_weight is None else sample_weight
            leverage *= weights[:, None]
            residual = (tau - self.mean_tau)[:, None, :] - fitted
            noise = float(np.finfo(dtype).eps)
            if every:
                some = slice(-n_rows % every, None, every)
                rest = left_out_residuals(residual[some], leverage[some], noise)
                kept.append((tau[some, None, :] - rest).astype(np.float32))
            n_rows += len(tau)
            errors, missed = left_out_errors(residual, tau[:, None, :], leverage, noise)
            squared += weights @ errors
            wrong += weights @ missed
        outputs = np.concatenate([np.zeros((0, len(ridges), k), np.float32), *kept])
        rows = np.arange(len(outputs)) * every
        return LeaveOneOut(squared / self.sum_weights, wrong / self.sum_weights, rows, outputs)


def eigenvalue_rounding(
    eigenvalues: FloatArray, diagonal: FloatArray, precision: float, margin: float = 1.0
) -> float:
    """Estimate the rounding error of the eigenvalues of a Gram matrix (q, q).

    The errors of its entries are about ``precision sqrt(G_ii G_jj)``, of random signs; the norm of
    such a matrix is about ``precision sum(G_ii) / sqrt(q)``. The eigenvalues, found in double
    precision, add a few units of the last digit of the largest.

    Products of equal columns are equal, and their errors do not cancel. In trials with 5 to 2,000
    columns in the dual form they were up to 80 times as large. The smallest eigenvalue shows such
    errors, because the exact one is not negative. A null space has errors of both signs, so three
    times its magnitude bounds the positive ones too. Columns of few different numbers are an
    exception: their errors reached 7 times this bound.

    Parameters
    ----------
    eigenvalues : ndarray, shape (q,)
        Ascending, as computed: a negative one is rounding error.
    diagonal : ndarray, shape (q,)
        The largest that each ``G_ii`` ever was.
    precision : float
        Relative rounding error of the products.
    margin : float
        How much larger the errors of the entries may be than ``precision`` says.
    """
    rounding = precision * float(diagonal.sum()) / np.sqrt(len(diagonal))
    rounding += 10 * float(np.finfo(np.float64).eps) * max(float(eigenvalues[-1]), 0.0)
    return max(margin * float(rounding), -3 * float(eigenvalues[0]))


def shrinkage(eigenvalues: FloatArray, ridge: float, rounding: float) -> FloatArray:
    """Compute ``1 / (e + lam)``; 0 for directions of rounding error.

    Parameters
    ----------
    eigenvalues : ndarray, shape (any,)
        Not negative.
    ridge : float
        ``lam``.
    rounding : float
        Rounding error of the eigenvalues of a Gram matrix. In a direction whose eigenvalue is no
        larger, the moments ``V'Phi'tau`` are errors as well: a small ridge would divide them by
        itself, and any ridge would count them as degrees of freedom. In a direction just above, the
        moments are at least about as large as their errors, which keeps the linear weights below
        ``|tau| / sqrt(rounding)``.

    Returns
    -------
    ndarray, shape (any,)
    """
    excited = eigenvalues > rounding
    return np.divide(1.0, eigenvalues + ridge, out=np.zeros_like(eigenvalues), where=excited)


def _without(N: FloatArray, rows: NDArray[np.int_]) -> FloatArray:
    """Rotate the columns of ``N``, by Householder reflections; those that are zero in ``rows``."""
    N = N.copy()
    for count, row in enumerate(rows):
        v = N[row, count:].copy()
        v[0] += np.copysign(np.linalg.norm(v), v[0])
        v /= np.linalg.norm(v)
        N[:, count:] -= np.outer(2 * (N[:, count:] @ v), v)
    return N[:, len(rows) :]


def _product(left: RealArray, right: RealArray, threads: Threads | None) -> RealArray:
    """``left @ right``, its columns shared among threads."""
    product = np.empty((len(left), right.shape[1]), dtype=left.dtype)

    def one_tile(tile: slice) -> None:
        np.matmul(left, right[:, tile], out=product[:, tile])

    run_tiles(threads, one_tile, column_tiles(right.shape[1]))
    return product


def left_out_residuals(residual: FloatArray, leverage: FloatArray, noise: float) -> FloatArray:
    """Residuals of fits that never saw the row, as for :func:`left_out_errors`; NaN for 0 / 0."""
    alone = leverage >= 1.0 - np.sqrt(noise)
    return residual / np.where(alone, np.nan, 1.0 - leverage)[..., None]


def left_out_errors(
    residual: FloatArray, tau: FloatArray, leverage: FloatArray, noise: float
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Errors of fits that never saw the row, whose residual is ``r_i / (1 - h_i)``.

    Parameters
    ----------
    residual : ndarray, shape (..., k)
    tau : ndarray, shape (..., k)
        Targets; broadcast against ``residual``.
    leverage : ndarray, shape (...)
        Diagonal of the hat matrix, in [0, 1].
    noise : float
        Rounding error of ``leverage``.

    Returns
    -------
    squared_error : ndarray, shape (...)
        Squared norm of the left-out residual.
    wrong : ndarray of bool, shape (...)
        Whether the left-out output is largest at another column than ``tau``.

    Notes
    -----
    A row of leverage 1 alone fixes a direction: it was fitted exactly, and without it that
    direction is not determined. 0 / 0 says nothing of its error, so it counts as infinite, and
    the row as wrong.
    """
    alone = leverage >= 1.0 - np.sqrt(noise)
    left_out = residual / np.where(alone, 1.0, 1.0 - leverage)[..., None]
    squared = np.square(left_out).sum(axis=-1)
    wrong = np.argmax(tau - left_out, axis=-1) != np.argmax(tau, axis=-1)
    return np.where(alone, np.inf, squared), wrong | alone
