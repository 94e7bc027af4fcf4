"""Columns that do not change: eliminated once, against the fit of all columns."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from varpro_nn.linalg import (
    FixedColumns,
    StreamingQR,
    least_squares_beside_fixed,
    least_squares_with_ridge,
)

CASES = {
    "few": (40, 7, 7),
    "one": (40, 1, 1),
    "square": (20, 20, 20),
    "many": (15, 40, 40),
    "low rank": (40, 12, 5),
    "many of low rank": (15, 40, 4),
    "zeros": (20, 3, 0),
}
"""Rows, fixed columns and their rank."""
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def fixed_columns(case, rng):
    n, f, rank = CASES[case]
    return rng.standard_normal((n, rank)) @ rng.standard_normal((rank, f))


def all_at_once(columns, tau, ridge, **scale):
    sums = StreamingQR(columns.shape[1] + tau.shape[1])
    sums.add(np.hstack([columns, tau]))
    return least_squares_with_ridge(sums, ridge, **scale)


@EVERY_CASE
@pytest.mark.parametrize("lam", [0.0, 1e-6, 0.3, 1e3])
def test_the_basis_is_orthonormal_with_its_ridges(case, lam, rng):
    F = fixed_columns(case, rng)
    fixed = FixedColumns.of(F, lam)
    n, f, rank = CASES[case]
    assert fixed.Q.shape == (n, min(n, rank))
    assert fixed.rank == (f if lam else min(n, rank))
    assert_allclose(
        fixed.Q.T @ fixed.Q + np.diag(fixed.ridge), np.eye(len(fixed.ridge)), atol=1e-12
    )
    assert_allclose(F @ fixed.T, fixed.Q, atol=1e-10)
    # lam ||T z||^2 = sum_j d_j z_j^2
    assert_allclose(lam * fixed.T.T @ fixed.T, np.diag(fixed.ridge), atol=1e-12)


@EVERY_CASE
@pytest.mark.parametrize("lam", [0.0, 1e-6, 0.3, 1e3])
@pytest.mark.parametrize("n_first", [0, 2, 4])
@pytest.mark.parametrize("block", [4, 100])
def test_the_fit_is_that_of_all_columns(case, lam, n_first, block, rng):
    """Weights, cost, residual and the projector, with any columns before and after."""
    F = fixed_columns(case, rng)
    n = len(F)
    Y, tau = rng.standard_normal((n, 4)), rng.standard_normal((n, 3))
    ridge = np.full(4, lam)
    if n_first < 4:
        Y[:, -1], ridge[-1] = 1.0, 0.0
    fixed = FixedColumns.of(F, lam)
    slices = [slice(i, i + block) for i in range(0, n, block)]
    found = least_squares_beside_fixed(
        fixed, lambda: ((fixed.Q[s], Y[s], tau[s]) for s in slices), ridge, n_first, 1e-12,
        length=np.sqrt(n),
    )  # fmt: skip
    columns = np.hstack([Y[:, :n_first], F, Y[:, n_first:]])
    ridges = np.concatenate([ridge[:n_first], np.full(F.shape[1], lam), ridge[n_first:]])
    expected = all_at_once(columns, tau, ridges)
    scale = float(np.vdot(tau, tau))
    assert found.sum_of_squares == pytest.approx(expected.sum_of_squares, abs=1e-9 * scale)
    assert found.rank == expected.rank
    in_basis = np.hstack([Y[:, :n_first], fixed.Q, Y[:, n_first:]])
    assert_allclose(in_basis @ found.A, columns @ expected.A, atol=1e-9)
    Q, other = found.range_basis(in_basis), expected.range_basis(columns)
    assert_allclose(Q @ Q.T, other @ other.T, atol=1e-9)
    r = len(fixed.ridge)
    A = np.concatenate(
        [found.A[:n_first], fixed.T @ found.A[n_first : n_first + r], found.A[n_first + r :]]
    )
    if lam or expected.rank == columns.shape[1]:  # else the weights are not unique
        # Rounding errors of F move the weights by this much, on either way.
        rounding = np.finfo(np.float64).eps * np.linalg.norm(F) * np.linalg.norm(tau)
        atol = 1e-9 * max(1.0, np.abs(A).max()) + (rounding / lam if lam else 0.0)
        assert_allclose(A, expected.A, rtol=0, atol=atol)


@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_a_column_that_the_fixed_ones_span_counts_as_rounding(size, rng):
    """Without a ridge; what is left of it is an error of 1e-8 of the column as it was."""
    F = rng.standard_normal((30, 5))
    spanned = F @ rng.standard_normal((5, 1)) + 1e-8 * rng.standard_normal((30, 1))
    other, tau = rng.standard_normal((30, 1)), rng.standard_normal((30, 2))
    fixed = FixedColumns.of(F, 0.0)
    for Y, rank in ((size * spanned, 5), (size * np.hstack([other, spanned]), 6)):
        found = least_squares_beside_fixed(
            fixed, lambda Y=Y: [(fixed.Q, Y, tau)], np.zeros(Y.shape[1]), Y.shape[1], 1e-6,
            length=np.sqrt(30),
        )  # fmt: skip
        assert found.rank == rank
        assert np.abs(found.A).max() < 1e3 / size


def beside(fixed, Y, tau, lam, rank_tolerance=1e-12):
    """The fit, and its weights for the columns as they were."""
    found = least_squares_beside_fixed(
        fixed, lambda: [(fixed.Q, Y, tau)], np.full(Y.shape[1], lam), Y.shape[1], rank_tolerance,
        length=np.sqrt(len(Y)),
    )  # fmt: skip
    u = Y.shape[1]
    return found, np.concatenate([found.A[:u], fixed.T @ found.A[u:]])


@pytest.mark.parametrize("lam", [0.0, 1e-12, 1.0])
def test_columns_of_mixed_sizes_all_count(lam, rng):
    """As in the fit of all columns: longer ones than a column of ones are scaled to decide."""
    F = rng.standard_normal((30, 4)) * [1.0, 1e14, 1.0, 1e-3]
    Y, tau = rng.standard_normal((30, 2)), rng.standard_normal((30, 2))
    fixed = FixedColumns.of(F, lam, 1e-6, length=np.sqrt(30))
    assert fixed.rank == 4
    assert_allclose(fixed.Q.T @ fixed.Q + np.diag(fixed.ridge), np.eye(4), atol=1e-12)
    expected = all_at_once(np.hstack([Y, F]), tau, np.full(6, lam), length=np.sqrt(30))
    found, A = beside(fixed, Y, tau, lam)
    assert found.sum_of_squares == pytest.approx(expected.sum_of_squares, rel=1e-10)
    assert_allclose(A, expected.A, rtol=1e-8)


@pytest.mark.parametrize("lam", [0.0, 1e-9])
def test_the_basis_of_ill_conditioned_columns_is_orthonormal(lam, rng):
    """Singular values from 1 to 1e-10."""
    U, _, Vt = np.linalg.svd(rng.standard_normal((40, 12)), full_matrices=False)
    F = U * np.geomspace(1, 1e-10, 12) @ Vt
    fixed = FixedColumns.of(F, lam)
    together = fixed.Q.T @ fixed.Q + np.diag(fixed.ridge)
    assert_allclose(together, np.eye(len(together)), atol=1e-13)
    assert_allclose(F @ fixed.T, fixed.Q, atol=1e-4)


@pytest.mark.parametrize("lam", [1e-8, 1e-10])
def test_rounding_errors_of_features_get_no_weights(lam, rng):
    """Half of the columns are sums of the others, in single precision: a rank of 20."""
    base = rng.standard_normal((200, 20))
    F = np.hstack([base, base @ rng.standard_normal((20, 20))]).astype(np.float32)
    Y, tau = rng.standard_normal((200, 2)), rng.standard_normal((200, 3))
    tolerance = 43 * float(np.finfo(np.float32).eps)
    fixed = FixedColumns.of(F.astype(np.float64), lam, tolerance, length=np.sqrt(200))
    exact = all_at_once(np.hstack([Y, base]), tau, np.full(22, lam))
    found, A = beside(fixed, Y, tau, lam, tolerance)
    assert np.abs(A).max() < 10 * np.abs(exact.A).max()
    assert_allclose(found.A[:2], exact.A[:2], atol=0.05 * np.abs(exact.A).max())


def test_columns_of_any_size_overflow_nowhere(rng):
    F = rng.standard_normal((20, 3))
    for size in (1e-160, 1e160):
        fixed = FixedColumns.of(size * F, 1.0)
        together = fixed.Q.T @ fixed.Q + np.diag(fixed.ridge)
        assert_allclose(together, np.eye(len(together)), atol=1e-12)
