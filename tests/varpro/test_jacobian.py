"""The Jacobian in all its forms: operator, array, sums, and the small equivalent problem."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose
from unit_checks import EVERY_CASE, case_of

from varpro_nn.linalg.ridge import ROWS
from varpro_nn.varpro.design_matrix import Block
from varpro_nn.varpro.jacobian import Jacobian

KINDS = pytest.mark.parametrize("kind", ["kaufman", "full"])


@EVERY_CASE
def test_full_jacobian_agrees_with_finite_differences(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    J = functional.jacobian(w, "full", "array")
    numeric = reference.derivative(functional.residual, w, step=1.5e-4)
    assert J.shape == numeric.shape == (functional.n_residuals, functional.n_weights)
    assert_allclose(J, numeric, rtol=1e-7, atol=1e-8 * np.abs(J).max())


@KINDS
@EVERY_CASE
def test_jacobian_agrees_with_the_differentiated_pseudo_inverse(problem, setting, kind, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    _, dPhi = case.units.features_and_derivative(case.W, case.inputs)
    expected = reference.golub_pereyra(
        case.Phi, dPhi, case.tau, case.ridge_of_columns, case.weights, full=kind == "full"
    )
    expected = case.rotated(expected.reshape(-1, case.tau.shape[1], w.size)).reshape(-1, w.size)
    if case.decay:
        decay = np.sqrt(case.decay) * np.eye(w.size)
        expected = np.vstack([expected, decay])
    J = functional.jacobian(w, kind, "array")
    assert_allclose(J, expected, rtol=1e-8, atol=1e-9 * np.abs(J).max())


@EVERY_CASE
def test_kaufman_is_the_projected_full_jacobian(problem, setting, rng):
    """P J_full = J_kaufman, and what it leaves out is not small."""
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    K, y = case.augmented()
    P = np.eye(len(K)) - K @ np.linalg.pinv(K)
    full, kaufman = (functional.jacobian(w, kind, "array") for kind in ("full", "kaufman"))
    projected = full.copy()
    top = full[: y.size].reshape(*y.shape, -1)
    projected[: y.size] = np.einsum("ij,jkw->ikw", P, top).reshape(y.size, -1)
    assert_allclose(projected, kaufman, atol=1e-9 * np.abs(kaufman).max())
    assert np.abs(full - kaufman).max() > 1e-3


@EVERY_CASE
def test_gradient_is_the_same_for_every_kind_and_form(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    r, g = functional.residual(w), functional.gradient(w)
    atol = 1e-10 * np.abs(g).max()
    for kind in ("kaufman", "full"):
        for form in ("array", "operator"):
            assert_allclose(functional.jacobian(w, kind, form).T @ r, g, rtol=1e-8, atol=atol)
        f, J = functional.reduced(w, kind)
        assert_allclose(J.T @ f, g, rtol=1e-8, atol=atol)
        assert_allclose(functional.normal_equations(w, kind)[1], g, rtol=1e-10, atol=atol)


@KINDS
@EVERY_CASE
def test_operator_is_the_array(problem, setting, kind, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    J = functional.jacobian(w, kind, "array")
    operator = functional.jacobian(w, kind)
    assert operator.shape == J.shape
    atol = 1e-12 * np.abs(J).max()
    assert_allclose(operator @ np.eye(w.size), J, rtol=1e-9, atol=atol)
    assert_allclose(operator.T @ np.eye(len(J)), J.T, rtol=1e-9, atol=atol)
    v, u = rng.standard_normal(w.size), rng.standard_normal(len(J))
    assert_allclose(u @ (operator @ v), (operator.T @ u) @ v, rtol=1e-9)


@KINDS
@EVERY_CASE
def test_small_problem_has_the_same_matrix_gradient_and_cost(problem, setting, kind, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    J, r = functional.jacobian(w, kind, "array"), functional.residual(w)
    H, g = functional.normal_equations(w, kind)
    atol = 1e-10 * np.abs(H).max()
    assert_allclose(H, J.T @ J, rtol=1e-10, atol=atol)
    assert_allclose(H, H.T, rtol=1e-12, atol=atol)
    f, small = functional.reduced(w, kind)
    assert small.shape == (w.size + 1, w.size)
    assert_allclose(small.T @ small, J.T @ J, rtol=1e-10, atol=atol)
    assert_allclose(small.T @ f, J.T @ r, rtol=1e-9, atol=1e-10 * np.abs(g).max())
    assert_allclose(f @ f, r @ r, rtol=1e-12)
    assert_allclose(functional.reduced_residual(w), f, rtol=1e-14)


@EVERY_CASE
def test_what_kaufman_leaves_out_adds_to_the_matrix(problem, setting, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    difference = functional.normal_equations(w, "full")[0] - functional.normal_equations(w)[0]
    eigenvalues = np.linalg.eigvalsh(difference)
    assert eigenvalues[-1] > 1e-6
    assert eigenvalues[0] > -1e-9 * eigenvalues[-1]


@KINDS
@EVERY_CASE
def test_single_precision_is_close_to_double(problem, setting, kind, rng):
    case = case_of(problem, setting, rng)
    functional, w = case.functional, case.w
    seed = rng.bit_generator.seed_seq.entropy
    single = case_of(problem, setting, np.random.default_rng(seed), dtype=np.float32).functional
    J = functional.jacobian(w, kind, "array")
    atol = 2e-5 * np.abs(J).max()
    assert_allclose(single.jacobian(w, kind, "array"), J, atol=atol)
    assert_allclose(single.jacobian(w, kind) @ np.eye(w.size), J, atol=atol)
    # A rounding of Phi moves its basis by eps times its condition; so it does what is taken away
    # from the matrix, or added to it, and that may be as large as the matrix before or after.
    H = functional.normal_equations(w, kind)[0]
    B = case.output_derivative().reshape(-1, w.size)
    size = max(np.abs(B.T @ B).max(), np.abs(H).max())
    condition = np.linalg.cond(case.augmented()[0])
    atol = 4 * np.finfo(np.float32).eps * condition * size
    assert_allclose(single.normal_equations(w, kind)[0], H, rtol=0, atol=atol)


def test_scale_gauge_is_a_kernel_of_the_jacobian(rng):
    """(u, v) -> (a u, v / a) moves no feature, hence no residual."""
    case = case_of("bilinear", "plain", rng)
    tangent = case.W * ([1.0] * 3 + [-1.0] * 4 + [0.0])
    J = case.functional.jacobian(case.w, "full", "array")
    assert_allclose(J @ tangent.ravel(), 0, atol=1e-11)
    assert np.linalg.matrix_rank(J, rtol=1e-10) <= case.w.size - case.units.n_units


def test_without_a_gauge_the_jacobian_has_full_rank(rng):
    case = case_of("cells", "plain", rng)
    J = case.functional.jacobian(case.w, "full", "array")
    assert np.linalg.matrix_rank(J) == case.w.size


def test_transposed_products_are_cut_into_blocks_of_rows():
    """Each block is a product in single precision, their sum is in double.

    2^25 + 1 is no number of single precision, so one product of all rows would not have it.
    """
    n = ROWS + 1
    dPhi = np.zeros((n, 1, 1, 1), dtype=np.float32)
    dPhi[0], dPhi[-1] = 2**25, 1
    nothing_in_range: Any = SimpleNamespace(
        A=np.ones((1, 1)), range_basis=lambda rows: np.zeros((len(rows), 0))
    )
    block = Block(np.zeros((n, 1)), np.zeros((n, 1)), np.ones(n))
    jacobian = Jacobian(
        nothing_in_range, block, dPhi, ridge=np.zeros(1), weight_decay=0.0, full=False
    )
    assert jacobian.operator().rmatvec(np.ones(n)) == -(2**25 + 1)
