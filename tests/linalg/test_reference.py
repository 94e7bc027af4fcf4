"""The reference itself, on what can be done by hand."""

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose


def test_derivative_is_exact_for_a_polynomial_of_degree_four(rng):
    """Fourth order: no error of truncation up to degree 4, however long the step."""
    c = rng.standard_normal(5)

    def polynomial(w):
        x, y = w
        return np.array([np.polyval(c, x) * y**3, x * y**4])

    w = rng.standard_normal(2)
    x, y = w
    exact = [
        [np.polyval(np.polyder(c), x) * y**3, np.polyval(c, x) * 3 * y**2],
        [y**4, 4 * x * y**3],
    ]
    assert_allclose(reference.derivative(polynomial, w, step=0.3), exact, rtol=1e-11, atol=1e-12)


def test_derivative_keeps_shapes(rng):
    W = rng.standard_normal((2, 3))
    assert_allclose(reference.derivative(lambda V: V**2, W)[1, 2, 1, 2], 2 * W[1, 2])
    assert reference.derivative(lambda V: V**2, W).shape == (2, 3, 2, 3)


@pytest.mark.parametrize(
    ("kind", "image", "w", "z"),
    [
        ("quadratic", [[1, 2], [3, 4]], [1, 2, 0.5], 1 + 4 + 6 + 16 + 0.5),
        ("bilinear", [[1, 2], [3, 4]], [1, 0, 0, 1, 0.5], 2.5),
        ("tensor", [[1, 2, 3], [4, 5, 6]], [0, 1, 1, 1, 0, -1], 9 - 1),
        ("quadratic", [[[1]], [[2]], [[3]]], [1, 1, -1, 2, 0], 0.0),
        ("dense", [[1, 2], [3, 4]], [1, -1, 1, -1, 0], -2),
    ],
    ids=["quadratic", "bilinear", "tensor", "colour", "dense"],
)
def test_features_by_hand(kind, image, w, z):
    Phi = reference.features(
        kind, np.array([w], float), np.array([image], float), activation="tanh"
    )
    assert_allclose(Phi, np.tanh([[z]]), rtol=1e-14)


def test_ridge_fit_solves_the_normal_equations(rng):
    Phi, tau = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    ridge, weights = np.array([0.5, 1.0, 2.0, 0.0]), rng.uniform(0.5, 2, 20)
    A, sum_of_squares = reference.ridge_fit(Phi, tau, ridge, weights)
    Gram = Phi.T @ (weights[:, None] * Phi) + np.diag(ridge)
    assert_allclose(A, np.linalg.solve(Gram, Phi.T @ (weights[:, None] * tau)), rtol=1e-11)
    residual = tau - Phi @ A
    expected = weights @ np.sum(residual**2, axis=1) + ridge @ np.sum(A**2, axis=1)
    assert_allclose(sum_of_squares, expected, rtol=1e-12)
