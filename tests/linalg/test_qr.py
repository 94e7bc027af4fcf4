import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.linalg import (
    StreamingQR,
    least_squares_with_ridge,
    schur_complement,
    small_equivalent,
)


def row_sums(rows, block_size=None):
    sums = StreamingQR(rows.shape[1])
    step = block_size or len(rows)
    for start in range(0, len(rows), step):
        sums.add(rows[start : start + step])
    return sums


def solve(Phi, tau, ridge, block_size=None):
    return least_squares_with_ridge(row_sums(np.hstack([Phi, tau]), block_size), ridge)


# --- rows that arrive in blocks ----------------------------------------------------------


@pytest.mark.parametrize("n", [3, 6, 40], ids=["wide", "square", "tall"])
@pytest.mark.parametrize("block_size", [1, 7, None], ids=["by_1", "by_7", "whole"])
def test_factor_keeps_the_gram_matrix(n, block_size, rng):
    """R'R is the sum of rows'rows however the rows are cut, and R is trapezoidal and small."""
    rows = rng.standard_normal((n, 6))
    before = rows.copy()
    R = row_sums(rows, block_size).factor
    assert R.shape == (min(n, 6), 6)
    assert_array_equal(R, np.triu(R))
    assert_allclose(R.T @ R, rows.T @ rows, rtol=1e-12, atol=1e-12)
    assert_array_equal(rows, before)


def test_no_rows_change_nothing(rng):
    sums = row_sums(rng.standard_normal((9, 4)))
    gram = sums.factor.T @ sums.factor
    sums.add(np.zeros((0, 4)))
    assert_allclose(sums.factor.T @ sums.factor, gram, rtol=1e-13)


# --- the linear fit ----------------------------------------------------------------------

DESIGNS = {
    "tall": lambda rng: rng.standard_normal((30, 5)),
    "square": lambda rng: rng.standard_normal((5, 5)),
    "duplicated": lambda rng: rng.standard_normal((30, 3))[:, [0, 1, 1, 2, 0]],
    "zero_columns": lambda rng: rng.standard_normal((30, 5)) * [1, 0, 1, 0, 1],
    "zero_first": lambda rng: rng.standard_normal((30, 5)) * [0, 1, 1, 1, 1],
    "fewer_rows": lambda rng: rng.standard_normal((3, 5)),
    "one_row": lambda rng: rng.standard_normal((1, 5)),
    "zero": lambda rng: np.zeros((30, 5)),
    "scales": lambda rng: rng.standard_normal((30, 5)) * [1e-4, 1, 1e4, 1, 1],
}
RIDGES = {
    "none": np.zeros(5),
    "all": np.full(5, 0.3),
    "not_the_last": np.array([0.3, 0.3, 0.3, 0.3, 0.0]),
    "mixed": np.array([0.0, 2.0, 0.1, 0.0, 1e-3]),
}
EVERY_DESIGN = pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
EVERY_RIDGE = pytest.mark.parametrize("ridge", RIDGES.values(), ids=RIDGES)
BLOCKS = pytest.mark.parametrize("block_size", [2, None], ids=["by_2", "whole"])


@BLOCKS
@EVERY_RIDGE
@EVERY_DESIGN
def test_fit_is_the_minimum_norm_least_squares_fit(design, ridge, block_size, rng):
    Phi = design(rng)
    tau = rng.standard_normal((len(Phi), 2))
    K, y = reference.augmented(Phi, tau, ridge)
    A, sum_of_squares = reference.ridge_fit(Phi, tau, ridge)
    solution = solve(Phi, tau, ridge, block_size)
    # Wedin's bound for columns of unit norm, as which Householder's QR sees them, with the backward
    # error of 30 rows; the reference, which does not, is good to 1e-8.
    norms = np.linalg.norm(K, axis=0)
    norms[norms == 0] = 1
    sigma = np.linalg.svd(K / norms, compute_uv=False)
    sigma = sigma[sigma > 1e-12 * sigma[0]]
    least = min(sigma, default=1.0)
    error = np.linalg.norm(norms[:, None] * A) + np.linalg.norm(y - K @ A) / least
    atol = 30 * np.finfo(np.float64).eps * max(sigma, default=1.0) / least * error
    assert_allclose(norms[:, None] * solution.A, norms[:, None] * A, rtol=1e-8, atol=atol)
    assert_allclose(solution.sum_of_squares, sum_of_squares, rtol=1e-10, atol=1e-20)
    assert solution.rank == np.linalg.matrix_rank(K, rtol=1e-12)


@EVERY_RIDGE
@EVERY_DESIGN
def test_range_basis_is_orthonormal_and_spans_the_range(design, ridge, rng):
    """Q = K T with K the ridge-augmented design: Q'Q = I and Q Q'K = K."""
    Phi = design(rng)
    tau = rng.standard_normal((len(Phi), 2))
    K, y = reference.augmented(Phi, tau, ridge)
    solution = solve(Phi, tau, ridge)
    Q = solution.range_basis(K)
    assert Q.shape == (len(K), solution.rank)
    assert_allclose(Q.T @ Q, np.eye(solution.rank), atol=1e-8)
    assert_allclose(Q @ (Q.T @ K), K, atol=1e-8 * max(1, np.abs(K).max()))
    assert_allclose(Q @ (Q.T @ y), K @ solution.A, atol=1e-8)


@EVERY_RIDGE
@EVERY_DESIGN
def test_the_map_is_a_root_of_the_inverse_gram_matrix(design, ridge, rng):
    """T T' is the pseudo-inverse of K'K."""
    Phi = design(rng)
    tau = np.zeros((len(Phi), 1))
    K, _ = reference.augmented(Phi, tau, ridge)
    T = solve(Phi, tau, ridge).transposed_map(np.eye(5)).T
    inverse = np.linalg.pinv(K, rtol=1e-12)
    assert_allclose(T @ T.T, inverse @ inverse.T, rtol=1e-7, atol=1e-9)


def test_condition_number_is_not_squared(rng):
    """At condition 1e9 the Gram matrix is singular to double precision; the fit is not."""
    U, _ = np.linalg.qr(rng.standard_normal((40, 6)))
    V, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    Phi = U @ np.diag(np.logspace(0, -9, 6)) @ V.T
    A = rng.standard_normal((6, 2))
    solution = solve(Phi, Phi @ A, np.zeros(6), block_size=11)
    assert solution.rank == 6
    assert 1e8 < solution.condition < 1e11
    assert_allclose(solution.A, A, atol=1e-5)
    assert solution.sum_of_squares < 1e-28


def test_rank_follows_the_tolerance(rng):
    Phi = rng.standard_normal((30, 3)) @ np.diag([1.0, 1.0, 1e-6])
    sums = row_sums(np.hstack([Phi, rng.standard_normal((30, 1))]))
    ranks = [least_squares_with_ridge(sums, np.zeros(3), t).rank for t in (1e-12, 1e-3)]
    assert ranks == [3, 2]


def test_long_columns_do_not_hide_the_constant(rng):
    """Beside columns of 1e6, or a ridge of 1e12, a column of ones is no rounding error."""
    Phi = np.hstack([rng.standard_normal((30, 3)), np.ones((30, 1))])
    tau = rng.standard_normal((30, 2)) + 5
    for factor, ridge in ((1e6, 0.0), (1.0, 1e12), (1e6, 1e12)):
        columns = Phi * [factor, 1, 1, 1]
        ridges = np.array([ridge] * 3 + [0.0])
        sums = row_sums(np.hstack([columns, tau]))
        solution = least_squares_with_ridge(sums, ridges, 1e-5, length=np.sqrt(30))
        A, sum_of_squares = reference.ridge_fit(columns, tau, ridges)
        assert solution.rank == 4
        assert_allclose(columns @ solution.A, columns @ A, atol=1e-8)
        assert_allclose(solution.sum_of_squares, sum_of_squares, rtol=1e-9)


@pytest.mark.parametrize("length", [np.inf, np.sqrt(40)], ids=["as they are", "scaled"])
def test_the_minimum_norm_is_that_of_the_columns_as_they_are(length, rng):
    """Copies of different lengths share their weight as they do without scaling."""
    x = rng.standard_normal((40, 2))
    Phi = np.hstack([x, 100 * x[:, :1], 1e-9 * rng.standard_normal((40, 1)), np.ones((40, 1))])
    tau = rng.standard_normal((40, 2))
    solution = least_squares_with_ridge(
        row_sums(np.hstack([Phi, tau])), np.zeros(5), 1e-7, length=length
    )
    assert solution.rank == 3  # the copy is none, nor is a column that is small
    A = np.linalg.pinv(Phi[:, [0, 1, 2, 4]], rtol=1e-9) @ tau
    assert_allclose(solution.A[[0, 1, 2, 4]], A, atol=1e-6)
    Q = solution.range_basis(Phi)
    assert_allclose(Q.T @ Q, np.eye(3), atol=1e-9)


def test_solving_does_not_use_up_the_sums(rng):
    sums = row_sums(rng.standard_normal((30, 5)))
    first, second = (least_squares_with_ridge(sums, np.full(3, 0.5)) for _ in range(2))
    assert_array_equal(first.A, second.A)


# --- variables eliminated ----------------------------------------------------------------


@pytest.mark.parametrize("scales", [0.0, 6.0], ids=["alike", "mixed"])
@pytest.mark.parametrize("rank", [0, 1, 3, 6])
def test_schur_complement_of_any_rank_and_scale(rank, scales, rng):
    """What is left of a sum of squares after the first 6 columns are projected out."""
    left = rng.standard_normal((20, rank)) @ rng.standard_normal((rank, 6))
    left *= 10.0 ** rng.uniform(-scales, scales, 6)
    right = rng.standard_normal((20, 4))
    H, X, Y = right.T @ right, left.T @ right, left.T @ left
    found = schur_complement(H, X, Y.copy(), 6 * np.finfo(np.float64).eps)
    Q = np.linalg.svd(left / np.maximum(np.abs(left).max(axis=0), 1e-300))[0][:, :rank]
    rest = right - Q @ (Q.T @ right)
    assert_allclose(found, rest.T @ rest, atol=1e-9 * H.max())


def test_variables_without_curvature_stay_where_they_are():
    H = np.array([[2.0]])
    assert_array_equal(schur_complement(H, np.zeros((3, 1)), np.zeros((3, 3)), 1e-15), H)
    Y = np.diag([0.0, 4.0, 5e-324])
    X = np.array([[0.0], [2.0], [0.0]])
    assert_allclose(schur_complement(H, X, Y, 1e-15), [[1.0]])


def test_errors_of_a_singular_matrix_are_not_blown_up(rng):
    """Single precision, and directions that are its rounding alone: the root of eps at most."""
    eps = float(np.finfo(np.float32).eps)
    worst = 0.0
    for _ in range(50):
        left = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 10))
        right = rng.standard_normal((40, 4))
        rows = np.hstack([left, right]).astype(np.float32)
        K = (rows.T @ rows).astype(np.float64)
        found = schur_complement(K[10:, 10:], K[:10, 10:], K[:10, :10].copy(), 10 * eps)
        Q = np.linalg.qr(left[:, :3])[0]
        rest = right - Q @ (Q.T @ right)
        worst = max(worst, np.abs(found - rest.T @ rest).max() / K[10:, 10:].max())
    assert worst < 2 * np.sqrt(eps)


# --- the small equivalent problem --------------------------------------------------------


def jacobians(rng):
    yield "tall", rng.standard_normal((20, 4))
    yield "wide", rng.standard_normal((3, 4))
    yield "gauge", rng.standard_normal((20, 2)) @ rng.standard_normal((2, 4))
    yield "still_weight", rng.standard_normal((20, 4)) * [1, 0, 1, 1]
    yield "zero", np.zeros((20, 4))


@pytest.mark.parametrize("kind", ["tall", "wide", "gauge", "still_weight", "zero"])
@pytest.mark.parametrize("size", [1.0, 1e-6, 0.0], ids=["residual", "tiny", "no_residual"])
def test_small_problem_keeps_matrix_gradient_and_cost(kind, size, rng):
    J = dict(jacobians(rng))[kind]
    r = size * rng.standard_normal(len(J))
    H, g = J.T @ J, J.T @ r
    f, small = small_equivalent(H, g, float(r @ r), 1e-15)
    assert f.shape == (5,)
    assert small.shape == (5, 4)
    assert_allclose(f @ f, r @ r, rtol=1e-14)
    assert_allclose(small.T @ f, g, rtol=1e-12, atol=1e-14 * size)
    assert_allclose(small.T @ small, H, atol=1e-12 * max(1, np.abs(H).max()))


def test_small_residual_depends_on_the_cost_alone(rng):
    """What makes a trial point cost no derivative."""
    residuals = []
    for _ in range(2):
        J, r = rng.standard_normal((9, 3)), rng.standard_normal(9)
        r *= 2 / np.linalg.norm(r)
        residuals.append(small_equivalent(J.T @ J, J.T @ r, 4.0, 1e-15)[0])
    assert_allclose(residuals, [[0, 0, 0, 2]] * 2, rtol=1e-14)


def test_a_matrix_that_rounding_made_indefinite_is_survived(rng):
    """Single precision: H has a negative eigenvalue of the size of its rounding error."""
    J = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 4))
    r = rng.standard_normal(20)
    H = J.T @ J
    noise = 1e-6 * np.abs(H).max()
    H -= noise * np.eye(4)
    assert np.linalg.eigvalsh(H)[0] < 0
    f, small = small_equivalent(H, J.T @ r, float(r @ r), 2e-6)
    assert np.isfinite(small).all()
    assert_allclose(small.T @ f, J.T @ r, rtol=1e-12)
    assert_allclose(small.T @ small, H, atol=20 * noise)
