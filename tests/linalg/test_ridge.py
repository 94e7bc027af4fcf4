from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import cho_solve

from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg import (
    GramAccumulator,
    KernelAccumulator,
    RidgePath,
    RowStore,
    column_tiles,
    definite_factor,
    left_out_errors,
    product_over_rows,
)
from varpro_nn.linalg.ridge import ROWS, shrinkage, spread

RIDGES = np.array([1e-3, 0.1, 1.0, 30.0])


def problem(rng, n=30, q=6, k=3, *, weighted=False):
    """Rows that are neither centred nor scaled, with noisy one-hot targets of every class."""
    Phi = rng.standard_normal((n, q)) + rng.uniform(-2, 2, q)
    outputs = (Phi - Phi.mean(axis=0)) @ rng.standard_normal((q, k))
    labels = np.argmax(outputs + rng.standard_normal((n, k)), axis=1)
    labels[:k] = np.arange(k)
    return Phi, np.eye(k)[labels], rng.uniform(0.2, 3, n) if weighted else None


def blocks(Phi, tau, weights, block_size=None):
    """Copies, since the package overwrites them."""
    step = block_size or len(Phi)
    for start in range(0, len(Phi), step):
        rows = slice(start, start + step)
        yield Phi[rows].copy(), tau[rows], None if weights is None else weights[rows]


def path_of(Phi, tau, weights=None, block_size=None, threads=None) -> RidgePath:
    sums = GramAccumulator(Phi.shape[1], tau.shape[1])
    for block in blocks(Phi, tau, weights, block_size):
        sums.add(*block, threads)
    return sums.path()


def with_constant(Phi):
    return np.hstack([Phi, np.ones((len(Phi), 1))])


def ridge_of_columns(q, ridge):
    return np.append(np.full(q, ridge), 0.0)


WEIGHTED = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
BLOCKS = pytest.mark.parametrize("block_size", [1, 7, None], ids=["by_1", "by_7", "whole"])


@BLOCKS
@WEIGHTED
def test_every_ridge_solves_its_own_problem(weighted, block_size, rng):
    """The constant column is not penalised."""
    Phi, tau, weights = problem(rng, weighted=weighted)
    path = path_of(Phi, tau, weights, block_size)
    for ridge in (0.0, *RIDGES):
        A, _ = reference.ridge_fit(with_constant(Phi), tau, ridge_of_columns(6, ridge), weights)
        assert_allclose(path.solve(ridge), A, rtol=1e-9, atol=1e-11)


@WEIGHTED
def test_degrees_of_freedom_are_the_trace_of_the_hat_matrix(weighted, rng):
    Phi, tau, weights = problem(rng, weighted=weighted)
    path = path_of(Phi, tau, weights)
    X = with_constant(Phi)
    V = np.diag(np.ones(30) if weights is None else weights)
    for ridge in (0.0, *RIDGES):
        hat = X @ np.linalg.solve(X.T @ V @ X + np.diag(ridge_of_columns(6, ridge)), X.T @ V)
        assert_allclose(path.degrees_of_freedom(ridge), np.trace(hat), rtol=1e-10)
    assert_allclose(path.degrees_of_freedom(0.0), 7)
    assert_allclose(path.degrees_of_freedom(1e12), 1)


@BLOCKS
@WEIGHTED
def test_leave_one_out_is_what_n_fits_give(weighted, block_size, rng):
    Phi, tau, weights = problem(rng, weighted=weighted)
    path = path_of(Phi, tau, weights)
    loo = path.leave_one_out(blocks(Phi, tau, weights, block_size), RIDGES)
    for number, ridge in enumerate(RIDGES):
        mean_squared_error, error_rate = reference.left_out_errors(
            with_constant(Phi), tau, ridge_of_columns(6, ridge), weights
        )
        assert_allclose(loo.mean_squared_error[number], mean_squared_error, rtol=1e-9)
        assert_allclose(loo.error_rate[number], error_rate, rtol=1e-12)
    assert 0 < loo.error_rate[0] < 1


def test_weights_are_numbers_of_copies(rng):
    Phi, tau, _ = problem(rng)
    counts = rng.integers(0, 4, len(Phi))
    counts[:3] = 0, 1, 2
    copies = np.repeat(np.arange(len(Phi)), counts)
    weighted, copied = path_of(Phi, tau, counts.astype(float)), path_of(Phi[copies], tau[copies])
    assert_allclose(weighted.sum_weights, counts.sum())
    for ridge in (0.0, 1.0):
        assert_allclose(weighted.solve(ridge), copied.solve(ridge), rtol=1e-9, atol=1e-12)


def test_columns_that_do_not_vary_stay_as_they_are():
    deviation, mean = np.array([2.0, 1e-9, 0.0, 1e-9]), np.array([1.0, 1.0, 0.0, 0.0])
    assert_array_equal(spread(deviation, mean), [2.0, 1.0, 1.0, 1e-9])


def test_a_perfect_fit_has_no_error_left(rng):
    """Generalised cross-validation is zero to rounding, and never below."""
    Phi, _, _ = problem(rng)
    path = path_of(Phi, Phi @ rng.standard_normal((6, 3)) + 2.0)
    assert 0 <= path.generalised_cross_validation(0.0) < 1e-12


@pytest.mark.parametrize("case", ["duplicated", "constant_column", "fewer_rows", "all_constant"])
def test_no_ridge_and_missing_rank_give_the_minimum_norm(case, rng):
    Phi, tau, _ = problem(rng)
    if case == "duplicated":
        Phi[:, 3] = Phi[:, 0]
    elif case == "constant_column":
        Phi[:, 2] = 5.0
    elif case == "fewer_rows":
        Phi, tau = Phi[:4], tau[:4]
    else:
        Phi[:] = 2.0
    path = path_of(Phi, tau)
    centred, target = Phi - Phi.mean(axis=0), tau - tau.mean(axis=0)
    slopes = np.linalg.lstsq(centred, target, rcond=1e-7)[0]
    A = path.solve(0.0)
    assert_allclose(A[:-1], slopes, atol=1e-6)
    assert_allclose(A[-1], tau.mean(axis=0) - Phi.mean(axis=0) @ slopes, atol=1e-6)


def test_no_ridge_and_missing_rank_in_single_precision(rng):
    """50 rows have no more than 50 degrees of freedom, and noise is no direction."""
    Phi, tau, _ = problem(rng, n=50, q=200)
    single, double = (path_of(Phi.astype(dtype), tau) for dtype in (np.float32, np.float64))
    assert_allclose(single.degrees_of_freedom(0.0), 50, rtol=1e-3)
    assert_allclose(single.solve(0.0), double.solve(0.0), atol=1e-2)


def test_eigenvalues_are_those_of_the_centred_gram_matrix(rng):
    Phi, tau, _ = problem(rng)
    path = path_of(Phi, tau, block_size=4)
    centred = Phi - Phi.mean(axis=0)
    V, e = path.eigenvectors, path.eigenvalues
    assert_allclose(V @ np.diag(e) @ V.T, centred.T @ centred, atol=1e-11)
    assert_allclose(V.T @ V, np.eye(6), atol=1e-12)


@WEIGHTED
def test_single_precision_is_close_to_double(weighted, rng):
    Phi, tau, weights = problem(rng, n=200, weighted=weighted)
    Phi += 20.0  # the shift by the mean of the first block keeps the digits
    single = Phi.astype(np.float32)
    paths = [path_of(rows, tau, weights, 50) for rows in (single, single.astype(np.float64))]
    loo = [
        path.leave_one_out(blocks(rows, tau, weights, 50), RIDGES)
        for path, rows in zip(paths, (single, single.astype(np.float64)), strict=True)
    ]
    for ridge in RIDGES:
        close, exact = (path.solve(ridge) for path in paths)
        assert close.dtype == np.float64
        assert_allclose(close, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())
    assert_allclose(loo[0].mean_squared_error, loo[1].mean_squared_error, rtol=1e-5)
    assert_allclose(loo[0].error_rate, loo[1].error_rate, atol=0.01)


# --- tiles and threads -------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1300])
def test_tiles_cover_every_column_once(n):
    tiles = column_tiles(n)
    assert_array_equal(np.concatenate([np.arange(n)[tile] for tile in tiles]), np.arange(n))
    assert len(tiles) == -(-n // 512)


def test_several_tiles_solve_the_same_problem(rng):
    Phi, tau, weights = problem(rng, n=90, q=600, weighted=True)
    path = path_of(Phi, tau, weights, block_size=31)
    A, _ = reference.ridge_fit(with_constant(Phi), tau, ridge_of_columns(600, 5.0), weights)
    assert_allclose(path.solve(5.0), A, rtol=1e-7, atol=1e-9)
    loo = path.leave_one_out(blocks(Phi, tau, weights, 40), np.array([5.0]))
    X, V = with_constant(Phi), np.diag(weights)
    gram = X.T @ V @ X + np.diag(ridge_of_columns(600, 5.0))
    leverage = np.diag(X @ np.linalg.solve(gram, X.T @ V))
    left_out = (tau - X @ A) / (1 - leverage)[:, None]
    expected = weights @ np.sum(left_out**2, axis=1) / weights.sum()
    assert_allclose(loo.mean_squared_error, [expected], rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_result_is_bitwise_the_same_for_any_number_of_threads(dtype):
    rng = np.random.default_rng(0)
    Phi, tau, weights = problem(rng, n=60, q=600, weighted=True)
    Phi = Phi.astype(dtype)
    expected = path_of(Phi, tau, weights, 25)
    loo = expected.leave_one_out(blocks(Phi, tau, weights, 25), RIDGES)
    for n_threads in (1, 2, 3):
        with ThreadPoolExecutor(n_threads) as threads:
            path = path_of(Phi, tau, weights, 25, threads)
            shared = path.leave_one_out(blocks(Phi, tau, weights, 25), RIDGES, threads)
        assert_array_equal(path.eigenvalues, expected.eigenvalues)
        assert_array_equal(path.projected_moments, expected.projected_moments)
        assert_array_equal(path.solve(1.0), expected.solve(1.0))
        assert_array_equal(shared.mean_squared_error, loo.mean_squared_error)
        assert_array_equal(shared.error_rate, loo.error_rate)


def test_a_fault_in_a_thread_is_raised(rng):
    Phi, tau, _ = problem(rng)
    with ThreadPoolExecutor(2) as threads:
        sums = GramAccumulator(6, 5)  # tau has 3 columns
        with pytest.raises(ValueError, match="broadcast"):
            sums.add(Phi, tau, threads=threads)


# --- edges -------------------------------------------------------------------------------


def test_nothing_to_fit_is_an_error(rng):
    with pytest.raises(ValueError, match="at least one row of positive weight"):
        GramAccumulator(3, 2).path()
    Phi, tau, _ = problem(rng)
    with pytest.raises(ValueError, match="at least one row of positive weight"):
        path_of(Phi, tau, np.zeros(len(Phi)))


def test_a_row_that_alone_fixes_a_direction_stays_finite():
    squared, wrong = left_out_errors(
        np.zeros((2, 3)), np.eye(3)[:2], np.array([1.0, 0.5]), np.finfo(np.float64).eps
    )
    assert squared.tolist() == [np.inf, 0.0]
    assert wrong.tolist() == [True, False]


def test_left_out_errors_divide_by_one_minus_leverage():
    residual = np.array([[1.0, -2.0], [3.0, 0.0]])
    tau = np.array([[1.0, 0.0], [1.0, 0.0]])
    # left-out outputs: tau - [2, -4] and tau - [4, 0]
    squared, wrong = left_out_errors(residual, tau, np.array([0.5, 0.25]), 1e-16)
    assert_allclose(squared, [20.0, 16.0])
    assert wrong.tolist() == [True, True]
    squared, wrong = left_out_errors(residual / 10, tau, np.array([0.5, 0.25]), 1e-16)
    assert wrong.tolist() == [False, False]


def test_the_ridge_of_an_interpolating_fit_is_never_chosen(rng):
    """More columns than rows: without a ridge every row is fitted exactly, and says nothing."""
    Phi, tau, _ = problem(rng, n=12, q=30)
    path = path_of(Phi, tau)
    errors = path.leave_one_out(blocks(Phi, tau, None), np.array([0.0, 1.0]))
    assert errors.mean_squared_error[0] == np.inf
    assert errors.error_rate[0] == 1.0
    assert np.isfinite(errors.mean_squared_error[1])


def test_redundant_groups_of_unequal_size(rng):
    """Column 0 is a multiple of column 5; columns 1 and 2, a group, are sums of 3, 4 and 5."""
    Phi = rng.standard_normal((50, 6))
    Phi[:, 0] = 3 * Phi[:, 5]
    Phi[:, 1] = Phi[:, 3] + Phi[:, 4]
    Phi[:, 2] = Phi[:, 4] - Phi[:, 5] + 7
    sums = GramAccumulator(6, 1)
    sums.add(Phi, rng.standard_normal((50, 1)))
    path = sums.path()
    assert path.rank == 3
    assert path.redundant_groups(np.array([0, 1, 1, 2, 3, 4])) == [2, 3, 4]  # the last ones
    assert path.redundant_groups(np.array([4, 3, 3, 2, 1, 0])) == [3, 4]
    assert path.redundant_groups(np.array([0, 1, 1, 2, 2, 2])) == [2]


def test_a_small_group_is_found_behind_a_larger_one(rng):
    """One column is constant; the group of two that comes first cannot be redundant."""
    Phi = rng.standard_normal((50, 3))
    Phi[:, 0] = 1.0
    sums = GramAccumulator(3, 1)
    sums.add(Phi, rng.standard_normal((50, 1)))
    assert sums.path().redundant_groups(np.array([0, 1, 1])) == [0]


@BLOCKS
@WEIGHTED
@pytest.mark.parametrize("every", [1, 4])
def test_left_out_outputs_are_those_of_fits_without_the_row(every, weighted, block_size, rng):
    Phi, tau, weights = problem(rng, weighted=weighted)
    path = path_of(Phi, tau, weights, block_size)
    found = path.leave_one_out(blocks(Phi, tau, weights, block_size), RIDGES, every=every)
    assert_array_equal(found.rows, np.arange(0, 30, every))
    assert found.outputs.dtype == np.float32
    for number, i in enumerate(found.rows):
        rest = np.arange(30) != i
        for ridge, outputs in zip(RIDGES, found.outputs[number], strict=True):
            A, _ = reference.ridge_fit(
                with_constant(Phi[rest]), tau[rest], ridge_of_columns(6, ridge),
                None if weights is None else weights[rest],
            )  # fmt: skip
            assert_allclose(outputs, np.append(Phi[i], 1) @ A, rtol=1e-5, atol=1e-6)
    assert path.leave_one_out(blocks(Phi, tau, weights), RIDGES).outputs.shape == (0, 4, 3)


def test_left_out_output_of_a_row_that_alone_fixes_a_direction_is_not_known(rng):
    Phi, tau, _ = problem(rng)
    Phi[:, 0] = 0
    Phi[7, 0] = 1  # without this row the first column is zero
    path = path_of(Phi, tau)
    outputs = path.leave_one_out(blocks(Phi, tau, None), np.array([0.0]), every=1).outputs
    assert np.isnan(outputs[7]).all()
    assert np.isfinite(np.delete(outputs, 7, axis=0)).all()


# --- what rounding leaves ----------------------------------------------------------------


def fitted(form, Phi, tau, ridge):
    """Outputs of the ridge regression in one of its forms, and its left-out errors."""
    ridges = np.array([ridge])
    if form == "dual":
        kernel = KernelAccumulator(len(Phi))
        kernel.add(Phi.copy())
        path = kernel.path(tau)
        A, loo = path.weights([Phi.copy()], ridge), path.leave_one_out(ridges)
    else:
        path = path_of(Phi, tau) if form == "sums" else RowStore(Phi, tau).path()
        A, loo = path.solve(ridge), path.leave_one_out(blocks(Phi, tau, None), ridges)
    return A, Phi.astype(np.float64) @ A[:-1] + A[-1], loo


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", ["sums", "rows", "dual"])
@pytest.mark.parametrize(
    "case", ["plain", "twins", "equal", "constant", "wide", "twin rows", "one row", "mixed twins"]
)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_tiny_ridge_leads_to_the_fit_without_one(case, form, dtype, scale, rng):
    """Errors in directions that are rounding are not divided by the ridge."""
    Phi, tau, _ = problem(rng, n=60, q=20)
    if case in ("twins", "mixed twins"):
        Phi[:, 10:] = Phi[:, :10] * (1e6 if case == "mixed twins" else 1)
    elif case == "equal":
        Phi[:] = Phi[:, :1]
    elif case == "constant":
        Phi[:] = 0.3
    elif case == "twin rows":
        Phi[30:] = Phi[:30]
    elif case != "plain":
        Phi, tau = Phi[: 12 if case == "wide" else 1], tau[: 12 if case == "wide" else 1]
    Phi = (scale * Phi).astype(dtype)
    centred = Phi.astype(np.float64) - Phi.mean(axis=0, dtype=np.float64)
    centred /= max(np.abs(centred).max(), 1e-300)
    slopes = np.linalg.lstsq(centred, tau - tau.mean(axis=0), rcond=1e-10)[0]
    expected = centred @ slopes + tau.mean(axis=0)
    for ridge in (0.0, 1e-12 * scale**2, 1e-7 * scale**2):
        _, outputs, loo = fitted(form, Phi, tau, ridge)
        # What single precision leaves of columns that have a mean, times their weights.
        assert_allclose(outputs, expected, atol=0.05)
        assert loo.mean_squared_error[0] > 0
        assert not np.isnan(loo.mean_squared_error).any()
    largest = float(np.square(Phi.astype(np.float64)).sum())
    huge, outputs, _ = fitted(form, Phi, tau, 1e9 * largest)
    assert_allclose(outputs, np.broadcast_to(tau.mean(axis=0), tau.shape), atol=1e-6)
    assert np.isfinite(huge).all()


def test_shrinkage_leaves_out_what_is_rounding():
    e = np.array([0.0, 1e-9, 1e-3, 1.0])
    for ridge in (0.0, 1e-6, 0.5):
        assert_array_equal(shrinkage(e, ridge, 1e-6), [0, 0, *(1 / (e[2:] + ridge))])
    assert_array_equal(shrinkage(np.zeros(2), 0.0, 0.0), [0, 0])


def steep(rng, n, q, smallest):
    """Rows whose squared singular values fall from 1 to ``smallest`` times the largest."""
    U, s, Vt = np.linalg.svd(rng.standard_normal((n, q)), full_matrices=False)
    Phi = (U * np.geomspace(1, np.sqrt(smallest), len(s))) @ Vt
    return (Phi - Phi.mean(axis=0)).astype(np.float32)


@pytest.mark.parametrize("form", ["sums", "rows", "dual"])
def test_without_a_ridge_it_is_least_squares(form, rng):
    """Directions that count in the rank have their full share in the fit.

    The least squared singular value is 10 (dual form) or 30 times its rounding error, and below
    q times that of single precision, relative to the largest.
    """
    Phi = steep(rng, 90, 60, 3e-6)
    tau = np.eye(3)[rng.integers(3, size=90)]
    exact = np.linalg.lstsq(with_constant(Phi.astype(np.float64)), tau, rcond=None)[0]
    _, outputs, _ = fitted(form, Phi, tau, 0.0)
    least = np.square(tau - with_constant(Phi.astype(np.float64)) @ exact).sum()
    assert np.square(tau - outputs).sum() == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize("form", ["sums", "rows", "dual"])
def test_rank_shrinkage_and_degrees_of_freedom_agree_on_what_is_rounding(form, rng):
    """Also for ridges just above rounding error, which counted null directions as fitted."""
    half = steep(rng, 120, 30, 1e-2)
    # Copies as another order of summation gives them.
    copies = half * (1 + 2e-7 * rng.standard_normal(half.shape)).astype(np.float32)
    Phi, tau = np.hstack([half, copies]), np.eye(3)[rng.integers(3, size=120)]
    if form == "dual":
        kernel = KernelAccumulator(len(Phi))
        kernel.add(Phi.copy())
        path = kernel.path(tau)
    else:
        path = path_of(Phi, tau) if form == "sums" else RowStore(Phi, tau).path()
    assert path.rank == 30
    e = np.linalg.svd(half.astype(np.float64), compute_uv=False) ** 2 * 2
    for ridge in (0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4):
        assert path.degrees_of_freedom(ridge) == pytest.approx(1 + (e / (e + ridge)).sum(), 1e-5)
        A, outputs, _ = fitted(form, Phi, tau, ridge)
        alone, of_half, _ = fitted(form, half, tau, ridge / 2)  # twins share the penalty
        assert np.linalg.norm(A[:-1]) == pytest.approx(
            np.linalg.norm(alone[:-1]) / 2**0.5, rel=1e-3
        )
        assert_allclose(outputs, of_half, atol=1e-3)


def test_generalised_cross_validation_does_not_trust_a_difference_that_is_rounding(rng):
    """As many directions as rows interpolate any targets; the error of such a fit is not known."""
    Phi = steep(rng, 40, 60, 1e-2)
    path = path_of(Phi, np.eye(3)[rng.integers(3, size=40)])
    scores = [path.generalised_cross_validation(ridge) for ridge in (0.0, 1e-9, 1e-6, 1e-3, 1.0)]
    assert scores[0] == np.inf
    assert min(scores) > 0.1  # the targets are noise


def test_a_definite_matrix_keeps_its_factor(rng):
    Phi = rng.standard_normal((30, 5)) * 10.0 ** np.array([-6, 0, 0, 3, 6])
    gram = Phi.T @ Phi
    R = definite_factor(gram, np.zeros(5), 1e-12 * np.diag(gram))
    roots = np.sqrt(np.diag(gram))
    assert_allclose(R.T @ R / np.outer(roots, roots), gram / np.outer(roots, roots), atol=2e-12)
    penalised = definite_factor(gram, np.full(5, 7.0), 1e-12 * np.diag(gram))
    floor = np.maximum(7.0, 1e-12 * np.diag(gram))
    assert_allclose(penalised.T @ penalised, gram + np.diag(floor), rtol=1e-10)
    assert_array_equal(R, np.triu(R))


@pytest.mark.parametrize("rank", [0, 1, 10])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_matrix_that_rounding_made_indefinite_gets_a_margin(rank, dtype, rng):
    """Its solution is that of the columns that there are, whatever scales they come in."""
    columns = rng.standard_normal((500, rank)) @ rng.standard_normal((rank, 200))
    scales = 10.0 ** rng.uniform(-3, 3, 200)
    Phi = (columns * scales).astype(dtype)
    tau = columns @ rng.standard_normal((200, 1))
    gram = (Phi.T @ Phi).astype(np.float64)
    floor = np.where(np.diag(gram) > 0, np.finfo(dtype).eps * np.diag(gram), 1.0)
    before = gram.copy()
    R = definite_factor(gram, np.zeros(200), floor)
    assert_array_equal(gram, before)
    A = cho_solve((R, False), (Phi.T @ tau.astype(dtype)).astype(np.float64))
    assert_allclose(Phi @ A, tau, atol=2e-2 * max(1.0, np.abs(tau).max()))
    # Weights times norms of columns say what is garbage. The moments of such columns are off by
    # about sqrt(500) eps / 2 of the norm of tau, 11 eps, and divided by the floor in directions
    # that are rounding. Errors of 200 columns raise it to 10 eps at least: 1.1 norms of tau.
    norms = np.linalg.norm(Phi.astype(np.float64), axis=0)
    assert np.abs(A[:, 0] * norms).max() <= 10 * np.linalg.norm(tau)
    pivots = np.square(np.diag(R)) / floor
    assert pivots.min() >= 0.5


def test_a_pivot_below_the_floor_tells_of_larger_errors():
    """The matrix is definite with the first floor, by a fifth of it."""
    floor = np.full(2, 1e-6)
    gram = np.array([[1.0, 1 + 0.9e-6], [1 + 0.9e-6, 1.0]])
    assert np.linalg.cholesky(gram + np.diag(floor))[1, 1] ** 2 < 0.5e-6
    R = definite_factor(gram, np.zeros(2), floor)
    assert_allclose(R.T @ R, gram + np.diag(10 * floor), rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_floor_makes_a_matrix_definite_that_is_not_finite(value):
    gram = np.eye(3)
    gram[0, 2] = value
    with pytest.raises(NonFiniteError, match="Gram matrix of the features is NaN or infinite"):
        definite_factor(gram, np.ones(3), np.full(3, 1e-6))


def test_long_sums_are_double():
    """Beside a sum of 2^24 a single 1 is lost in single precision."""
    left = np.ones((2 * ROWS + 3, 1), dtype=np.float32)
    left[:ROWS] = 0
    left[0] = 2**12
    assert product_over_rows(left, left) == [[2**24 + ROWS + 3]]
    assert product_over_rows(left[:, 0], left).dtype == np.float64
    short = left[:10].astype(np.float64)
    assert_array_equal(product_over_rows(short, short), short.T @ short)


def test_a_sum_over_any_number_of_rows_is_as_exact_as_over_few(rng):
    Phi = rng.random((200_000, 3)).astype(np.float32)
    exact = Phi.astype(np.float64).T @ Phi.astype(np.float64)
    assert_allclose(product_over_rows(Phi, Phi), exact, rtol=1e-6)
    sums = GramAccumulator(3, 1, shift=np.zeros(3, np.float32))
    sums.add(Phi.copy(), np.ones((len(Phi), 1)))
    assert_allclose(np.triu(sums.arrays()["gram"]), np.triu(exact), rtol=1e-6)
    assert_allclose(sums.arrays()["moments"][:, 0], Phi.sum(axis=0, dtype=np.float64), rtol=1e-6)
