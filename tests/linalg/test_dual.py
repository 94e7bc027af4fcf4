import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.linalg import DualPath, GramAccumulator, KernelAccumulator, RidgePath, dual

RIDGES = np.array([1e-3, 0.1, 1.0, 30.0])
SHAPES = {"more_columns": (20, 50), "as_many": (20, 20), "more_rows": (40, 6)}
CASES = [*SHAPES, "duplicated", "constant_columns", "low_rank", "duplicated_rows"]
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def problem(rng, case="more_columns", k=3):
    """Columns that are neither centred nor scaled, with noisy one-hot targets."""
    n, q = SHAPES.get(case, (20, 50))
    Phi = rng.standard_normal((n, q)) + rng.uniform(-2, 2, q)
    if case == "duplicated":
        Phi[:, 10:] = Phi[:, rng.integers(0, 10, q - 10)]
    elif case == "constant_columns":
        Phi[:, [0, 7, q - 1]] = 5.0, 0.1, 0.0
    elif case == "low_rank":
        Phi = rng.standard_normal((n, 4)) @ rng.standard_normal((4, q)) + rng.uniform(-2, 2, q)
    elif case == "duplicated_rows":
        Phi[5:9] = Phi[:4]
    outputs = (Phi - Phi.mean(axis=0)) @ rng.standard_normal((q, k))
    labels = np.argmax(outputs + rng.standard_normal((n, k)), axis=1)
    return Phi, np.eye(k)[labels]


def column_blocks(Phi, block_size=None):
    """Copies, since the package overwrites them."""
    step = block_size or Phi.shape[1]
    return [Phi[:, start : start + step].copy() for start in range(0, Phi.shape[1], step)]


def dual_of(Phi, tau, block_size=None, threads=None) -> DualPath:
    sums = KernelAccumulator(len(Phi))
    for block in column_blocks(Phi, block_size):
        sums.add(block, threads)
    return sums.path(tau)


def primal_of(Phi, tau) -> RidgePath:
    sums = GramAccumulator(Phi.shape[1], tau.shape[1])
    sums.add(Phi.copy(), tau)
    return sums.path()


def with_constant(Phi):
    return np.hstack([Phi, np.ones((len(Phi), 1))])


def ridge_of_columns(q, ridge):
    return np.append(np.full(q, ridge), 0.0)


# --- the same as the primal form ---------------------------------------------------------


@EVERY_CASE
def test_weights_are_those_of_the_primal_form(case, rng):
    """Without a ridge as well: both have the minimum norm."""
    Phi, tau = problem(rng, case)
    primal, path = primal_of(Phi, tau), dual_of(Phi, tau, 7)
    for ridge in (0.0, *RIDGES):
        A = path.weights(column_blocks(Phi, 7), ridge)
        assert A.shape == (Phi.shape[1] + 1, 3)
        assert_allclose(A, primal.solve(ridge), rtol=1e-9, atol=1e-9)


@EVERY_CASE
def test_degrees_of_freedom_are_those_of_the_primal_form(case, rng):
    Phi, tau = problem(rng, case)
    primal, path = primal_of(Phi, tau), dual_of(Phi, tau)
    for ridge in (0.0, *RIDGES, 1e12):
        expected = primal.degrees_of_freedom(ridge)
        # An eigenvalue that is off by d moves e / (e + lam) by d / lam at most. The rounding of n
        # products of random signs is about sqrt(n) eps, so the errors of the Gram matrix have a
        # nuclear norm of sqrt(q n) eps times its trace at most, and so has the kernel matrix.
        nuclear = 2 * np.sqrt(Phi.size) * np.finfo(np.float64).eps * primal.eigenvalues.sum()
        atol = nuclear / ridge if ridge else 0
        assert_allclose(path.degrees_of_freedom(ridge), expected, rtol=1e-12, atol=atol)


@EVERY_CASE
def test_leave_one_out_is_that_of_the_primal_form(case, rng):
    """A ridge of 0 as well: where the rows are interpolated, infinite and wrong in both."""
    Phi, tau = problem(rng, case)
    ridges = np.append(RIDGES, 0.0)
    expected = primal_of(Phi, tau).leave_one_out([(Phi.copy(), tau, None)], ridges)
    loo = dual_of(Phi, tau).leave_one_out(ridges)
    assert_allclose(loo.mean_squared_error, expected.mean_squared_error, rtol=1e-9)
    assert_allclose(loo.error_rate, expected.error_rate, rtol=1e-12)


def test_eigenvalues_are_those_of_the_primal_form_and_zeros(rng):
    Phi, tau = problem(rng, "more_rows")
    path = dual_of(Phi, tau, 4)
    assert_allclose(path.eigenvalues[-6:], primal_of(Phi, tau).eigenvalues, rtol=1e-11)
    assert_allclose(path.eigenvalues[:-6], 0, atol=1e-11)
    centred, V = Phi - Phi.mean(axis=0), path.eigenvectors
    assert_allclose(V @ np.diag(path.eigenvalues) @ V.T, centred @ centred.T, atol=1e-11)
    assert_allclose(V @ V.T, np.eye(40) - 1 / 40, atol=1e-12)  # all but the constant vector


# --- what it is by definition ------------------------------------------------------------


@EVERY_CASE
def test_alpha_solves_the_dual_system(case, rng):
    Phi, tau = problem(rng, case)
    centred, target = Phi - Phi.mean(axis=0), tau - tau.mean(axis=0)
    path = dual_of(Phi, tau)
    for ridge in RIDGES:
        alpha = path.alpha(ridge)
        # Combinations of images in which no column has a share get none in alpha either.
        excess = centred @ (centred.T @ alpha) + ridge * alpha - target
        assert_allclose(centred.T @ excess, np.zeros((centred.shape[1], 3)), atol=1e-8)
        assert_allclose(alpha.sum(axis=0), 0, atol=1e-9)  # the constant column is not penalised


@EVERY_CASE
def test_leave_one_out_is_what_n_fits_give(case, rng):
    Phi, tau = problem(rng, case)
    loo = dual_of(Phi, tau).leave_one_out(RIDGES)
    for number, ridge in enumerate(RIDGES):
        mean_squared_error, error_rate = reference.left_out_errors(
            with_constant(Phi), tau, ridge_of_columns(Phi.shape[1], ridge)
        )
        assert_allclose(loo.mean_squared_error[number], mean_squared_error, rtol=1e-7)
        assert_allclose(loo.error_rate[number], error_rate, rtol=1e-12)
    assert loo.error_rate.max() > 0


def test_the_ridge_of_an_interpolating_fit_is_never_chosen(rng):
    """More columns than rows: without a ridge every row is fitted exactly, and says nothing."""
    Phi, tau = problem(rng)
    path = dual_of(Phi, tau)
    A = path.weights(column_blocks(Phi), 0.0)
    assert_allclose(with_constant(Phi) @ A, tau, atol=1e-10)
    assert_allclose(path.degrees_of_freedom(0.0), 20)
    errors = path.leave_one_out([0.0, 1.0])
    assert errors.mean_squared_error[0] == np.inf
    assert errors.error_rate[0] == 1.0
    assert np.isfinite(errors.mean_squared_error[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 2.0, 1e4 / 3])
def test_columns_that_say_nothing_leave_the_mean(value, dtype, rng):
    """A constant is centred but for the rounding of its mean, which is no direction."""
    tau = problem(rng)[1]
    Phi = np.full((20, 50), value, dtype)
    path = dual_of(Phi, tau, 9)
    for ridge in (0.0, 1.0):
        assert_allclose(path.degrees_of_freedom(ridge), 1, atol=1e-6)
        A = path.weights(column_blocks(Phi, 9), ridge)
        assert_allclose(A[:-1], 0, atol=1e-6)
        assert_allclose(A[-1], tau.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("q", [100, 500])
def test_equal_columns_in_single_precision_are_one_direction(q, rng):
    """The rounding errors of equal products add up, to 6 and 16 times the margin of others."""
    Phi = np.repeat(rng.standard_normal((60, 1)), q, axis=1).astype(np.float32)
    path = dual_of(Phi, rng.standard_normal((60, 2)))
    assert path.rank == 1
    assert path.eigenvalues[-1] > 1e3 * path.rounding


def test_a_single_row_says_nothing():
    path = dual_of(np.array([[1.0, 2.0]]), np.array([[0.0, 1.0]]))
    assert_array_equal(path.weights([np.array([[1.0, 2.0]])], 1.0), [[0, 0], [0, 0], [0, 1]])
    assert path.leave_one_out([1.0]).mean_squared_error.tolist() == [np.inf]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_small_ridge_has_the_error_of_the_interpolating_fits(dtype, rng):
    """Where 1 - h is the ridge over an eigenvalue, no digit of it may be lost against 1."""
    Phi, tau = problem(rng)
    residual = np.zeros_like(tau)
    for i in range(20):
        others = np.arange(20) != i
        A = primal_of(Phi[others], tau[others]).solve(0.0)
        residual[i] = tau[i] - with_constant(Phi)[i] @ A
    ridge = 1e3 * np.finfo(dtype).eps
    loo = dual_of(Phi.astype(dtype), tau, 9).leave_one_out([ridge])
    rtol = 1e-9 if dtype == np.float64 else 1e-4
    assert_allclose(loo.mean_squared_error, np.mean(np.sum(residual**2, axis=1)), rtol=rtol)
    wrong = np.argmax(tau - residual, axis=1) != np.argmax(tau, axis=1)
    assert_allclose(loo.error_rate, wrong.mean(), rtol=1e-12)


def test_a_row_that_alone_fixes_a_direction_is_infinite_and_wrong(rng):
    """Without it and without a ridge, nothing says what that direction is worth."""
    Phi, tau = problem(rng, "more_rows")
    Phi[:, 2] = np.eye(40)[11]
    loo = dual_of(Phi, tau).leave_one_out([0.0, 1.0])
    assert loo.mean_squared_error[0] == np.inf
    assert 1 / 40 <= loo.error_rate[0] < 1
    assert np.isfinite(loo.mean_squared_error[1])


# --- blocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 7, 50], ids=["by_1", "by_7", "whole"])
@pytest.mark.parametrize("second_size", [1, 13, 50], ids=["by_1", "by_13", "whole"])
def test_blocks_may_be_of_any_size_in_both_passes(block_size, second_size, rng):
    Phi, tau = problem(rng)
    path = dual_of(Phi, tau, block_size)
    expected = primal_of(Phi, tau)
    for ridge in (0.0, *RIDGES):
        A = path.weights(column_blocks(Phi, second_size), ridge)
        assert_allclose(A, expected.solve(ridge), rtol=1e-9, atol=1e-10)


def test_the_order_of_the_blocks_is_that_of_the_weights_alone(rng):
    Phi, tau = problem(rng)
    path = dual_of(Phi, tau)
    order = rng.permutation(50)
    shuffled = dual_of(Phi[:, order], tau, 8)
    A = path.weights(column_blocks(Phi), 1.0)
    assert_allclose(shuffled.weights(column_blocks(Phi, 3), 1.0), A, rtol=1e-9, atol=1e-12)
    permuted = path.weights(column_blocks(Phi[:, order], 8), 1.0)
    assert_allclose(permuted, np.vstack([A[:-1][order], A[-1:]]), rtol=1e-9, atol=1e-12)
    assert_allclose(
        shuffled.leave_one_out(RIDGES).mean_squared_error,
        path.leave_one_out(RIDGES).mean_squared_error,
        rtol=1e-9,
    )


def test_blocks_may_differ_in_size_memory_order_and_be_empty(rng):
    Phi, tau = problem(rng)
    sums = KernelAccumulator(20)
    sums.add(np.empty((20, 0)))
    sums.add(Phi[:, :30].copy(order="F"))
    sums.add(np.repeat(Phi[:, 30:], 2, axis=1)[:, ::2])
    A = sums.path(tau).weights(iter([Phi.copy(order="F"), np.empty((20, 0))]), 1.0)
    assert_allclose(A, primal_of(Phi, tau).solve(1.0), rtol=1e-9, atol=1e-12)


def test_blocks_are_work_space_and_not_kept(rng):
    """What the caller does with a block afterwards, or with ``tau``, changes nothing."""
    Phi, tau = problem(rng)
    expected = dual_of(Phi, tau, 25)
    sums = KernelAccumulator(20)
    block = np.empty((20, 25))
    for start in (0, 25):
        block[:] = Phi[:, start : start + 25]
        sums.add(block)
        assert not np.array_equal(block, Phi[:, start : start + 25])  # it was overwritten
    block[:] = np.nan
    targets = tau.copy()
    path = sums.path(targets)
    assert_array_equal(targets, tau)
    targets[:] = np.nan
    assert_array_equal(path.eigenvalues, expected.eigenvalues)

    def reused():
        for start in (0, 25):
            block[:] = Phi[:, start : start + 25]
            yield block

    A = path.weights(reused(), 1.0)
    block[:] = np.nan
    assert_array_equal(A, expected.weights(column_blocks(Phi, 25), 1.0))
    errors, same = path.leave_one_out(RIDGES), expected.leave_one_out(RIDGES)
    assert_array_equal(errors.mean_squared_error, same.mean_squared_error)


# --- precision, tiles and threads --------------------------------------------------------


def test_single_precision_is_close_to_double(rng):
    Phi, tau = problem(rng)
    Phi = (Phi + 20.0).astype(np.float32)  # centring keeps the digits
    single, double = (dual_of(columns, tau, 12) for columns in (Phi, Phi.astype(np.float64)))
    assert single.eigenvalues.dtype == np.float64
    for ridge in RIDGES:
        close = single.weights(column_blocks(Phi, 12), ridge)
        exact = double.weights(column_blocks(Phi.astype(np.float64), 12), ridge)
        assert close.dtype == np.float64
        assert_allclose(close, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())
        dof = single.degrees_of_freedom(ridge)
        assert_allclose(dof, double.degrees_of_freedom(ridge), rtol=1e-5)
    loo, exact_loo = single.leave_one_out(RIDGES), double.leave_one_out(RIDGES)
    # The residuals are lam / (e + lam) of the targets: as close as the small eigenvalues are.
    assert_allclose(loo.mean_squared_error, exact_loo.mean_squared_error, rtol=1e-4)
    assert_allclose(loo.error_rate, exact_loo.error_rate, atol=0.01)


def test_no_ridge_and_missing_rank_in_single_precision(rng):
    """Of 20 columns and copies of them no more than 20 directions and the mean are fitted."""
    Phi, tau = rng.standard_normal((50, 20)) + 3, problem(rng, "more_rows")[1]
    Phi, tau = np.hstack([Phi] * 4).astype(np.float32), np.vstack([tau, tau[:10]])
    single, double = (dual_of(columns, tau, 30) for columns in (Phi, Phi.astype(np.float64)))
    for path in (single, double):
        assert_allclose(path.degrees_of_freedom(0.0), 21, rtol=1e-6)
    expected = double.weights(column_blocks(Phi.astype(np.float64)), 0.0)
    assert_allclose(single.weights(column_blocks(Phi, 11), 0.0), expected, atol=1e-4)


def test_one_block_of_low_precision_sets_that_of_all(rng):
    Phi, tau = problem(rng)
    sums = KernelAccumulator(20)
    for block, dtype in zip(column_blocks(Phi, 25), (np.float32, np.float64), strict=True):
        sums.add(block.astype(dtype))
    path = sums.path(tau)
    assert path.precision == np.finfo(np.float32).eps
    assert_allclose(path.eigenvalues, dual_of(Phi, tau).eigenvalues, rtol=1e-5, atol=1e-4)


def test_several_tiles_solve_the_same_problem(rng):
    Phi = rng.standard_normal((600, 700)) + rng.uniform(-2, 2, 700)
    tau = np.eye(3)[rng.integers(0, 3, 600)]
    primal, path = primal_of(Phi, tau), dual_of(Phi, tau, 400)
    for ridge in (5.0, 200.0):
        A = path.weights(column_blocks(Phi, 650), ridge)
        assert_allclose(A, primal.solve(ridge), rtol=1e-9, atol=1e-9)
    expected = primal.leave_one_out([(Phi.copy(), tau, None)], np.array([5.0, 200.0]))
    loo = path.leave_one_out([5.0, 200.0])
    assert_allclose(loo.mean_squared_error, expected.mean_squared_error, rtol=1e-9)
    assert_allclose(loo.error_rate, expected.error_rate, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_result_is_bitwise_the_same_for_any_number_of_threads(dtype):
    rng = np.random.default_rng(0)
    Phi = (rng.standard_normal((600, 1100)) + 1).astype(dtype)
    tau = np.eye(3)[rng.integers(0, 3, 600)]
    expected = dual_of(Phi, tau, 600)
    loo = expected.leave_one_out(RIDGES)
    A = expected.weights(column_blocks(Phi, 600), 1.0)
    for n_threads in (1, 2, 3):
        with ThreadPoolExecutor(n_threads) as threads:
            path = dual_of(Phi, tau, 600, threads)
            shared = path.leave_one_out(RIDGES, threads)
            weights = path.weights(column_blocks(Phi, 600), 1.0, threads)
        assert_array_equal(path.eigenvalues, expected.eigenvalues)
        assert_array_equal(path.eigenvectors, expected.eigenvectors)
        assert_array_equal(path.projected_targets, expected.projected_targets)
        assert_array_equal(path.alpha(1.0), expected.alpha(1.0))
        assert_array_equal(weights, A)
        assert_array_equal(shared.mean_squared_error, loo.mean_squared_error)
        assert_array_equal(shared.error_rate, loo.error_rate)


# --- refusals ----------------------------------------------------------------------------


def test_too_many_rows_are_refused_before_anything_is_allocated():
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"16385 rows needs 4295491600 bytes .* 4294967296"):
            KernelAccumulator(16_385)
        with pytest.raises(ValueError, match="1000000000 rows"):  # no machine could
            KernelAccumulator(10**9)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_budget_is_reached_but_not_passed(monkeypatch, rng):
    monkeypatch.setattr(dual, "MEMORY_BUDGET", 2 * 8 * 20**2)
    Phi, tau = problem(rng)
    assert dual_of(Phi, tau).eigenvectors.shape == (20, 20)
    with pytest.raises(ValueError, match=r"21 rows needs 7056 bytes .* 6400 bytes"):
        KernelAccumulator(21)


def test_blocks_that_do_not_fit_are_refused(rng):
    Phi, tau = problem(rng)
    sums = KernelAccumulator(20)
    for wrong in (Phi[:1], Phi[:19], np.vstack([Phi, Phi]), Phi[:, 0]):
        with pytest.raises(ValueError, match=r"must have shape \(20, b\), got \("):
            sums.add(wrong)
    for dtype in (np.int64, np.complex128):
        with pytest.raises(TypeError, match="float type, got"):
            sums.add(Phi.astype(dtype))
    path = dual_of(Phi, tau)
    with pytest.raises(ValueError, match=r"must have shape \(20, b\), got \(1, 50\)"):
        path.weights([Phi[:1]], 1.0)
    for n_columns in (0, 49):
        with pytest.raises(ValueError, match=f"the 50 columns taken in, got {n_columns}"):
            path.weights([Phi[:, :n_columns].copy()], 1.0)
    with pytest.raises(ValueError, match="the 50 columns taken in, got 51"):
        path.weights([Phi.copy(), Phi[:, :1].copy()], 1.0)


def test_nothing_to_fit_is_an_error(rng):
    Phi, tau = problem(rng)
    with pytest.raises(ValueError, match="at least one row, got n_rows=0"):
        KernelAccumulator(0)
    with pytest.raises(ValueError, match="at least one column, got none"):
        KernelAccumulator(20).path(tau)
    sums = KernelAccumulator(20)
    sums.add(Phi.copy())
    for wrong in (tau[:19], tau[:, 0]):
        with pytest.raises(ValueError, match=r"tau must have shape \(20, k\)"):
            sums.path(wrong)
    sums.path(tau)  # a refusal left it as it was; now it is used up
    with pytest.raises(ValueError, match="used this accumulator up"):
        sums.path(tau)
    with pytest.raises(ValueError, match="used this accumulator up"):
        sums.add(Phi)


def test_entries_that_are_not_finite_are_refused(rng):
    Phi, tau = problem(rng)
    Phi[3, 4] = np.nan
    with pytest.raises(ValueError, match="the columns must be finite"):
        dual_of(Phi, tau)


@pytest.mark.parametrize("ridge", [-1.0, np.nan, np.inf])
def test_ridges_that_are_none_are_refused(ridge, rng):
    Phi, tau = problem(rng)
    path = dual_of(Phi, tau)
    for call in (
        lambda: path.alpha(ridge),
        lambda: path.weights([Phi.copy()], ridge),
        lambda: path.degrees_of_freedom(ridge),
        lambda: path.leave_one_out([1.0, ridge]),
    ):
        with pytest.raises(ValueError, match="ridge must be finite and not negative"):
            call()


def test_left_out_outputs_are_those_of_the_primal_form(rng):
    Phi, tau = rng.standard_normal((25, 8)) + 1, np.eye(3)[rng.integers(0, 3, 25)]
    ridges = np.array([0.01, 1.0, 50.0])
    sums = KernelAccumulator(25)
    sums.add(Phi.copy())
    dual = sums.path(tau).leave_one_out(ridges)
    primal_sums = GramAccumulator(8, 3)
    primal_sums.add(Phi.copy(), tau)
    primal = primal_sums.path().leave_one_out([(Phi.copy(), tau, None)], ridges, every=1)
    assert_array_equal(dual.rows, primal.rows)
    assert_allclose(dual.outputs, primal.outputs, rtol=1e-5, atol=1e-6)


def test_what_a_tiny_ridge_leaves_out_is_no_part_of_the_fit(rng):
    """Rows are not fitted exactly in directions that are rounding: they have finite errors."""
    Phi, tau = rng.standard_normal((12, 3)), np.eye(2)[np.arange(12) % 2]
    columns = (Phi @ rng.standard_normal((3, 40))).astype(np.float32)
    errors = dual_of(columns, tau).leave_one_out([0.0, 1e-9])
    X = with_constant(Phi)
    fitted = X @ np.linalg.pinv(X)
    residual = (tau - fitted @ tau) / (1 - np.diag(fitted))[:, None]
    assert_allclose(errors.mean_squared_error, np.square(residual).sum(axis=1).mean(), rtol=1e-4)
