"""The eliminated linear weights, the cost and its gradient, against slow references."""

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import unit_checks
from numpy.testing import assert_allclose, assert_array_equal
from unit_checks import EVERY_CASE, CountingUnits, case_of, inputs_of

from varpro_nn.errors import NonFiniteError
from varpro_nn.units import whole_image_units
from varpro_nn.varpro.design_matrix import Design
from varpro_nn.varpro.functional import VarProFunctional

INTERPOLATING = pytest.mark.filterwarnings("ignore:.*columns fit any targets:UserWarning")


def bilinear(rng, n=30, h=3, k=3, **choices: Any):
    """A small bilinear layer with images, targets and a start, and its functional."""
    units = whole_image_units("bilinear", (4, 5), h)
    images = rng.random((n, 4, 5))
    tau = np.eye(k)[rng.integers(k, size=n)]
    w = units.init(images, rng).ravel()
    functional = VarProFunctional(units, images, tau, **{"dtype": np.float64, **choices})
    return functional, w, units, images, tau


# --- cost, linear weights, leave-one-out -------------------------------------------------


@EVERY_CASE
def test_linear_weights_are_the_best_ones(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    A, sum_of_squares = reference.ridge_fit(case.Phi, case.tau, case.ridge_of_columns, case.weights)
    point = functional.evaluate(w)
    assert_allclose(point.A, A, rtol=1e-7, atol=1e-9)
    cost = 0.5 * (sum_of_squares + case.decay * w @ w)
    assert_allclose(point.cost, cost, rtol=1e-11)
    assert functional.cost(w) == point.cost
    assert_array_equal(point.w, w)


@EVERY_CASE
def test_half_the_squared_residual_is_the_cost(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    r = functional.residual(w)
    assert r.shape == (functional.n_residuals,)
    assert_allclose(0.5 * r @ r, functional.cost(w), rtol=1e-12)
    # and its parts are what the documentation says, in that order
    A = functional.evaluate(w).A
    K, y = case.augmented()
    decay = np.sqrt(case.decay) * w[: w.size * (case.decay > 0)]
    assert_allclose(r, np.append((y - K @ A).ravel(), decay), atol=1e-11)


@EVERY_CASE
def test_residual_is_orthogonal_to_the_design(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    K, y = case.augmented()
    r = functional.residual(w)[: y.size].reshape(y.shape)
    assert_allclose(K.T @ r, 0, atol=1e-10)


@EVERY_CASE
def test_leave_one_out_is_what_n_fits_give(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    mean_squared_error, error_rate = reference.left_out_errors(
        case.Phi, case.tau, case.ridge_of_columns, case.weights
    )
    point = functional.evaluate(w)
    assert_allclose(point.loo_mse, mean_squared_error, rtol=1e-7)
    if case.tau.shape[1] > 1:
        assert_allclose(point.loo_error, error_rate, rtol=1e-12)
    else:
        assert np.isnan(point.loo_error)


# --- the gradient ------------------------------------------------------------------------


@EVERY_CASE
def test_gradient_agrees_with_finite_differences(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    # Two units that are nearly alike make the fifth derivative large (4e4 times the gradient's
    # size, of the 220 cases of 20 seeds): a step of 1.5e-4 has h^4 / 30 of it left, 1e-10. What is
    # left then is the rounding error of the cost, some eps of it, times 18 / 12 / h.
    step = 1.5e-4
    numeric = reference.derivative(functional.cost, w, step=step)
    rounding = 10 * np.finfo(float).eps * functional.cost(w) / step
    atol = 1e-9 * np.abs(numeric).max() + rounding
    assert_allclose(functional.gradient(w), numeric, rtol=1e-8, atol=atol)


@EVERY_CASE
def test_error_of_the_linear_model_falls_with_the_square_of_the_step(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    directions = rng.standard_normal((4, w.size)) * np.abs(w).mean()
    cost, slopes = functional.cost(w), directions @ functional.gradient(w)
    steps = 2.0 ** -np.arange(8, 13)
    errors = [
        sum(
            abs(functional.cost(w + h * v) - cost - h * s)
            for v, s in zip(directions, slopes, strict=True)
        )
        for h in steps
    ]
    order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order == pytest.approx(2, abs=0.15)


@EVERY_CASE
def test_no_step_against_the_gradient_is_uphill(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    g = functional.gradient(w)
    step = 1e-6 * np.linalg.norm(w) / np.linalg.norm(g)
    assert functional.cost(w - step * g) < functional.cost(w)


# --- blocks, precision -------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 7, 24], ids=["by_1", "by_7", "whole"])
@EVERY_CASE
def test_sums_do_not_depend_on_the_blocks(problem, setting, block_size, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    seed = rng.bit_generator.seed_seq.entropy
    again = case_of(problem, setting, np.random.default_rng(seed), block_size=block_size)
    assert_array_equal(again.w, w)
    blocked = again.functional
    one, other = functional.evaluate(w), blocked.evaluate(w)
    assert_allclose(other.A, one.A, rtol=1e-8, atol=1e-10)
    for name in ("cost", "loo_mse", "loo_error"):
        assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-10)
    assert_allclose(blocked.gradient(w), functional.gradient(w), rtol=1e-9, atol=1e-11)
    for kind in ("kaufman", "full"):
        (H, g), (G, f) = (each.normal_equations(w, kind) for each in (functional, blocked))
        assert_allclose(G, H, rtol=1e-9, atol=1e-10 * np.abs(H).max())
        assert_allclose(f, g, rtol=1e-9, atol=1e-11)


@EVERY_CASE
def test_single_precision_gradient_is_close_to_double(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    seed = rng.bit_generator.seed_seq.entropy
    single = case_of(
        problem, setting, np.random.default_rng(seed), dtype=np.float32, block_size=5
    ).functional
    g = functional.gradient(w)
    assert_allclose(single.cost(w), functional.cost(w), rtol=1e-5)
    # Derivatives and residuals are rounded, each to a few eps of its size; their products may
    # cancel to a gradient of any size.
    B = case.output_derivative()
    K, y = case.augmented()
    r = (y - K @ functional.evaluate(w).A)[: len(B)]
    size = np.linalg.norm(np.einsum("nkp,nk->p", np.abs(B), np.abs(r)))
    assert np.linalg.norm(single.gradient(w) - g) < 10 * np.finfo(np.float32).eps * size


# --- symmetries and equivalences ---------------------------------------------------------


def test_swapping_units_swaps_the_gradient(rng):
    functional, w, *_ = bilinear(rng, h=4, ridge=0.1, weight_decay=0.1)
    W = w.reshape(4, -1)
    order = np.array([2, 0, 3, 1])
    swapped = W[order].ravel()
    assert_allclose(functional.cost(swapped), functional.cost(w), rtol=1e-12)
    expected = functional.gradient(w).reshape(4, -1)[order]
    assert_allclose(functional.gradient(swapped).reshape(4, -1), expected, atol=1e-11)
    A, B = (functional.evaluate(v).A for v in (w, swapped))
    assert_allclose(B[:4], A[order], rtol=1e-8, atol=1e-11)


def test_weights_are_numbers_of_copies(rng):
    """An image of weight 2 is two images; one of weight 0 is none."""
    images, tau = rng.random((20, 4, 5)), rng.standard_normal((20, 2))
    counts = np.ones(20, dtype=int)
    counts[3], counts[8], counts[11] = 2, 0, 3
    copies = np.repeat(np.arange(20), counts)
    units = whole_image_units("bilinear", (4, 5), 3)
    w = units.init(images, rng).ravel()
    choices: dict[str, Any] = {"ridge": 0.2, "weight_decay": 0.1, "dtype": np.float64}
    weighted = VarProFunctional(units, images, tau, sample_weight=counts, **choices)
    copied = VarProFunctional(units, images[copies], tau[copies], **choices)
    assert_allclose(weighted.cost(w), copied.cost(w), rtol=1e-12)
    A, B = (f.evaluate(w).A for f in (weighted, copied))
    assert_allclose(A, B, rtol=1e-9, atol=1e-12)
    assert_allclose(weighted.gradient(w), copied.gradient(w), rtol=1e-9, atol=1e-12)
    (H, _), (G, _) = (f.normal_equations(w, "full") for f in (weighted, copied))
    assert_allclose(H, G, rtol=1e-9, atol=1e-12 * np.abs(H).max())


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "no_constant"])
def test_fixed_columns_are_units_at_rest(constant, rng):
    """Columns held fixed give the cost, and the other units' gradient, of training them all."""
    choices: dict[str, Any] = {"ridge": 0.3, "constant": constant, "dtype": np.float64}
    functional, w, _, images, tau = bilinear(rng, h=4, **choices)
    W = w.reshape(4, -1)
    two = whole_image_units("bilinear", (4, 5), 2)
    fixed = two.features(W[2:], images)
    partial = VarProFunctional(two, images, tau, fixed=fixed, **choices)
    v = W[:2].ravel()
    assert_allclose(partial.cost(v), functional.cost(w), rtol=1e-12)
    assert_allclose(partial.gradient(v), functional.gradient(w)[: v.size], rtol=1e-9, atol=1e-12)
    A, B = (f.evaluate(x).A for f, x in ((functional, w), (partial, v)))
    assert_allclose(B, A, rtol=1e-9, atol=1e-12)
    (H, _), (G, _) = functional.normal_equations(w), partial.normal_equations(v)
    assert_allclose(G, H[: v.size, : v.size], rtol=1e-9, atol=1e-12 * np.abs(H).max())


@pytest.mark.parametrize("ridge", [1e-6, 0.3, 1e3])
@pytest.mark.parametrize(("f", "rank"), [(6, 6), (30, 30), (70, 70), (20, 4)])
@pytest.mark.parametrize("problem", ["few_cells", "cells"])
def test_fixed_columns_are_eliminated_without_a_trace(problem, f, rank, ridge, rng):
    """All columns in one fit say the same; they are in the design that eliminates none."""
    units, _, k = unit_checks.PROBLEMS[problem]
    n = 30
    inputs, tau = unit_checks.inputs_of(problem, rng, n), rng.standard_normal((n, k))
    fixed = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, f))
    weights, w = rng.uniform(0.3, 2, n), units.init(inputs, rng).ravel()
    settings = {"ridge": ridge, "dtype": np.float64}
    functional, plain, blocks = (
        VarProFunctional(
            units, inputs, tau, weight_decay=0.1, sample_weight=weights, fixed=fixed, **settings,
            block_size=size,
        )
        for size in (None, None, 7)
    )  # fmt: skip
    plain.design = Design(
        units, inputs, tau, fixed, weights, constant=True, block_size=None, **settings
    )
    assert plain.design.eliminated is None
    expected, full = plain.evaluate(w), plain.jacobian(w, "full", "array")
    # Rounding errors of the columns, relative to the smallest curvature.
    eps = np.finfo(np.float64).eps
    rounding = 10 * eps * max(1.0, float(np.square(fixed).sum()) / ridge)
    for other in (functional, blocks):
        found = other.evaluate(w)
        assert found.rank == expected.rank
        assert_allclose(found.cost, expected.cost, rtol=1e-9)
        assert_allclose(found.A, expected.A, rtol=0, atol=1e-9 + rounding)
        assert_allclose(found.loo_mse, expected.loo_mse, rtol=1e-9 + rounding)
        assert found.loo_error == pytest.approx(expected.loo_error, rel=1e-12)
        for kind in ("kaufman", "full"):
            (H, g), (G, h) = (each.normal_equations(w, kind) for each in (other, plain))
            assert_allclose(g, h, rtol=0, atol=(1e-9 + rounding) * np.abs(h).max())
            assert_allclose(H, G, rtol=0, atol=(1e-9 + rounding) * np.abs(G).max())
    size = tau.size
    assert_allclose(functional.residual(w)[:size], plain.residual(w)[:size], atol=1e-9)
    J = functional.jacobian(w, "full", "array")
    assert_allclose(J[:size], full[:size], atol=(1e-9 + rounding) * np.abs(full).max())
    numeric = reference.derivative(functional.residual, w, step=1.5e-4)
    assert_allclose(J, numeric, rtol=1e-6, atol=1e-7 * np.abs(J).max())
    u = rng.standard_normal(len(J))
    operator = functional.jacobian(w, "full")
    assert_allclose(operator.rmatvec(u), J.T @ u, atol=1e-9 * np.abs(J).max() * len(u))


def test_a_vector_of_targets_is_one_column(rng):
    _, w, units, images, _ = bilinear(rng)
    tau = rng.standard_normal(30)
    vector, column = (
        VarProFunctional(units, images, t, dtype=np.float64) for t in (tau, tau[:, None])
    )
    assert_array_equal(vector.residual(w), column.residual(w))


def test_adding_to_the_targets_what_the_constant_spans_changes_nothing(rng):
    functional, w, units, images, tau = bilinear(rng, ridge=0.5)
    shifted = VarProFunctional(units, images, tau + 7.0, ridge=0.5, dtype=np.float64)
    assert_allclose(shifted.cost(w), functional.cost(w), rtol=1e-10)
    assert_allclose(shifted.gradient(w), functional.gradient(w), atol=1e-10)


# --- missing rank ------------------------------------------------------------------------


@INTERPOLATING
@pytest.mark.parametrize("ridge", [0.0, 0.1], ids=["no_ridge", "ridge"])
@pytest.mark.parametrize("case", ["duplicates", "fewer_images", "dead"])
def test_missing_rank_is_survived(case, ridge, rng):
    """The minimum-norm fit takes over; cost and derivatives stay finite."""
    n = 3 if case == "fewer_images" else 20
    functional, w, units, images, tau = bilinear(rng, n=n, h=4, ridge=ridge)
    if case == "duplicates":
        w = np.tile(w.reshape(4, -1)[:2], (2, 1)).ravel()
    elif case == "dead":  # features constant: collinear with the constant column
        w = np.zeros_like(w)
    Phi = np.hstack([units.features(w.reshape(4, -1), images), np.ones((n, 1))])
    ridges = np.array([ridge] * 4 + [0.0])
    A, sum_of_squares = reference.ridge_fit(Phi, tau, ridges)
    point = functional.evaluate(w)
    assert_allclose(point.cost, 0.5 * sum_of_squares, rtol=1e-9, atol=1e-20)
    assert_allclose(point.A, A, atol=1e-7)
    K, _ = reference.augmented(Phi, tau, ridges)
    assert point.rank == np.linalg.matrix_rank(K, rtol=1e-12)
    assert not np.isnan([point.loo_mse, point.loo_error]).any()
    assert np.isfinite(functional.gradient(w)).all()
    for kind in ("kaufman", "full"):
        for array in (*functional.normal_equations(w, kind), *functional.reduced(w, kind)):
            assert np.isfinite(array).all()
        assert np.isfinite(functional.jacobian(w, kind, "array")).all()


@INTERPOLATING
@pytest.mark.parametrize("ridge", [0.0, 1e-12, 1.0, 1e12])
@pytest.mark.parametrize("case", ["plain", "one class", "one image", "one weight", "twins"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_fixed_columns_leave_the_constant_and_the_units(dtype, case, ridge, rng):
    """The fit is that of the same columns a million times shorter, whatever the ridge."""
    n = 1 if case == "one image" else 30
    units = whole_image_units("bilinear", (4, 5), 3)
    images, fixed = rng.random((n, 4, 5)), rng.standard_normal((n, 2))
    tau = np.eye(3)[rng.integers(3, size=n) * (case != "one class")]
    w = units.init(rng.random((30, 4, 5)), rng).ravel()
    if case == "twins":
        w = np.tile(w[:10], 3)
    weights = np.where(np.arange(n) == 4, 2.0, 0.0) if case == "one weight" else np.ones(n)
    functional = VarProFunctional(
        units, images, tau, ridge=ridge, fixed=1e6 * fixed, dtype=dtype, sample_weight=weights
    )
    Phi = np.hstack([units.features(w.reshape(3, -1), images), fixed, np.ones((n, 1))])
    ridges = np.array([ridge] * 3 + [ridge / 1e12] * 2 + [0.0])  # of the shorter columns
    _, sum_of_squares = reference.ridge_fit(Phi, tau, ridges, weights)
    cost = functional.cost(w)
    assert_allclose(cost, 0.5 * sum_of_squares, rtol=1e-5, atol=1e-9)
    assert np.isfinite(functional.reduced(w)[1]).all()
    if dtype == np.float64 and case == "plain":
        numeric = reference.derivative(functional.cost, w)
        assert_allclose(functional.gradient(w), numeric, rtol=1e-4, atol=1e-7)


# --- memo, and what is left alone --------------------------------------------------------


def test_residual_and_jacobian_share_one_evaluation(rng):
    _, w, layer, images, tau = bilinear(rng)
    units = CountingUnits(layer)
    functional = VarProFunctional(units, images, tau, dtype=np.float64)
    functional.residual(w)
    functional.jacobian(w.copy())
    functional.gradient(w.copy())
    functional.reduced(w.copy())
    assert units.n_features == 1
    functional.residual(w + 1e-9)
    assert units.n_features == 2


def test_memo_is_not_fooled_by_weights_changed_in_place(rng):
    functional, w, *_ = bilinear(rng)
    start = w.copy()
    before = functional.cost(w)
    w += 0.1
    after = functional.cost(w)
    assert after != before
    w[:] = start
    assert functional.cost(w) == before


def test_nothing_that_is_handed_in_is_changed(rng):
    inputs = inputs_of("bilinear", rng)
    units = whole_image_units("bilinear", inputs.shape[1:], 2)
    n = len(inputs)
    arrays = {
        "tau": rng.standard_normal((n, 2)),
        "sample_weight": rng.uniform(0.5, 1, n),
        "fixed": rng.standard_normal((n, 2)),
    }
    w = units.init(inputs, rng).ravel()
    for array in (inputs, w, *arrays.values()):
        array.flags.writeable = False  # writing to one raises
    functional = VarProFunctional(
        units, inputs, ridge=0.1, weight_decay=0.1, dtype=np.float64, **arrays
    )
    for kind in ("kaufman", "full"):
        functional.jacobian(w, kind) @ np.ones(w.size)
        functional.jacobian(w, kind, "array")
        functional.reduced(w, kind)
    functional.gradient(w)


# --- units of measurement ----------------------------------------------------------------


class Scaled:
    """Columns t exp(-w t) have the unit of t."""

    n_units, n_cells, n_weights = 2, 1, 1

    def features(self, W, t):
        return t[:, None] * np.exp(-t[:, None] * W[:, 0])

    def features_and_derivative(self, W, t):
        Phi = self.features(W, t)
        return Phi, (-t[:, None] * Phi)[:, None, :, None]


@pytest.mark.parametrize("scale", [1e-15, 1e-12, 1e12])
def test_the_unit_of_features_does_not_matter(scale):
    """Short beside the constant column, all unit columns counted as rounding error."""
    t = np.linspace(0.1, 5, 40)
    tau = 2 * t * np.exp(-0.5 * t) - 3 * t * np.exp(-2 * t) + 1 + 0.1 * np.sin(9 * t)
    w: Any = np.array([0.3, 3.0])
    units: Any = Scaled()
    plain = VarProFunctional(units, t, tau, dtype=np.float64)
    scaled = VarProFunctional(units, scale * t, tau, dtype=np.float64)
    assert scaled.evaluate(w / scale).rank == plain.evaluate(w).rank == 3
    assert_allclose(scaled.cost(w / scale), plain.cost(w), rtol=1e-9)
    assert_allclose(scaled.gradient(w / scale) / scale, plain.gradient(w), rtol=1e-6)


# --- bad input ---------------------------------------------------------------------------


def test_as_many_columns_as_inputs_and_no_ridge_are_a_warning(rng):
    """The linear weights fit all targets, so that the cost says nothing of the units."""
    bilinear(rng, n=5, h=3)
    bilinear(rng, n=4, h=3, ridge=1e-6)
    with pytest.warns(UserWarning, match="4 columns fit any targets of 4 inputs.*: set ridge, or"):
        bilinear(rng, n=4, h=3)
    with pytest.warns(UserWarning, match="4 columns fit any targets of 4 inputs"):
        bilinear(rng, n=6, h=3, sample_weight=np.array([1, 0, 1, 1, 0, 1.0]))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"tau": np.zeros((29, 2))}, "tau must have one row for each of 30 inputs.*29, 2"),
        ({"tau": np.zeros((30, 2, 1))}, "tau must have one row for each"),
        ({"tau": np.full((30, 2), np.nan)}, "tau must be finite"),
        ({"fixed": np.zeros((29, 1))}, "fixed must have one row for each of 30 inputs"),
        ({"fixed": np.zeros(30)}, "fixed must have one row for each of 30 inputs"),
        ({"fixed": np.full((30, 1), np.inf)}, "fixed must be finite"),
        ({"sample_weight": np.ones(29)}, r"sample_weight must be \(30,\)"),
        ({"sample_weight": np.ones((30, 1))}, r"sample_weight must be \(30,\)"),
        ({"sample_weight": -np.ones(30)}, "sample_weight must be finite and not negative"),
        ({"sample_weight": np.zeros(30)}, "positive for one row at least"),
        ({"ridge": -1.0}, "ridge must be finite and not negative, got -1"),
        ({"ridge": np.nan}, "ridge must be finite and not negative"),
        ({"weight_decay": np.inf}, "weight_decay must be finite and not negative"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
    ],
    ids=[
        "tau_rows", "tau_axes", "tau_nan", "fixed_rows", "fixed_axes", "fixed_inf", "weight_rows",
        "weight_axes", "negative", "no_weight", "ridge", "ridge_nan", "decay", "block",
    ],
)  # fmt: skip
def test_arguments_are_checked(choices, message):
    units = whole_image_units("dense", (2, 2), 2)
    with pytest.raises(ValueError, match=message):
        VarProFunctional(units, np.zeros((30, 2, 2)), **{"tau": np.zeros((30, 2)), **choices})


def test_weights_may_have_a_row_for_each_unit(rng):
    functional, w, units, *_ = bilinear(rng, weight_decay=0.1)
    W = w.reshape(units.n_units, units.n_weights)
    assert functional.cost(W) == functional.cost(w)
    assert functional.evaluate(W) is functional.evaluate(w)
    assert_array_equal(functional.gradient(W), functional.gradient(w))


def test_weights_of_the_wrong_length_are_refused(rng):
    functional, w, *_ = bilinear(rng)
    for bad in (w[:-1], w.reshape(10, -1)):
        with pytest.raises(ValueError, match=r"w must have shape \(30,\) or \(3, 10\), got"):
            functional.cost(bad)


def test_blocks_have_no_residual_and_no_jacobian(rng):
    functional, w, *_ = bilinear(rng, block_size=4)
    for method in (functional.residual, functional.jacobian):
        with pytest.raises(ValueError, match="needs block_size=None, got block_size=4; use reduc"):
            method(w)


@pytest.mark.parametrize("method", ["jacobian", "normal_equations", "reduced"])
def test_kinds_of_jacobian_are_checked(method, rng):
    functional, w, *_ = bilinear(rng)
    with pytest.raises(ValueError, match="kind must be 'kaufman' or 'full', got 'golub'"):
        getattr(functional, method)(w, "golub")


def test_forms_of_jacobian_are_checked(rng):
    functional, w, *_ = bilinear(rng)
    with pytest.raises(ValueError, match="form must be 'operator' or 'array', got 'dense'"):
        functional.jacobian(w, form="dense")


@pytest.mark.parametrize("block_size", [None, 7])
def test_features_that_are_not_finite_are_an_error(block_size, rng):
    _, w, layer, images, tau = bilinear(rng)
    units = CountingUnits(layer, broken={1})
    functional = VarProFunctional(units, images, tau, block_size=block_size, dtype=np.float64)
    with pytest.raises(NonFiniteError, match="features are NaN or infinite"):
        functional.cost(w)
    assert np.isfinite(functional.cost(w))  # nothing of the failure is remembered


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("method", ["gradient", "normal_equations", "reduced", "jacobian"])
def test_a_derivative_that_is_not_finite_is_an_error(method, rng):
    _, w, layer, images, tau = bilinear(rng)

    class Steep(CountingUnits):
        def features_and_derivative(self, W, inputs):
            Phi, dPhi = super().features_and_derivative(W, inputs)
            return Phi, np.full_like(dPhi, np.inf)

    functional = VarProFunctional(Steep(layer), images, tau, dtype=np.float64)
    with pytest.raises(NonFiniteError):
        getattr(functional, method)(w)


# --- size ---------------------------------------------------------------------------------


def test_sums_are_double_whatever_the_blocks(rng):
    """Single precision in the products alone: many blocks are no worse than one.

    Features and derivatives have an error of eps. A product over 4096 rows that is summed row by
    row has sqrt(4096) eps / 2 = 32 eps of its terms; 15 of them have 8 eps of their sum, one over
    all 60,000 rows 120 eps. The terms are those of the matrix before anything is taken from it.

    Terms of the gradient have any sign: the partial sums of n of size s are sqrt(n) s, their
    rounding errors eps / 2 of it, together n s eps / 3. That is 1400 s eps for a product, sqrt(15)
    times as much for all, 22 eps of sqrt(60,000) s; one over all rows has 80 eps.
    """
    n = 60_000
    units = whole_image_units("bilinear", (4, 4), 3)
    images = rng.random((n, 4, 4))
    tau = np.eye(3)[rng.integers(3, size=n)]
    w = units.init(images, rng).ravel()
    exact = VarProFunctional(units, images, tau, ridge=1.0, dtype=np.float64)
    H, g = exact.normal_equations(w)
    A = exact.evaluate(w).A
    Phi, dPhi = units.features_and_derivative(w.reshape(3, -1), images)
    B = np.einsum("nhp,hk->nkhp", dPhi[:, 0], A[:3]).reshape(n, 3, -1)
    r = tau - Phi @ A[:3] - A[3]
    eps = np.finfo(np.float32).eps
    size_of_H = (B**2).sum(axis=(0, 1)).max()
    size_of_g = np.sqrt(np.einsum("nkp,nk->p", B**2, r**2).max())
    for block_size in (None, 200, 20):
        single = VarProFunctional(units, images, tau, ridge=1.0, block_size=block_size)
        H_single, g_single = single.normal_equations(w)
        assert np.abs(H_single - H).max() < 25 * eps * size_of_H, block_size
        assert np.abs(g_single - g).max() < 70 * eps * size_of_g, block_size


def test_memory_of_block_sums_does_not_grow_with_the_inputs(rng):
    units = whole_image_units("bilinear", (6, 6), 10)
    W = units.init(rng.random((500, 6, 6)), rng)
    peaks = []
    for n in (4_000, 16_000):
        images = rng.random((n, 6, 6))
        functional = VarProFunctional(units, images, np.zeros((n, 2)), ridge=1.0, block_size=500)
        tracemalloc.start()
        functional.normal_equations(W.ravel())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_repeated_units_in_single_precision_leave_the_gradient_small(rng):
    """Two pairs of units that single precision hardly tells apart have one direction each."""
    units = whole_image_units("bilinear", (5, 5), 4)
    images = rng.random((60, 5, 5))
    tau = np.eye(3)[rng.integers(3, size=60)]
    W = units.init(images, rng)
    W[2:] = W[:2] * (1 + 1e-7)
    functional = VarProFunctional(units, images, tau)
    point = functional.evaluate(W.ravel())
    assert point.rank == 3
    alone = VarProFunctional(replace(units, n_units=2), images, tau)
    assert point.cost == pytest.approx(alone.cost(W[:2].ravel()), rel=1e-4)
    assert (
        np.abs(functional.gradient(W.ravel())).max()
        < 10 * np.abs(alone.gradient(W[:2].ravel())).max()
    )


@INTERPOLATING
@pytest.mark.parametrize("n", [20, 23, 24])
def test_an_image_that_alone_fixes_a_direction_has_no_left_out_fit(n, rng):
    """As many columns as images: 0 / 0 is reported as infinite and wrong, not as perfect."""
    units = whole_image_units("bilinear", (5, 5), 23)
    images = rng.random((n, 5, 5))
    tau = np.eye(3)[rng.integers(3, size=n)]
    point = VarProFunctional(units, images, tau, dtype=np.float64).evaluate(
        units.init(images, rng).ravel()
    )
    assert point.loo_mse == np.inf
    assert point.loo_error == 1.0
