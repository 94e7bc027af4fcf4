"""Cross-entropy with its linear weights projected out, against slow references."""

from typing import Any

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax
from unit_checks import PROBLEMS, CountingUnits, inputs_of

from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg.convex import ConvexFit, fit_linear
from varpro_nn.units import whole_image_units
from varpro_nn.varpro.cross_entropy import CrossEntropyFunctional
from varpro_nn.varpro.fit import fit

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"ridge": 0.3},
    "decay": {"ridge": 1.0, "weight_decay": 0.1},
    "fixed": {"ridge": 0.3, "weight_decay": 0.1, "fixed": 2},
}
EVERY_CASE = pytest.mark.parametrize(
    ("problem", "setting"),
    [
        ("bilinear", "plain"), ("bilinear", "decay"), ("bilinear", "fixed"),
        ("cells", "fixed"), ("few_cells", "plain"),
    ],
)  # fmt: skip


def case_of(problem, setting, rng, **choices: Any):
    """A functional in double precision with an exact inner fit, a start, and its parts."""
    units, _, k = PROBLEMS[problem]
    inputs = inputs_of(problem, rng)
    labels = rng.permutation(np.arange(len(inputs)) % k)
    arguments = {"dtype": np.float64, "tolerance": 1e-22, **SETTINGS[setting]}
    fixed = rng.standard_normal((len(inputs), arguments.pop("fixed", 0)))
    if fixed.size:
        arguments["fixed"] = fixed
    functional = CrossEntropyFunctional(units, inputs, np.eye(k)[labels], **arguments, **choices)
    return functional, units.init(inputs, rng).ravel(), inputs, labels, fixed


def design(functional, w, inputs, fixed):
    units = functional.units
    Phi = units.features(w.reshape(units.n_units, -1), inputs)
    return np.hstack([Phi, fixed, np.ones((len(Phi), 1))])


def joint_matrix(functional, w, A, inputs, fixed):
    """Gauss-Newton matrix over all of A, then w: sum of J_i' S_i J_i, and the penalties."""
    k, p = A.shape[1], w.size
    Phi = design(functional, w, inputs, fixed)
    by_weights = reference.derivative(lambda v: design(functional, v, inputs, fixed) @ A, w)
    H = np.zeros((A.size + p, A.size + p))
    for phi, moved in zip(Phi, by_weights, strict=True):
        probability = softmax(phi @ A)
        S = np.diag(probability) - np.outer(probability, probability)
        J = np.hstack([np.kron(phi, np.eye(k)), moved])  # outputs by A, row by row, and by w
        H += J.T @ S @ J
    penalty = np.full(A.shape, functional.ridge)
    penalty[-1] = 0
    return H + np.diag(np.append(penalty.ravel(), np.full(p, functional.weight_decay)))


# --- cost and gradient -------------------------------------------------------------------


@EVERY_CASE
def test_the_cost_is_the_formula_at_the_best_linear_weights(problem, setting, rng):
    functional, w, inputs, labels, fixed = case_of(problem, setting, rng)
    Phi = design(functional, w, inputs, fixed)

    def cost(A):
        outputs = Phi @ A
        losses = logsumexp(outputs, axis=1) - outputs[np.arange(len(labels)), labels]
        penalties = functional.ridge * np.sum(A[:-1] ** 2) + functional.weight_decay * w @ w
        return losses.sum() + 0.5 * penalties

    point = functional.evaluate(w)
    assert point.A.shape == (Phi.shape[1], len(set(labels)))
    assert_allclose(point.cost, cost(point.A), rtol=1e-12)
    assert functional.cost(w) == point.cost
    slope = reference.derivative(cost, point.A)
    assert np.abs(slope).max() < 1e-7
    assert np.isnan([point.loo_mse, point.loo_error]).all()
    assert point.rank == len(point.A)


@EVERY_CASE
def test_gradient_agrees_with_finite_differences(problem, setting, rng):
    functional, w, *_ = case_of(problem, setting, rng)
    numeric = reference.derivative(functional.cost, w)
    atol = 5e-7 * np.abs(numeric).max()  # the inner fit ends where the cost no longer changes
    assert_allclose(functional.gradient(w), numeric, atol=atol)
    assert_allclose(functional.normal_equations(w)[1], numeric, atol=atol)


def test_gradient_is_as_exact_as_the_inner_fit(rng):
    """To about the root of the tolerance, of which 200 draws took at most 0.46."""
    images, tau = rng.random((300, 5, 4)), np.eye(4)[rng.integers(4, size=300)]
    units = whole_image_units("bilinear", (5, 4), 6)
    w = units.init(images, rng).ravel()

    def gradient(tolerance):
        functional = CrossEntropyFunctional(
            units, images, tau, dtype=np.float64, tolerance=tolerance
        )
        return functional.gradient(w)

    exact = gradient(1e-14)
    for tolerance in (1e-5, 1e-7, 1e-9):
        error = np.linalg.norm(gradient(tolerance) - exact)
        assert error < 2 * np.sqrt(tolerance) * np.linalg.norm(exact)


@EVERY_CASE
def test_matrix_is_the_joint_one_with_the_linear_weights_eliminated(problem, setting, rng):
    functional, w, inputs, _, fixed = case_of(problem, setting, rng)
    A = functional.evaluate(w).A
    joint = joint_matrix(functional, w, A, inputs, fixed)
    c = A.size
    expected = joint[c:, c:] - joint[c:, :c] @ np.linalg.pinv(joint[:c, :c]) @ joint[:c, c:]
    H, _ = functional.normal_equations(w)
    assert_allclose(H, expected, atol=1e-6 * np.abs(expected).max())
    # What is eliminated is not small.
    assert np.abs(joint[c:, c:] - expected).max() > 1e-2 * np.abs(expected).max()


@EVERY_CASE
def test_matrix_is_symmetric_and_not_negative(problem, setting, rng):
    functional, w, *_ = case_of(problem, setting, rng)
    H, _ = functional.normal_equations(w)
    assert_allclose(H, H.T, atol=1e-13 * np.abs(H).max())
    eigenvalues = np.linalg.eigvalsh(H)
    assert eigenvalues[0] > functional.weight_decay - 1e-9 * eigenvalues[-1]
    assert eigenvalues[-1] > 1e-3


@EVERY_CASE
def test_small_problem_has_the_same_cost_gradient_and_matrix(problem, setting, rng):
    functional, w, *_ = case_of(problem, setting, rng)
    H, g = functional.normal_equations(w)
    f, J = functional.reduced(w)
    assert J.shape == (w.size + 1, w.size)
    assert_allclose(f @ f / 2, functional.cost(w), rtol=1e-12)
    assert_allclose(J.T @ f, g, rtol=1e-9, atol=1e-11 * np.abs(g).max())
    assert_allclose(J.T @ J, H, atol=1e-10 * np.abs(H).max())
    assert_allclose(functional.reduced_residual(w), f, rtol=1e-14)


# --- sample weights ----------------------------------------------------------------------


def test_weights_are_repetitions(rng, monkeypatch):
    """Also of no times; summed in small blocks."""
    units, _, k = PROBLEMS["cells"]
    images = inputs_of("cells", rng)
    n = len(images)
    times = rng.integers(0, 4, n)
    labels, fixed = rng.permutation(np.arange(n) % k), rng.standard_normal((n, 2))
    settings = {"ridge": 0.3, "weight_decay": 0.1, "dtype": np.float64, "tolerance": 1e-22}
    w = units.init(images, rng).ravel()
    tau, at = np.eye(k)[labels], np.repeat(np.arange(n), times)
    repeated = CrossEntropyFunctional(units, images[at], tau[at], fixed=fixed[at], **settings)
    monkeypatch.setattr("varpro_nn.varpro.design_matrix.DERIVATIVE_BYTES", 1)
    weighted = CrossEntropyFunctional(
        units, images, tau, sample_weight=times, fixed=fixed, **settings
    )
    assert_allclose(weighted.cost(w), repeated.cost(w), rtol=1e-12)
    for found, expected in zip(
        weighted.normal_equations(w), repeated.normal_equations(w), strict=True
    ):
        # The inner fits end at rounding errors of their costs: sqrt(eps).
        assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    equal = CrossEntropyFunctional(
        units, images, tau, sample_weight=np.ones(n), fixed=fixed, **settings
    )
    assert np.abs(weighted.gradient(w) - equal.gradient(w)).max() > 0.1


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (np.ones(9), r"sample_weight must be \(10,\)"),
        (np.full(10, np.nan), "sample_weight must be finite"),
        (np.full(10, -1.0), "sample_weight must be finite and not negative, got -1.0 in row 0"),
        (np.zeros(10), "positive for one row at least"),
    ],
)
def test_weights_that_are_none(weights, match, rng):
    with pytest.raises(ValueError, match=match):
        make(rng, np.eye(2)[[0, 1] * 5], sample_weight=weights)


# --- precision, blocks, memory of the start ----------------------------------------------


@pytest.mark.parametrize("problem", ["bilinear", "cells"])
def test_sums_do_not_depend_on_the_blocks(problem, rng, monkeypatch):
    functional, w, *_ = case_of(problem, "fixed", rng)
    H, g = functional.normal_equations(w)
    monkeypatch.setattr("varpro_nn.varpro.design_matrix.DERIVATIVE_BYTES", 4_000)
    assert len(functional.design.derivative_slices()) > 1
    H_blocks, g_blocks = functional.normal_equations(w)
    assert_allclose(H_blocks, H, atol=1e-12 * np.abs(H).max())
    assert_allclose(g_blocks, g, atol=1e-12 * np.abs(g).max())


@pytest.mark.parametrize("problem", ["bilinear", "cells"])
def test_single_precision_is_close_to_double(problem, rng):
    functional, w, inputs, _, fixed = case_of(problem, "fixed", rng)
    single = CrossEntropyFunctional(
        functional.units, inputs, functional.tau, fixed=fixed, ridge=0.3, weight_decay=0.1,
        tolerance=functional.tolerance,
    )  # fmt: skip
    assert single.cost(w) == pytest.approx(functional.cost(w), rel=1e-5)
    H, g = functional.normal_equations(w)
    H_single, g_single = single.normal_equations(w)
    # The inner fit in single precision ends where its cost no longer changes. A step dA to there
    # has dA'Y dA < 2 eps cost, and moves the gradient by X'dA: at most by the root of that times
    # a diagonal entry of the matrix before the linear weights are eliminated.
    eps = np.finfo(np.float32).eps
    A = functional.evaluate(w).A
    before = np.diag(joint_matrix(functional, w, A, inputs, fixed))[A.size :].max()
    assert np.abs(H_single - H).max() < np.sqrt(eps) * np.abs(H).max()
    assert np.abs(g_single - g).max() < np.sqrt(2 * eps * functional.cost(w) * before)


@pytest.mark.parametrize("problem", ["bilinear", "cells"])
def test_the_way_to_a_point_matters_no_more_than_the_tolerance(problem, rng):
    functional, w, *_ = case_of(problem, "decay", rng)
    exact = functional.cost(w)
    functional.tolerance = 1e-5
    for size in (0.1, 1.0, 5.0):
        functional.cost(w + size * rng.standard_normal(w.size))
        assert functional.cost(w) == pytest.approx(exact, rel=2e-5)


def test_the_inner_fit_starts_where_the_last_one_ended(rng, monkeypatch):
    functional, w, *_ = case_of("bilinear", "plain", rng)
    starts = []

    def record(loss, Phi, labels, start, *rest, **options):
        starts.append(start)
        return fit_linear(loss, Phi, labels, start, *rest, **options)

    monkeypatch.setattr("varpro_nn.varpro.cross_entropy.fit_linear", record)
    found = [functional.evaluate(v).A for v in (w, w + 0.1, w + 0.2)]
    assert not starts[0].any()
    assert_array_equal(starts[1:], found[:-1])


def test_one_inner_fit_serves_cost_gradient_and_matrix(rng):
    units, _, k = PROBLEMS["bilinear"]
    inputs = inputs_of("bilinear", rng)
    counting = CountingUnits(units)
    functional = CrossEntropyFunctional(counting, inputs, np.eye(k)[np.arange(24) % k])
    w = units.init(inputs, rng).ravel()
    for _ in range(2):
        functional.cost(w.copy())
        functional.gradient(w.copy())
        functional.reduced(w.copy())
    assert counting.n_features == 1
    functional.cost(w + 1)
    assert counting.n_features == 2


def test_arguments_are_not_changed(rng):
    functional, w, inputs, _, fixed = case_of("bilinear", "fixed", rng)
    before = w.copy(), inputs.copy(), fixed.copy()
    fit(functional, w, max_nfev=3)
    for array, old in zip((w, inputs, fixed), before, strict=True):
        assert_array_equal(array, old)


# --- the fit -----------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["bilinear", "cells"])
@pytest.mark.parametrize("solver", ["lsmr", "exact", "lm", "l-bfgs-b"])
def test_fit_lowers_the_cost(solver, problem, rng):
    functional, w, *_ = case_of(problem, "plain", rng)
    functional.tolerance = 1e-8
    start = functional.cost(w)
    report = fit(functional, w, solver=solver, max_nfev=12)
    assert report.cost < (0.9999 if solver == "lm" else 0.99) * start
    assert_allclose(functional.cost(report.w), report.cost, rtol=1e-6)
    assert report.form == ("" if solver == "l-bfgs-b" else "reduced")
    assert np.isnan([report.loo_mse, report.loo_error]).all()


@pytest.mark.parametrize(
    ("solver", "weight_decay", "factor"), [("exact", 1.0, 1.0), ("l-bfgs-b", 0.1, 3.0)]
)
def test_gradient_vanishes_where_it_ends(solver, weight_decay, factor, rng):
    """``|g|^2 <= gtol^2 2 cost c``, with a curvature c along g that is no larger than H's largest.

    L-BFGS-B measures the curvature between two steps, of a Hessian that is not quite H.

    The Gauss-Newton matrix of targets that are noise is not the Hessian: with little weight decay
    the first solver takes any number of steps (200 left up to 14 % of the gradient).
    """
    functional, w, *_ = case_of("bilinear", "decay", rng)
    functional.weight_decay = weight_decay
    report = fit(functional, w, solver=solver, max_nfev=200, ftol=1e-15, xtol=1e-15, gtol=1e-6)
    assert report.status == 1
    _, J = functional.reduced(report.w)
    bound = 1e-6 * np.sqrt(2 * report.cost) * np.linalg.norm(J, 2)
    assert np.linalg.norm(functional.gradient(report.w)) < factor * bound


def test_sure_and_wrong_the_small_problem_keeps_cost_and_gradient(rng):
    """Not the matrix: two wrong labels can ask for a longer step than the cost allows."""
    units = whole_image_units("bilinear", (4, 4), 8)
    images = rng.random((200, 4, 4))
    labels = (images[:, 0, 0] * images[:, 1, 1] > images[:, 2, 2] * images[:, 3, 3]).astype(int)
    labels[:2] = 1 - labels[:2]
    functional = CrossEntropyFunctional(
        units, images, np.eye(2)[labels], ridge=1e-4, dtype=np.float64
    )
    w = fit(functional, units.init(images, rng), max_nfev=10).w
    _, g = functional.normal_equations(w)
    f, J = functional.reduced(w)
    assert_allclose(f @ f / 2, functional.cost(w), rtol=1e-12)
    assert_allclose(J.T @ f, g, rtol=1e-9, atol=1e-11 * np.abs(g).max())


@pytest.mark.parametrize("form", ["operator", "array"])
def test_forms_that_need_the_rows_are_refused(form, rng):
    functional, w, *_ = case_of("bilinear", "plain", rng)
    with pytest.raises(ValueError, match=f"form must be auto or reduced for lsmr, got '{form}'"):
        fit(functional, w, form=form)


def test_the_full_jacobian_is_refused(rng):
    functional, w, *_ = case_of("bilinear", "plain", rng)
    for method in (functional.normal_equations, functional.reduced):
        with pytest.raises(ValueError, match="kind must be 'kaufman' with cross-entropy"):
            method(w, "full")
    with pytest.raises(ValueError, match="kind must be 'kaufman' with cross-entropy"):
        fit(functional, w, jacobian="full")


# --- what is refused, what is hard -------------------------------------------------------


def make(rng, tau, **choices: Any):
    units = whole_image_units("bilinear", (4, 4), 2)
    images = rng.random((len(tau), 4, 4))
    functional = CrossEntropyFunctional(units, images, tau, **{"dtype": np.float64, **choices})
    return functional, units.init(images, rng).ravel()


@pytest.mark.parametrize(
    "tau",
    [
        np.ones((6, 1)),
        np.array([0.0, 1.0] * 3),
        np.full((6, 2), 0.5),
        np.ones((6, 2)),
        np.zeros((6, 2)),
        np.array([[2.0, -1.0]] * 6),
        np.array([[1.0, 1.0, -1.0]] * 6),
    ],
    ids=["one class", "1-D", "halves", "both", "none", "not 0 or 1", "sum of 1"],
)
def test_targets_that_are_not_one_hot_are_refused(tau, rng):
    with pytest.raises(ValueError, match="tau must be one-hot with two classes at least"):
        make(rng, tau)


def test_without_a_ridge_there_is_no_functional(rng):
    with pytest.raises(ValueError, match="ridge must be positive with cross-entropy, got 0"):
        make(rng, np.eye(2)[[0, 1, 0]], ridge=0)


@pytest.mark.parametrize("name", ["ridge", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_penalties_are_checked(name, value, rng):
    with pytest.raises(ValueError, match=f"{name} must be finite and not negative, got {value}"):
        make(rng, np.eye(2)[[0, 1, 0]], **{name: value})


def test_fixed_columns_are_checked(rng):
    with pytest.raises(ValueError, match="fixed must have one row for each of 3 inputs"):
        make(rng, np.eye(2)[[0, 1, 0]], fixed=np.zeros((2, 1)))


def test_a_class_that_is_missing_is_no_fault(rng):
    functional, w = make(rng, np.eye(4)[[0, 1, 3] * 5])
    assert np.isfinite(functional.cost(w))
    f, J = functional.reduced(w)
    assert np.isfinite(f).all()
    assert np.isfinite(J).all()
    assert fit(functional, w, max_nfev=5).cost < functional.cost(w)


def test_images_of_one_class_cost_next_to_nothing(rng):
    """The constant column grows as it likes; the gradient is small, not NaN."""
    functional, w = make(rng, np.eye(3)[[1] * 10])
    assert functional.cost(w) < 1e-2
    H, g = functional.normal_equations(w)
    assert np.isfinite(H).all()
    assert np.abs(g).max() < 1e-2


def test_one_image_is_enough(rng):
    functional, w = make(rng, np.eye(2)[[1]])
    assert np.isfinite(functional.reduced(w)[1]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ridge", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(
    "labels",
    [[1] * 10, [1] * 300, [0] + [1] * 299, [2]],
    ids=["ten of one class", "one class", "one of another class", "one image"],
)
def test_curvature_that_is_rounding_is_no_error(labels, ridge, dtype, rng):
    """Of images that the network is sure of, whatever the ridge; repeated units included."""
    functional, w = make(rng, np.eye(3)[labels], ridge=ridge, dtype=dtype)
    for point in (w, np.tile(w[: w.size // 2], 2)):
        H, g = functional.normal_equations(point)
        assert np.isfinite(H).all()
        assert_array_equal(functional.gradient(point), g)
        assert np.isfinite(functional.reduced(point)[1]).all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("ridge", [1e-12, 1e12])
@pytest.mark.parametrize("size", [1.0, 100.0, 1000.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_matrix_is_right_however_sure_the_network_is(
    dtype, size, ridge, scale, rng, monkeypatch
):
    """Probabilities within 1e-300 of 0 and 1, next to no ridge, a fixed column of any scale.

    The errors are shares of the matrix before the linear weights are eliminated: ``2 c sqrt(eps)``
    (see ``schur_complement``), where an entry of the sums is off by ``c = 4`` times ``eps``. Seven
    factors and differences are rounded, by up to ``eps / 2`` each, and sums of 100 of them.
    """
    k, n = 3, 100
    units = whole_image_units("bilinear", (4, 4), 3)
    images = rng.random((n, 4, 4))
    w = units.init(images, rng).ravel()
    functional = CrossEntropyFunctional(
        units, images, np.eye(k)[np.arange(n) % k], ridge=ridge, dtype=dtype,
        fixed=scale * rng.standard_normal((n, 1)),
    )  # fmt: skip
    A = size * rng.standard_normal((5, k))
    A[3] /= scale
    fit_of = ConvexFit(A, 1.0, 1, 0.0, 0.0, True, np.eye(5))
    monkeypatch.setattr("varpro_nn.varpro.cross_entropy.fit_linear", lambda *_, **__: fit_of)
    H, _ = functional.normal_equations(w)

    block, dPhi = functional.design.block_and_derivative(w, slice(None))
    P = softmax(block.Phi @ A, axis=1)
    B = np.einsum("imhp,hk->ikhp", dPhi.astype(np.float64), A[:3]).reshape(n, k, -1)
    joint = np.zeros((5 * k + w.size, 5 * k + w.size))
    for p, phi, b in zip(P, block.Phi.astype(dtype).astype(np.float64), B, strict=True):
        J = np.hstack([np.kron(np.eye(k), phi), b])  # outputs by A, class by class, and by w
        for a in range(k):
            for c in range(a):
                joint += p[a] * p[c] * np.outer(J[a] - J[c], J[a] - J[c])
    before = joint[5 * k :, 5 * k :]
    joint[np.arange(5 * k), np.arange(5 * k)] += np.tile([ridge] * 4 + [0.0], k)
    root = np.sqrt(np.diag(joint)[: 5 * k])
    root[root == 0] = 1.0  # the constant of a class that no image is likely to be of
    e, V = np.linalg.eigh(joint[: 5 * k, : 5 * k] / np.outer(root, root))
    Z = V.T @ (joint[: 5 * k, 5 * k :] / root[:, None]) / np.sqrt(np.maximum(e, 1e-12))[:, None]
    expected = before - Z[e > 1e-12].T @ Z[e > 1e-12]
    # Both are zero where all probabilities underflow.
    bound = 8 * np.sqrt(np.finfo(dtype).eps)
    assert np.abs(H - expected).max() <= bound * np.abs(before).max()
    f, J = functional.reduced(w)
    assert np.isfinite(J).all()
    assert np.isfinite(f).all()


def test_features_that_are_not_finite_are_an_error(rng):
    units, _, k = PROBLEMS["bilinear"]
    inputs = inputs_of("bilinear", rng)
    counting = CountingUnits(units, broken={1})
    functional = CrossEntropyFunctional(counting, inputs, np.eye(k)[np.arange(24) % k])
    w = units.init(inputs, rng).ravel()
    with pytest.raises(NonFiniteError, match="features are NaN or infinite"):
        functional.cost(w)
    assert np.isfinite(functional.cost(w))  # nothing of the failure is remembered
