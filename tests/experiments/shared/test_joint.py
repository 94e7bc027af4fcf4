import numpy as np
import pytest
from numpy.testing import assert_allclose

from experiments.shared.joint import Joint, schur_complement
from experiments.shared.subnetwork import subnetwork
from varpro_nn import load


@pytest.fixture(scope="module")
def problem():
    return subnetwork(load("digits").train, 120, 4, (0, 0), np.float64)


@pytest.fixture
def joint(problem):
    return Joint(problem[0])


@pytest.fixture
def x(problem, joint):
    """All weights, not those that fit best."""
    x0 = joint.start(problem[1])
    return x0 + 0.1 * np.random.default_rng(1).standard_normal(x0.size)


def dense(operator):
    return operator @ np.eye(operator.shape[1])


def test_residual_at_the_start_is_that_of_the_projected_functional(problem, joint):
    functional, w0 = problem
    assert_allclose(joint.residual(joint.start(w0)), functional.residual(w0) * signs(joint))


def signs(joint):
    """The functional writes its ridge rows with the other sign."""
    n_rows = joint.n * joint.k, joint.units.n_units * joint.k, joint.hp
    return np.repeat([1.0, -1.0, 1.0], n_rows)


def test_operator_is_the_derivative_of_the_residual(joint, x):
    step = 1e-6
    differences = [
        (joint.residual(x + step * e) - joint.residual(x - step * e)) / (2 * step)
        for e in np.eye(x.size)
    ]
    J = dense(joint.operator(x))
    assert_allclose(J, np.transpose(differences), atol=1e-7)
    assert_allclose(joint.operator(x).T @ np.eye(len(J)), J.T, atol=1e-12)


@pytest.mark.parametrize("penalties", [True, False])
def test_gauss_newton_is_the_product_of_the_operator(joint, x, penalties):
    J = dense(joint.operator(x))
    J = J if penalties else J[: joint.n * joint.k]
    assert_allclose(joint.gauss_newton(x, penalties=penalties), J.T @ J, atol=1e-9)


def test_kaufman_is_the_schur_complement_of_the_joint_matrix(problem, joint):
    functional, w0 = problem
    H = joint.gauss_newton(joint.start(w0))
    assert_allclose(schur_complement(H, joint.hp), functional.normal_equations(w0)[0], atol=1e-8)


@pytest.mark.parametrize("x_scale", [1.0, "jac"])
def test_exact_steps_go_down_from_the_start(problem, joint, x_scale):
    functional, w0 = problem
    x, path = joint.minimise(joint.start(w0), "exact", 12, x_scale)
    costs = [cost for cost, _ in path]
    assert costs[0] == pytest.approx(functional.cost(w0))
    assert (np.diff(costs) < 0).all()
    assert costs[-1] == pytest.approx(0.5 * np.sum(joint.residual(x) ** 2))
    assert costs[-1] < 0.95 * costs[0]
