"""Convex fits of the linear layer, against double loops and other solvers."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from varpro_nn import configure, load
from varpro_nn.data.images import intensities
from varpro_nn.linalg import convex
from varpro_nn.linalg.convex import ROWS, fit_linear
from varpro_nn.linalg.losses import LOSSES
from varpro_nn.linalg.preconditioner import Factor, Preconditioner, drawn_by_weight
from varpro_nn.training.plan import make_units

EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES)


def problem(rng, n=120, q=4, k=3, dtype=np.float64):
    """Columns of several sizes, neither centred nor separable."""
    X = rng.standard_normal((n, q))
    labels = np.argmax(X @ rng.standard_normal((q, k)) + rng.gumbel(size=(n, k)), axis=1)
    Phi = X * 10 ** rng.uniform(-1, 1, q) + rng.uniform(-1, 1, q)
    return Phi.astype(dtype), labels, np.zeros((q + 1, k))


def plain_cost(loss, A, Phi, labels, penalty):
    outputs = np.asarray(Phi, dtype=np.float64) @ A[:-1] + A[-1]
    rows = zip(outputs.tolist(), labels.tolist(), strict=True)
    total = sum(reference.loss_of_row(loss, z, y) for z, y in rows)
    return total + 0.5 * penalty * np.sum(A[:-1] ** 2)


def exactly(loss, Phi, labels, start, penalty):
    return fit_linear(loss, Phi, labels, start, penalty, tolerance=1e-24)


def vectorised_cost(loss, A, Phi, labels, penalty):
    outputs = np.asarray(Phi, dtype=np.float64) @ A[:-1] + A[-1]
    return LOSSES[loss].at(outputs, labels)[0].sum() + 0.5 * penalty * np.sum(A[:-1] ** 2)


@functools.cache
def patch_features(n):
    """Columns of variance 1: features of 12 untrained units on windows of digits."""
    train = load("digits").train
    config = configure("default", data="digits", n_units=12)
    rng = np.random.default_rng(0)
    units = make_units(config, train.images[:n], rng)
    W = units.init(train.images[:n], rng).astype(np.float32)
    Phi = units.features(W, intensities(train.images[:n])).reshape(n, -1)
    Phi -= Phi.mean(axis=0)
    return Phi / Phi.std(axis=0), train.labels[:n]


# --- the optimum -------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.1, 10.0])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_softmax_is_the_logistic_regression_of_scikit_learn(k, penalty, rng):
    Phi, labels, start = problem(rng, k=k)
    assert len(set(labels)) == k
    found = exactly("softmax", Phi, labels, start, penalty).A
    # Of two classes scikit-learn has one vector, the difference; its square is twice the sum.
    other = LogisticRegression(C=(2 if k == 2 else 1) / penalty, tol=1e-12, max_iter=20_000)
    other.fit(Phi, labels)
    found -= found.mean(axis=1, keepdims=True)  # a constant on all outputs is free
    slopes, constants = other.coef_.T, other.intercept_
    if k == 2:
        slopes, constants = slopes * [-0.5, 0.5], constants * [-0.5, 0.5]
    atol = 3e-5 * np.abs(found).max()
    assert_allclose(found[:-1], slopes - slopes.mean(axis=1, keepdims=True), atol=atol)
    assert_allclose(found[-1], constants - constants.mean(), atol=atol)


@pytest.mark.parametrize(("loss", "penalty"), [("softmax", 0.1), ("hinge", 10.0)])
def test_at_the_end_the_plain_cost_has_no_slope(loss, penalty, rng):
    """Of a convex cost that is the optimum."""
    Phi, labels, start = problem(rng, n=60, q=3)
    fitted = exactly(loss, Phi, labels, start, penalty)

    def cost(A):
        return plain_cost(loss, A, Phi, labels, penalty)

    assert_allclose(fitted.cost, cost(fitted.A), rtol=1e-12)
    at_start = np.abs(reference.derivative(cost, start, step=1e-4)).max()
    slope = np.abs(reference.derivative(cost, fitted.A, step=1e-4)).max()
    assert slope < 1e-6 * at_start


@EVERY_LOSS
def test_no_other_search_finds_less(loss, rng):
    Phi, labels, start = problem(rng, n=40, q=2)
    fitted = exactly(loss, Phi, labels, start, 0.5)

    def cost(a):
        return plain_cost(loss, a.reshape(start.shape), Phi, labels, 0.5)

    # Kinks of the slope can end a search by differences early; begun anew, it goes on.
    other = minimize(cost, start.ravel())
    for _ in range(3):
        other = minimize(cost, other.x)
    assert other.fun == pytest.approx(fitted.cost, rel=1e-7)
    assert fitted.cost <= other.fun * (1 + 1e-12)
    assert fitted.cost < plain_cost(loss, start, Phi, labels, 0.5)  # labels may be mostly noise


@EVERY_LOSS
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_what_is_left_to_gain_is_as_small_as_the_tolerance(loss, tolerance, rng):
    Phi, labels, start = problem(rng, n=400)
    best = exactly(loss, Phi, labels, start, 1.0).cost
    fitted = fit_linear(loss, Phi, labels, start, 1.0, tolerance=tolerance)
    assert fitted.converged
    assert fitted.excess <= tolerance
    assert best * (1 - 1e-12) <= fitted.cost < best * (1 + tolerance)


@EVERY_LOSS
def test_a_fit_that_was_stopped_says_so(loss, rng):
    Phi, labels, start = problem(rng, n=400)
    stopped = fit_linear(loss, Phi, labels, start, 1.0, max_iterations=5, tolerance=1e-12)
    assert not stopped.converged
    assert stopped.excess > 1e-12
    outputs = Phi @ stopped.A[:-1] + stopped.A[-1]
    slope = LOSSES[loss].at(outputs, labels)[1]
    gradient = np.vstack([Phi.T @ slope + stopped.A[:-1], slope.sum(axis=0)])
    assert stopped.gradient_norm == pytest.approx(np.linalg.norm(gradient))


@pytest.mark.parametrize("penalty", [0.3, 1e-3])
def test_on_patch_features_softmax_is_within_1e_4_of_scikit_learn(penalty):
    """Columns of a Gram matrix of condition 2e4: preconditioned gradients told little."""
    Phi, labels = patch_features(300)
    found = fit_linear("softmax", Phi, labels, np.zeros((Phi.shape[1] + 1, 10)), penalty)
    other = LogisticRegression(C=1 / penalty, solver="newton-cg", tol=1e-6, max_iter=1000)
    with np.errstate(all="ignore"):
        other.fit(Phi.astype(np.float64), labels)
    A = np.vstack([other.coef_.T, other.intercept_])
    best = vectorised_cost("softmax", A, Phi, labels, penalty)
    cost = vectorised_cost("softmax", found.A, Phi, labels, penalty)
    assert cost < best * (1 + 1e-4)
    assert found.cost == pytest.approx(cost, rel=1e-5)
    assert found.converged


@pytest.mark.parametrize("penalty", [30.0, 1.0, 0.1])
def test_on_patch_features_hinge_is_within_1e_4_of_its_optimum(penalty):
    """The dual problem bounds the optimum from below, whatever the search."""
    Phi, labels = patch_features(300)
    start = np.zeros((Phi.shape[1] + 1, 10))
    found = fit_linear("hinge", Phi, labels, start, penalty)
    best = fit_linear("hinge", Phi.astype(np.float64), labels, start, penalty, tolerance=1e-12)
    # f(A) - min f <= |gradient|^2 / (2 lam), the constants being at their optimum.
    assert best.gradient_norm**2 / (2 * penalty) < 1e-6 * best.cost
    cost = vectorised_cost("hinge", found.A, Phi, labels, penalty)
    assert cost < best.cost * (1 + 1e-4)


def test_few_violated_margins_are_solved_exactly(rng, monkeypatch):
    """As by conjugate gradients, without a preconditioner; rows without weight change nothing."""
    n, q, k = 40, 30, 3
    Phi, labels, start = problem(rng, n, q, k)
    weights = rng.integers(0, 3, n).astype(np.float64)
    given = {"tolerance": 1e-24, "sample_weight": weights}
    one = fit_linear("hinge", Phi, labels, start, 2.0, **given)
    monkeypatch.setattr(convex, "MARGINS", 0)
    other = fit_linear("hinge", Phi, labels, start, 2.0, **given)
    assert one.preconditioner is None
    assert other.preconditioner is not None
    assert one.n_iterations < other.n_iterations
    assert one.cost == pytest.approx(other.cost, rel=1e-12)
    for fitted in (one, other):
        fitted.A[-1] -= fitted.A[-1].mean()  # a constant on all outputs is free
    assert_allclose(one.A, other.A, rtol=1e-5, atol=1e-6 * np.abs(one.A).max())
    # The gradient on the margins alone, and none by the constants.
    rows = np.column_stack([Phi, np.ones(n)])
    slopes = LOSSES["hinge"].at(rows @ one.A, labels)[1] * weights[:, None]
    gradient = rows.T @ slopes + 2.0 * np.vstack([one.A[:-1], np.zeros(k)])
    # The tolerance bounds what is left to gain, g'H^-1 g / 2; H is at most 2 rows'V rows + lam.
    curvature = 2 * np.linalg.norm(rows * np.sqrt(weights)[:, None], 2) ** 2 + 2.0
    assert np.linalg.norm(gradient) <= np.sqrt(2 * curvature * 1e-24 * one.cost)


def test_a_step_is_exact_where_no_margin_changes_its_side(rng):
    """All margins are violated at both ends: one step of the dual form reaches the optimum."""
    n, q, k = 12, 20, 3
    Phi, labels = 0.01 * rng.standard_normal((n, q)), rng.integers(k, size=n)
    fitted = fit_linear("hinge", Phi, labels, np.zeros((q + 1, k)), 5.0, tolerance=1e-24)
    slopes = LOSSES["hinge"].at(Phi @ fitted.A[:-1] + fitted.A[-1], labels)[1]
    assert np.count_nonzero(slopes > 0) == n * (k - 1)
    # Normal equations of least squares on the margins, all weights in one vector.
    B = np.array(
        [
            np.outer(np.append(row, 1.0), np.eye(k)[c] - np.eye(k)[y]).ravel()
            for row, y in zip(Phi, labels, strict=True)
            for c in range(k)
            if c != y
        ]
    )
    penalty = np.repeat(np.append(np.full(q, 5.0), 0.0), k)
    expected = np.linalg.lstsq(B.T @ B + np.diag(penalty), -B.sum(axis=0))[0].reshape(q + 1, k)
    assert_allclose(fitted.A, expected, atol=1e-12 * np.abs(expected).max())
    assert fitted.n_iterations <= 5  # the second step finds that nothing is left


def test_rows_that_hardly_curve_are_left_out_of_products_alone(rng, monkeypatch):
    """Nine rows of ten are right by a wide margin; the optimum is that of all rows."""
    Phi, labels, start = problem(rng, n=60, q=4)
    right = exactly("softmax", Phi, labels, start, 1.0).A
    more = 10 * Phi.std(axis=0) * rng.standard_normal((5400, 4)) + Phi.mean(axis=0)
    outputs = np.sort(more @ right[:-1] + right[-1], axis=1)
    more = more[np.argsort(outputs[:, -2] - outputs[:, -1])[:540]]
    Phi = np.vstack([Phi, more])
    labels = np.append(labels, (more @ right[:-1] + right[-1]).argmax(axis=1))
    sizes, times_hessian = [], convex._Problem.times_hessian

    def counted(problem, point, direction):
        sizes.append(point.n_curved)
        return times_hessian(problem, point, direction)

    monkeypatch.setattr(convex._Problem, "times_hessian", counted)
    few = exactly("softmax", Phi, labels, start, 1.0)
    assert min(sizes) < 300  # of 600
    sizes.clear()
    monkeypatch.setattr(convex, "_STRAIGHT", -1.0)
    every = exactly("softmax", Phi, labels, start, 1.0)
    assert min(sizes) == 600
    assert few.cost == pytest.approx(every.cost, rel=1e-9)


@EVERY_LOSS
@pytest.mark.parametrize("weight", [1e3, 1e5])
def test_a_few_heavy_rows_hide_no_other(loss, weight, rng):
    """The light rows have next to none of the curvature, and all of what is left to gain."""
    Phi, labels, start = problem(rng, n=2000, q=8)
    heavy = np.array([np.flatnonzero(labels == c)[0] for c in range(3)])
    weights = np.ones(2000)
    weights[heavy] = weight
    fitted, best = (
        fit_linear(
            loss, Phi, labels, start, 1.0, sample_weight=weights, tolerance=tolerance,
            max_iterations=most,
        )
        for tolerance, most in ((1e-6, 300), (1e-12, 3000))
    )  # fmt: skip
    assert fitted.converged
    assert best.converged
    assert fitted.cost < best.cost * (1 + 1e-5)  # the hinge estimates too little by a few times


@EVERY_LOSS
@pytest.mark.parametrize("size", [1e3, 1e5])
def test_a_start_beyond_all_measure_costs_some_steps(loss, size, rng):
    """Rows that are wrong beyond doubt do not curve, and yet lead the way."""
    Phi, labels, _ = problem(rng, n=500, q=10)
    start = size * rng.standard_normal((11, 3))
    best = exactly(loss, Phi, labels, 0 * start, 1.0).cost
    fitted = fit_linear(loss, Phi, labels, start, 1.0, max_iterations=300)
    assert fitted.converged
    assert fitted.cost < best * (1 + 1e-4)
    # In single precision, outputs of the start leave no rounding errors behind.
    rough = fit_linear(loss, Phi.astype(np.float32), labels, start, 1.0, max_iterations=300)
    assert plain_cost(loss, rough.A, Phi, labels, 1.0) < best * (1 + 1e-3)
    assert rough.cost == pytest.approx(plain_cost(loss, rough.A, Phi, labels, 1.0), rel=1e-4)


@EVERY_LOSS
def test_less_is_done_for_a_larger_tolerance(loss, rng):
    Phi, labels, start = problem(rng, n=400)
    counts = [
        fit_linear(loss, Phi, labels, start, 1.0, tolerance=tolerance).n_iterations
        for tolerance in (1e-1, 1e-3, 1e-8)
    ]
    assert counts[0] <= counts[1] <= counts[2]  # a step of several products may reach two of them
    assert counts[0] < counts[2]


@EVERY_LOSS
def test_mixed_columns_cost_no_iterations(loss, rng):
    """That is what the preconditioner is for: a Gram matrix of condition 1e5, hardly a penalty."""
    Phi, labels, start = problem(rng, n=400, q=8)
    Phi = (Phi - Phi.mean(axis=0)) / Phi.std(axis=0)
    turned = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    mixed = Phi @ turned * 10 ** np.linspace(-1.5, 1, 8) @ turned.T
    plain, other = (
        fit_linear(loss, rows, labels, start, 1e-9, tolerance=1e-6) for rows in (Phi, mixed)
    )
    assert other.cost == pytest.approx(plain.cost, rel=1e-5)
    assert abs(other.n_iterations - plain.n_iterations) <= 3
    assert other.n_iterations < 40


def weighted_gram(loss, A, Phi, labels, penalty):
    """Sum over rows of curvature times outer product, and the penalty, but on the constant.

    A row counts for a millionth of its weight at least, however flat its loss.
    """
    rows = np.column_stack([Phi, np.ones(len(Phi))])
    gram = np.diag(np.append(np.full(Phi.shape[1], float(penalty)), 0.0))
    for row, y in zip(rows, labels, strict=True):
        curvature = LOSSES[loss].at((row @ A)[None], np.array([y]))[2][0] + 1e-6
        gram += curvature * np.outer(row, row)
    gram[-1, -1] *= 1 + 1e-6  # without a penalty of its own
    return gram


def assert_factorises(M, gram):
    """Up to a rounding of each entry of the factor to single precision."""
    assert M.factor.dtype == np.float32
    assert_array_equal(M.factor, np.triu(M.factor))
    assert_array_equal(np.diag(M.factor), 1)
    R = M.factor.astype(np.float64) * M.pivots
    # An entry is a sum of products of two entries, whose squares sum to the diagonal.
    bound = 2 * float(np.finfo(np.float32).eps)
    assert_allclose(R.T @ R, gram, rtol=0, atol=bound * np.diag(gram).max())
    B = np.ones((len(gram), 2))
    assert_allclose(gram @ M.solve(B), B, rtol=0, atol=bound * np.linalg.cond(gram))


@EVERY_LOSS
def test_the_preconditioner_is_the_factor_of_the_weighted_gram_matrix(loss, rng):
    Phi, labels, _ = problem(rng)
    start = 0.1 * rng.standard_normal((5, 3))
    (factor,) = fit_linear(loss, Phi, labels, start, 2.0, max_iterations=1).preconditioner.factors
    assert_factorises(factor, weighted_gram(loss, start, Phi, labels, 2.0))


@EVERY_LOSS
def test_where_rows_are_many_some_stand_for_all(loss, rng, monkeypatch):
    """The factor is made of about 50 of 118 rows: 10 for each column."""
    monkeypatch.setattr(convex, "ROWS", 10)
    Phi, labels, _ = problem(rng, n=118, q=5)
    start = 0.1 * rng.standard_normal((6, 3))
    rows = np.column_stack([Phi, np.ones(118)])
    curvature = LOSSES[loss].at(rows @ start, labels)[2]
    curved = np.flatnonzero(curvature)
    chosen, weights = drawn_by_weight(curvature[curved] + 1e-6, 50)
    some = rows[curved[chosen]]
    (factor,) = fit_linear(loss, Phi, labels, start, 2.0, max_iterations=1).preconditioner.factors
    gram = some.T @ (weights[:, None] * some)
    gram[np.arange(5), np.arange(5)] += 2.0
    gram[-1, -1] *= 1 + 1e-6
    assert_factorises(factor, gram)
    # The optimum is that of all rows.
    monkeypatch.setattr(convex, "ROWS_FOR_GRAM", 2)
    some = exactly(loss, Phi, labels, start, 2.0)
    monkeypatch.setattr(convex, "ROWS_FOR_GRAM", 1000)
    every = exactly(loss, Phi, labels, start, 2.0)
    pivots = [fitted.preconditioner.factors[0].pivots for fitted in (some, every)]
    assert not np.allclose(*pivots, rtol=1e-6)
    for fitted in (some, every):
        fitted.A[-1] -= fitted.A[-1].mean()  # a constant on all outputs is free
    assert some.cost == pytest.approx(every.cost, rel=1e-9)
    assert_allclose(some.A, every.A, rtol=1e-4, atol=1e-5)


def test_many_rows_without_weight_are_no_fault(rng, monkeypatch):
    """30 rows have a weight, fewer than a preconditioner is made of."""
    monkeypatch.setattr(convex, "ROWS", 50)
    Phi, labels, start = problem(rng, n=200)
    weights = np.where(np.arange(200) < 30, 1.0, 0.0)
    found = fit_linear("softmax", Phi, labels, start, 1.0, sample_weight=weights)
    alone = fit_linear("softmax", Phi[:30], labels[:30], start, 1.0)
    assert found.cost == pytest.approx(alone.cost, rel=1e-5)


def test_rows_of_large_curvature_save_products(rng, monkeypatch):
    """With well separated classes few rows curve much, and evenly spaced rows miss most of them."""
    monkeypatch.setattr(convex, "ROWS", 100)
    monkeypatch.setattr(convex, "ROWS_FOR_GRAM", 5)
    Phi, _, _ = problem(rng, n=4000, q=20)
    labels = (Phi @ rng.standard_normal((20, 3))).argmax(axis=1)
    by_weight = fit_linear("softmax", Phi, labels, np.zeros((21, 3)), 0.01)

    def evenly(weights, size):
        every = slice(None, None, max(1, len(weights) // size))
        return np.arange(len(weights))[every], weights[every] * len(weights) / len(weights[every])

    monkeypatch.setattr(convex, "drawn_by_weight", evenly)
    even = fit_linear("softmax", Phi, labels, np.zeros((21, 3)), 0.01)
    assert by_weight.cost < 1.0001 * even.cost
    assert by_weight.n_iterations < even.n_iterations


def test_columns_of_any_scale_can_be_preconditioned(rng):
    """The constant column is nothing beside the penalty: its pivot is 1e-60."""
    Phi, labels, start = problem(rng, n=60)
    s = 1e-120
    fitted = fit_linear("softmax", Phi, labels, start, 1.0, sample_weight=np.full(60, s))
    # Without slopes, the best probabilities are the shares of the classes.
    shares = np.bincount(labels, minlength=3) / 60
    assert fitted.cost == pytest.approx(-60 * s * float(shares @ np.log(shares)), rel=1e-6)


@EVERY_LOSS
def test_a_preconditioner_that_is_given_is_used_in_the_first_round(loss, rng):
    Phi, labels, start = problem(rng, n=400)
    first = fit_linear(loss, Phi, labels, start, 1.0)
    kept = first.preconditioner.factors[0].factor.copy()
    given = {"preconditioner": first.preconditioner}
    again = fit_linear(loss, Phi, labels, start, 1.0, max_iterations=1, **given)
    assert_array_equal(again.preconditioner.factors[0].factor, kept)
    assert_array_equal(first.preconditioner.factors[0].factor, kept)  # left as it was
    # Later steps make their own.
    identity = Preconditioner((Factor.of(np.eye(5)),))
    later = fit_linear(loss, Phi, labels, start, 1.0, preconditioner=identity)
    assert not np.allclose(later.preconditioner.factors[0].factor, np.eye(5))


@EVERY_LOSS
@pytest.mark.parametrize("other", ["penalty", "identity"])
def test_the_optimum_does_not_depend_on_the_preconditioner(loss, other, rng):
    Phi, labels, start = problem(rng)
    best = exactly(loss, Phi, labels, start, 1.0)
    identity = Preconditioner((Factor.of(np.eye(5)),))
    M = identity if other == "identity" else exactly(loss, Phi, labels, start, 30).preconditioner
    found = fit_linear(loss, Phi, labels, start, 1.0, tolerance=1e-24, preconditioner=M)
    assert found.cost == pytest.approx(best.cost, rel=1e-9)
    assert_allclose(found.A, best.A, rtol=1e-4, atol=1e-5)


@EVERY_LOSS
def test_the_weights_shrink_as_the_penalty_grows(loss, rng):
    Phi, labels, start = problem(rng)
    fits = [exactly(loss, Phi, labels, start, 10.0**e) for e in range(-2, 4)]
    norms = [np.linalg.norm(fitted.A[:-1]) for fitted in fits]
    assert (np.diff(norms) < 0).all()
    assert (np.diff([fitted.cost for fitted in fits]) > 0).all()


def test_without_columns_the_probabilities_are_the_shares(rng):
    """The constant column is free: neither a large penalty nor no column at all changes that."""
    Phi, labels, start = problem(rng)
    shares = np.bincount(labels, minlength=3) / len(labels)
    for rows, first in ((Phi, start), (Phi[:, :0], start[-1:])):
        A = exactly("softmax", rows, labels, first, 1e9).A
        p = np.exp(A[-1])
        assert_allclose(p / p.sum(), shares, rtol=1e-6)
        assert_allclose(A[:-1], 0, atol=1e-6)


# --- the way there -----------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "dtype"), [("softmax", np.float32), ("hinge", np.float64)])
def test_threads_and_memory_maps_change_no_bit(loss, dtype, rng, tmp_path):
    """More rows than a block and more columns than a tile."""
    n, q = ROWS + 500, 530
    Phi, labels, start = problem(rng, n, q, dtype=dtype)
    mapped = np.memmap(tmp_path / "rows", dtype=dtype, mode="w+", shape=Phi.shape)
    mapped[:] = Phi
    fits = [fit_linear(loss, rows, labels, start, 10.0, max_iterations=3) for rows in (Phi, mapped)]
    with ThreadPoolExecutor(2) as threads:
        fits.append(fit_linear(loss, Phi, labels, start, 10.0, max_iterations=3, threads=threads))
    assert fits[0].n_iterations > 1
    for other in fits[1:]:
        assert_array_equal(other.A, fits[0].A)
        assert (other.cost, other.gradient_norm) == (fits[0].cost, fits[0].gradient_norm)


@EVERY_LOSS
def test_blocks_of_rows_change_nothing_but_rounding(loss, rng, monkeypatch):
    Phi, labels, start = problem(rng)
    whole = exactly(loss, Phi, labels, start, 1.0)
    monkeypatch.setattr("varpro_nn.linalg.convex.ROWS", 7)
    assert_allclose(exactly(loss, Phi, labels, start, 1.0).A, whole.A, rtol=1e-5, atol=1e-6)


@EVERY_LOSS
def test_single_precision_is_close_to_double(loss, rng):
    Phi, labels, start = problem(rng)
    double = exactly(loss, Phi, labels, start, 1.0)
    single = fit_linear(loss, Phi.astype(np.float32), labels, start, 1.0, tolerance=1e-6)
    assert single.A.dtype == np.float64
    assert single.cost == pytest.approx(double.cost, rel=1e-5)
    assert_allclose(single.A, double.A, atol=1e-2 * np.abs(double.A).max())


@EVERY_LOSS
def test_from_the_optimum_there_is_nowhere_to_go(loss, rng):
    Phi, labels, start = problem(rng)
    best = exactly(loss, Phi, labels, start, 1.0)
    again = fit_linear(loss, Phi, labels, best.A, 1.0)
    assert again.n_iterations <= convex._FEWEST + 2  # one step, to find that it gains nothing
    assert again.cost <= best.cost * (1 + 1e-12)
    assert_allclose(again.A, best.A, rtol=1e-4, atol=1e-4)


@EVERY_LOSS
def test_arguments_are_not_changed(loss, rng):
    Phi, labels, _ = problem(rng)
    start = rng.standard_normal((5, 3))
    before = Phi.copy(), labels.copy(), start.copy()
    fit_linear(loss, Phi, labels, start, 1.0)
    for array, old in zip((Phi, labels, start), before, strict=True):
        assert_array_equal(array, old)


# --- what is hard ------------------------------------------------------------------------


@EVERY_LOSS
def test_a_column_that_does_not_vary_gets_no_weight(loss, rng):
    Phi, labels, start = problem(rng)
    alone = exactly(loss, Phi, labels, start, 1.0)
    wider = np.column_stack([Phi, np.full(len(Phi), 5.0)])
    found = exactly(loss, wider, labels, np.vstack([start, start[:1]]), 1.0)
    assert_allclose(found.A[4], 0, atol=1e-5 * np.abs(alone.A).max())
    assert found.cost == pytest.approx(alone.cost, rel=1e-9)


@EVERY_LOSS
def test_twins_share_their_weight(loss, rng):
    Phi, labels, start = problem(rng)
    found = exactly(loss, np.hstack([Phi, Phi]), labels, np.vstack([start, start[:4]]), 2.0)
    alone = exactly(loss, Phi, labels, start, 1.0)
    atol = 1e-5 * np.abs(alone.A).max()
    assert_allclose(found.A[:4], found.A[4:8], atol=atol)
    assert_allclose(2 * found.A[:4], alone.A[:4], atol=atol)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_separable_rows_leave_the_weights_finite(loss, dtype, rng):
    Phi = rng.standard_normal((60, 3)).astype(dtype)
    labels = (Phi[:, 0] > 0).astype(int) + (Phi[:, 0] > 1)
    Phi[:, 0] += labels
    fitted = fit_linear(loss, Phi, labels, np.zeros((4, 3)), 1e-6)
    assert np.isfinite(fitted.A).all()
    assert np.isfinite(fitted.cost)
    outputs = Phi @ fitted.A[:-1] + fitted.A[-1]
    assert_array_equal(outputs.argmax(axis=1), labels)


@EVERY_LOSS
def test_a_start_far_away_is_left(loss, rng):
    """All outputs far apart: of softmax the curvatures are zero there but for rounding."""
    Phi, labels, _ = problem(rng)
    start = 1e3 * rng.standard_normal((5, 3))
    best = exactly(loss, Phi, labels, 0 * start, 1.0)
    fitted = fit_linear(loss, Phi, labels, start, 1.0)
    assert plain_cost(loss, start, Phi, labels, 1.0) > 1e3 * best.cost
    assert fitted.cost < best.cost * (1 + 1e-3)


@EVERY_LOSS
def test_rows_that_do_not_curve_at_all_are_no_fault(loss):
    """Each is right by a margin at which the loss is zero, and its curvature with it."""
    Phi = np.array([[-1.0], [1.0]] * 5)
    start = np.array([[-1e3, 1e3], [0.0, 0.0]])
    labels = np.array([0, 1] * 5)
    assert not LOSSES[loss].at(Phi @ start[:1], labels)[2].any()
    fitted = fit_linear(loss, Phi, labels, start, 1e-3)
    assert np.isfinite(fitted.A).all()
    assert fitted.cost < 0.1 * plain_cost(loss, start, Phi, labels, 1e-3)


@EVERY_LOSS
def test_fewer_rows_than_columns_and_missing_classes(loss, rng):
    Phi = rng.standard_normal((6, 20))
    labels = np.array([0, 0, 3, 3, 1, 0])  # none of class 2
    fitted = exactly(loss, Phi, labels, np.zeros((21, 4)), 0.1)
    assert np.isfinite(fitted.A).all()
    outputs = Phi @ fitted.A[:-1] + fitted.A[-1]
    assert_array_equal(outputs.argmax(axis=1), labels)
    one = fit_linear(loss, Phi[:1], labels[:1], np.zeros((21, 4)), 0.1)
    assert np.isfinite(one.A).all()


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_that_depend_on_each_other_are_no_fault(loss, dtype, rng):
    """One direction, 300 times: rounding leaves their Gram matrix indefinite by 1e-5."""
    x = rng.standard_normal((500, 1))
    labels = (x[:, 0] + rng.standard_normal(500) > 0).astype(int)
    Phi = (x * rng.standard_normal(300)).astype(dtype)
    fitted = fit_linear(loss, Phi, labels, np.zeros((301, 2)), 1e-6, tolerance=1e-4)
    assert fitted.converged
    alone = exactly(loss, x, labels, np.zeros((2, 2)), 1e-9)
    assert fitted.cost < alone.cost * (1 + 1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("penalty", [1e-12, 1.0, 1e12])
@EVERY_LOSS
def test_the_constant_is_fitted_beside_columns_of_any_scale(loss, penalty, scale, rng):
    """Its curvature is 1e-12 of theirs or of the penalty; what it gains is as much as ever."""
    Phi, labels, start = problem(rng)
    Phi[:, :2] *= scale
    fitted = fit_linear(loss, Phi, labels, start, penalty, tolerance=1e-5)
    best = fit_linear(loss, Phi, labels, start, penalty, tolerance=1e-18)
    assert fitted.cost < best.cost * (1 + 1e-5)
    outputs = Phi @ best.A[:-1] + best.A[-1]
    slope = LOSSES[loss].at(outputs, labels)[1].sum(axis=0)
    assert np.abs(slope).max() < 1e-6 * len(labels)


@EVERY_LOSS
@pytest.mark.parametrize("case", ["one class", "one row", "zeros", "equal", "one weight"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("penalty", [1e-12, 1e12])
def test_rows_that_say_little_leave_the_weights_finite(loss, case, dtype, penalty, rng):
    Phi, labels, start = problem(rng, dtype=dtype)
    weights = None
    if case == "one class":
        labels[:] = 1
    elif case == "one row":
        Phi, labels = Phi[:1], labels[:1]
    elif case == "one weight":
        weights = np.zeros(len(Phi))
        weights[5] = 3.0
    else:
        Phi[:] = 0.3 * (case == "equal")
    fitted = fit_linear(
        loss, Phi, labels, start, penalty, sample_weight=weights, max_iterations=300
    )
    assert np.isfinite(fitted.A).all()
    M = fitted.preconditioner
    for factor in () if M is None else M.factors:
        assert np.isfinite(factor.factor).all()
        assert np.isfinite(factor.pivots).all()
    # The search compares costs to the rounding of their products; sums add a few digits.
    rounding = max(2 * np.finfo(dtype).eps, 1e-12)
    assert fitted.cost <= plain_cost(loss, start, Phi, labels, penalty) * (1 + rounding)


@EVERY_LOSS
@pytest.mark.parametrize("seed", range(4))
def test_a_tolerance_below_rounding_leads_to_a_gradient_that_is_rounding(loss, seed):
    """The search cannot tell costs apart that differ by less than eps of the cost.

    With curvature up to L, there ``|g|^2 <= 2 L eps cost``: 2e-6 here.
    """
    Phi, labels, start = problem(np.random.default_rng(seed))
    fitted = exactly(loss, Phi, labels, start, 1.0)
    outputs = Phi @ fitted.A[:-1] + fitted.A[-1]
    slope = LOSSES[loss].at(outputs, labels)[1]
    gradient = np.vstack([Phi.T @ slope + fitted.A[:-1], slope.sum(axis=0)])
    rows = np.column_stack([Phi, np.ones(len(Phi))])
    # The Hessian of the hinge by the outputs is at most k, that of softmax less.
    curvature = slope.shape[1] * np.linalg.norm(rows, 2) ** 2 + 1.0
    eps = np.finfo(np.float64).eps
    assert np.linalg.norm(gradient) < np.sqrt(2 * curvature * eps * fitted.cost)


# --- weights -----------------------------------------------------------------------------


@EVERY_LOSS
def test_a_row_of_weight_three_is_three_rows(loss, rng):
    Phi, labels, start = problem(rng)
    times = rng.integers(0, 4, len(Phi))
    repeated = np.repeat(np.arange(len(Phi)), times)
    weighted = fit_linear(
        loss, Phi, labels, start, 2.0, tolerance=1e-24,
        sample_weight=times.astype(np.float64),
    )  # fmt: skip
    plain = exactly(loss, Phi[repeated], labels[repeated], start, 2.0)
    assert weighted.cost == pytest.approx(plain.cost, rel=1e-9)
    assert_allclose(weighted.A, plain.A, rtol=1e-4, atol=1e-5 * np.abs(plain.A).max())


@pytest.mark.parametrize("penalty", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_single_class_is_fitted_in_a_few_steps(loss, penalty, rng):
    """The constant column grows for ever: softmax lowers its cost to nothing."""
    Phi, labels = rng.standard_normal((40, 6)), np.zeros(40, dtype=np.int64)
    fitted = fit_linear(loss, Phi, labels, np.zeros((7, 3)), penalty, tolerance=1e-5)
    assert fitted.converged
    assert fitted.cost < 40 * 1e-12
    assert fitted.n_iterations < 100


def diagonal_block(loss, A, Phi, labels, penalty, c):
    """Second derivative of the cost by the weights of one output, by the formulas of a row."""
    rows = np.column_stack([Phi, np.ones(len(Phi))])
    gram = np.diag(np.append(np.full(Phi.shape[1], float(penalty)), 0.0))
    for row, y in zip(rows, labels, strict=True):
        z = row @ A
        if loss == "softmax":
            p = np.exp(z[c]) / np.exp(z).sum()
            curvature = p * (1 - p) + 1e-6
        else:
            violated = 1 + z - z[y] > 0
            violated[y] = False
            curvature = violated.sum() if c == y else violated[c]
        gram += curvature * np.outer(row, row)
    gram[-1, -1] *= 1 + 1e-6  # without a penalty of its own
    return gram


@EVERY_LOSS
def test_each_output_has_a_factor_once_products_have_cost_as_much(loss, rng, monkeypatch):
    """After the first step, if these factors cost nothing."""
    Phi, labels, start = problem(rng)
    best = exactly(loss, Phi, labels, start, 2.0)
    assert not best.preconditioner.is_by_output
    made = []
    original = convex._Problem.factor_by_output

    def recorded(problem, point):
        made.append((point, original(problem, point)))
        return made[-1][1]

    monkeypatch.setattr(convex._Problem, "price_of_factors", lambda problem, point: 1.0)
    monkeypatch.setattr(convex._Problem, "factor_by_output", recorded)
    monkeypatch.setattr(convex, "MANY_PRODUCTS", 0)
    found = fit_linear(loss, Phi, labels, start, 2.0, tolerance=1e-24)
    point, M = made[0]
    assert len(M.factors) == 3
    for c, factor in enumerate(M.factors):
        assert_factorises(factor, diagonal_block(loss, point.A, Phi, labels, 2.0, c))
    B = rng.standard_normal((5, 3))
    expected = np.column_stack([factor.solve(B[:, [c]]) for c, factor in enumerate(M.factors)])
    expected[-1] -= expected[-1].mean()
    assert_array_equal(M.solve(B), expected)
    # The optimum is the same, and for any number of threads.
    assert found.preconditioner.is_by_output
    assert found.cost == pytest.approx(best.cost, rel=1e-9)
    assert_allclose(found.A, best.A, rtol=1e-4, atol=1e-5)
    with ThreadPoolExecutor(2) as threads:
        shared = fit_linear(loss, Phi, labels, start, 2.0, tolerance=1e-24, threads=threads)
    assert_array_equal(found.A, shared.A)


def test_many_classes_and_few_images_of_each_take_few_products(rng, monkeypatch):
    """Rows that the outputs separate: one factor for all takes several times as many products."""
    monkeypatch.setattr(convex, "MARGINS", 0)
    labels = np.arange(160) % 40
    Phi = rng.standard_normal((40, 20))[labels] + rng.standard_normal((160, 20))
    counts = {}
    for most in (2**30, 0):
        monkeypatch.setattr(convex, "LARGEST_FACTORS", most)
        fitted = fit_linear("hinge", Phi, labels, np.zeros((21, 40)), 0.1)
        counts[most] = fitted.n_iterations
        assert fitted.converged
        assert fitted.preconditioner.is_by_output == (most > 0)
    assert counts[2**30] < counts[0] / 2
