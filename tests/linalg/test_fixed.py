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


def all_at_once(columns, tau, ridge):
    sums = StreamingQR(columns.shape[1] + tau.shape[1])
    sums.add(np.hstack([columns, tau]))
    return least_squares_with_ridge(sums, ridge)


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


def test_columns_of_mixed_sizes_all_count(rng):
    """As in the fit of all columns: longer ones than a column of ones are scaled to decide."""
    F = rng.standard_normal((30, 3)) * [1.0, 1e9, 1e-3]
    fixed = FixedColumns.of(F, 0.0, 1e-6, length=np.sqrt(30))
    assert fixed.rank == 3
    assert_allclose(fixed.Q.T @ fixed.Q, np.eye(3), atol=1e-12)
