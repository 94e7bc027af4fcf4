r"""The inner problem of variable projection: a linear least-squares fit and its projector.

For a design matrix ``Phi`` (n, q), targets ``tau`` (n, k), square roots ``s`` of the sample
weights and a ridge ``lam_j >= 0`` for each column, the problem is

    min_A  || [ s Phi       ]     [ s tau ] ||^2
           || [ sqrt(lam) I ] A - [ 0     ] ||_F .

Only the triangular factor of ``[s Phi, s tau]`` matters, and it can be updated by one block of
rows after another (a sequential QR, "TSQR"): memory is q + k squared whatever n is, and the
condition number of ``Phi`` is not squared as it would be in the normal equations. The ridge is
one more block of rows. With the final factor

    [ R11 R12 ]        R11 (q, q),  R12 (q, k),
    [  0  R22 ]

the fit is ``R11 A = R12``, twice the cost is ``||R22||^2``, and ``Q1 = s Phi T`` with
``T = R11^-1`` is the part of an orthonormal basis of the (ridge-augmented) range that lies in
the rows of the images. If ``R11`` is numerically singular, its singular value decomposition
takes over: ``T = V_r diag(1 / sigma_r)`` with the singular values above ``rank_tolerance`` times
the largest, which gives the minimum-norm fit, and ``T T'`` is the pseudo-inverse of the Gram
matrix. To decide the rank, columns longer than a column of ones are scaled to its length. Otherwise
the constant would count as rounding error beside columns of 1e6, or a ridge of 1e12. Shorter
columns keep their length: columns of nearly dead units count as rounding error.

References
----------
G. H. Golub and C. F. Van Loan, Matrix Computations, chapters 5 and 6 (QR updates, rank).
J. Demmel, L. Grigori, M. Hoemmen and J. Langou, SIAM J. Sci. Comput. 34 (2012) (TSQR).
"""

from dataclasses import dataclass

import numpy as np
import scipy

from varpro_nn._typing import FloatArray

RANK_TOLERANCE = 1e-12
"""Singular values below this times the largest count as zero (stated default)."""


class StreamingQR:
    """A streaming QR factorisation: the triangular factor of rows that arrive in blocks.

    Parameters
    ----------
    n_columns : int
        Columns of each block, ``q + k`` for ``[Phi, tau]``.
    """

    def __init__(self, n_columns: int) -> None:
        self._factor: FloatArray = np.zeros((0, n_columns))

    def add(self, rows: FloatArray) -> None:
        """Take in ``rows`` (any number, n_columns)."""
        stacked = np.concatenate([self._factor, rows])
        (triangle,) = scipy.linalg.qr(stacked, mode="r", overwrite_a=True, check_finite=False)
        # A copy of the rows that are not zero, so that the block is not kept alive.
        self._factor = triangle[: stacked.shape[1]].copy()

    @property
    def factor(self) -> FloatArray:
        """Upper trapezoidal ``R``, ``R'R`` being the sum of ``rows'rows``, (any, n_columns)."""
        return self._factor


@dataclass(frozen=True, slots=True, eq=False)
class LinearSolution:
    """The fitted linear weights and what is needed to project.

    Attributes
    ----------
    A : ndarray, shape (q, k)
        Linear weights; of minimum norm if the rank is deficient.
    sum_of_squares : float
        ``||s (tau - Phi A)||^2 + sum_j lam_j ||A_j||^2``.
    rank : int
        Numerical rank of the ridge-augmented ``s Phi``.
    condition : float
        Estimate of its condition number, for the directions that were kept. If columns are scaled
        to decide the rank, it is that of the scaled columns.
    """

    A: FloatArray
    sum_of_squares: float
    rank: int
    condition: float
    _triangle: FloatArray  # R11
    _map: FloatArray | None  # V_r diag(1 / sigma_r), where R11 is numerically singular

    def range_basis(self, weighted_Phi: FloatArray) -> FloatArray:
        """Multiply rows of ``s Phi`` (b, q) by ``T``: the rows of ``Q1``, (b, rank)."""
        return self.transposed_map(weighted_Phi.T).T

    def transposed_map(self, columns: FloatArray) -> FloatArray:
        """Multiply ``columns`` (q, any) by ``T'``: (rank, any)."""
        if self._map is not None:
            return self._map.T @ columns
        return scipy.linalg.solve_triangular(self._triangle, columns, trans="T", check_finite=False)


def least_squares_with_ridge(
    sums: StreamingQR,
    ridge: FloatArray,
    rank_tolerance: float = RANK_TOLERANCE,
    *,
    length: float = np.inf,
    norms: FloatArray | None = None,
) -> LinearSolution:
    """Fit ``A`` from the triangular factor of ``[s Phi, s tau]``.

    Parameters
    ----------
    sums : StreamingQR
        With all rows taken in.
    ridge : ndarray, shape (q,)
        ``lam_j >= 0`` of each column; 0 for the constant column.
    rank_tolerance : float
        Relative bound under which a singular value counts as zero.
    length : float
        Norm of a column of ones. To decide the rank, longer columns are scaled to this norm. By
        default no column is scaled.
    norms : ndarray, shape (q,), optional
        Norms to which the rounding errors of the columns are relative, where they are longer than
        the columns: some of each has been projected off.

    Returns
    -------
    LinearSolution
    """
    q = ridge.size
    augmented = StreamingQR(sums.factor.shape[1])
    rows = np.zeros((np.count_nonzero(ridge), sums.factor.shape[1]))
    rows[np.arange(len(rows)), np.flatnonzero(ridge)] = np.sqrt(ridge[ridge > 0])
    augmented.add(np.concatenate([sums.factor, rows]))
    # Fewer rows than columns: pad, so that R11 is square and its missing rank shows.
    factor = np.zeros((sums.factor.shape[1], sums.factor.shape[1]))
    factor[: len(augmented.factor)] = augmented.factor
    R11, R12, R22 = factor[:q, :q], factor[:q, q:], factor[q:, q:]
    sum_of_squares = float(np.vdot(R22, R22))

    # The largest entry is the norm up to a factor of sqrt(q), and cannot overflow.
    largest = np.abs(R11).max(axis=0, initial=0.0)
    if norms is not None:
        largest = np.maximum(largest, norms)
    scale = length / np.maximum(largest, length) if length < np.inf else np.ones(q)
    scaled = R11 * scale
    before = 0.0 if norms is None else float((norms * scale).max(initial=0.0))
    if np.all(np.diag(R11) != 0):
        reciprocal_condition, info = scipy.linalg.lapack.dtrcon(scaled, norm="1", uplo="U")
        share = min(1.0, float(np.abs(scaled).sum(axis=0).max()) / before) if before else 1.0
        if info == 0 and reciprocal_condition * share > rank_tolerance:
            A = scipy.linalg.solve_triangular(R11, R12, check_finite=False)
            return LinearSolution(A, sum_of_squares, q, 1 / reciprocal_condition, R11, None)

    U, sigma, Vt = scipy.linalg.svd(scaled, check_finite=False)
    rank = int(np.count_nonzero(sigma > rank_tolerance * max(sigma[0], before)))
    projected = U.T @ R12
    V = Vt.T * scale[:, None]
    T = V[:, :rank] / sigma[:rank]
    if np.any(scale != 1):
        # Minimum norm refers to the unscaled columns: remove the part in their null space.
        N = scipy.linalg.qr(V[:, rank:], mode="economic", check_finite=False)[0]
        T -= N @ (N.T @ T)
    # What the dropped directions could have explained stays in the residual.
    sum_of_squares += float(np.vdot(projected[rank:], projected[rank:]))
    condition = float(sigma[0] / sigma[rank - 1]) if rank else 0.0
    return LinearSolution(T @ projected[:rank], sum_of_squares, rank, condition, R11, T)


def schur_complement(H: FloatArray, X: FloatArray, Y: FloatArray, noise: float) -> FloatArray:
    """Eliminate the first variables of a semidefinite matrix: ``H - X' Y^-1 X``.

    A pivoted Cholesky factorisation of ``Y``, scaled to a unit diagonal, stops at pivots that are
    rounding error. These variables are held fixed instead, which leaves the result larger.

    Parameters
    ----------
    H : ndarray, shape (p, p)
    X : ndarray, shape (s, p)
    Y : ndarray, shape (s, s)
        Of any rank, even zero, and of any scale. It is used as work space and overwritten.
    noise : float
        Pivots up to this share of a diagonal entry of ``Y`` count as zero.

    Returns
    -------
    ndarray, shape (p, p)

    Notes
    -----
    Let the rounding error of ``X_ij`` be at most ``c eps sqrt(Y_ii H_jj)``, as for sums of
    products. With scaled pivots above ``noise = s eps``, it moves each row of ``L^-1 X`` by about
    ``c eps sqrt(H_jj / noise)``, and all rows together by ``c sqrt(eps H_jj)``. The squares in
    column ``j`` of ``L^-1 X`` add up to at most ``H_jj``. So the error of the result is about
    ``2 c sqrt(eps)`` times ``H`` in the worst case, when a pivot is barely above rounding error.
    It does not depend on the rank and the scale of ``Y``.
    """
    diagonal = np.diag(Y).copy()
    # A variable without curvature has no share in X either, and is held fixed.
    scale = np.divide(1.0, np.sqrt(diagonal), out=np.zeros_like(diagonal), where=diagonal > 0)
    Y *= scale[:, None]
    Y *= scale
    factor, pivots, rank, _ = scipy.linalg.lapack.dpstrf(Y.T, tol=noise, overwrite_a=True)
    if not rank:  # some versions of SciPy refuse an empty system
        return H
    kept = pivots[:rank] - 1
    Z = scipy.linalg.solve_triangular(
        factor[:rank, :rank], scale[kept, None] * X[kept], trans="T", check_finite=False
    )
    return H - Z.T @ Z


def small_equivalent(
    H: FloatArray, g: FloatArray, sum_of_squares: float, noise: float
) -> tuple[FloatArray, FloatArray]:
    """Find the least-squares problem of p + 1 rows that looks like one of any number of rows.

    A trust-region method sees a residual ``r`` and its Jacobian ``J`` only through ``J'J = H``,
    ``J'r = g`` and ``||r||^2``. So do

        f = [ 0 ; rho ],    J = [ R ; g' / rho ],    rho = ||r||,   R'R = H - g g' / rho^2,

    which keep all three. ``f`` depends on the cost alone, hence a trial point costs no
    derivative. ``H - g g' / rho^2 = J'(I - r r' / rho^2) J`` is positive semidefinite; a pivoted
    Cholesky factorisation stops where rounding makes it otherwise.

    Parameters
    ----------
    H : ndarray, shape (p, p)
    g : ndarray, shape (p,)
    sum_of_squares : float
        ``||r||^2``.
    noise : float
        Relative rounding error of ``H``: smaller pivots (times the largest) count as zero.

    Returns
    -------
    f : ndarray, shape (p + 1,)
    J : ndarray, shape (p + 1, p)
    """
    p = g.size
    rho = np.sqrt(sum_of_squares)
    last = g / rho if rho > 0 else np.zeros(p)
    remainder = np.outer(last, last)
    np.subtract(H, remainder, out=remainder)
    largest = float(np.max(np.diag(remainder), initial=0.0))
    J = np.zeros((p + 1, p))
    if largest > 0:
        factor, pivots, rank, _ = scipy.linalg.lapack.dpstrf(remainder, tol=noise * largest)
        J[:rank, pivots - 1] = np.triu(factor)[:rank]
    J[p] = last
    f = np.zeros(p + 1)
    f[p] = rho
    return f, J
