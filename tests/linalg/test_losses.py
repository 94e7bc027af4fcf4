"""Losses of the convex layers, against their formulas and finite differences."""

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.linalg.losses import LOSSES

EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES)


@EVERY_LOSS
@pytest.mark.parametrize("k", [2, 5])
def test_values_are_the_formulas(loss, k, rng):
    z, labels = 3 * rng.standard_normal((40, k)), rng.integers(k, size=40)
    values, gradients, curvatures = LOSSES[loss].at(z, labels)
    expected = [
        reference.loss_of_row(loss, row, y) for row, y in zip(z.tolist(), labels, strict=True)
    ]
    assert_allclose(values, expected, rtol=1e-12, atol=1e-14)
    assert gradients.shape == (40, k)
    assert curvatures.shape == (40,)


@EVERY_LOSS
@pytest.mark.parametrize("k", [2, 5])
def test_slopes_and_curvatures_agree_with_finite_differences(loss, k, rng):
    """The curvature of a row is the mean of the second derivatives by its outputs."""
    z, labels = rng.standard_normal((40, k)), rng.integers(k, size=40)
    _, gradients, curvatures = LOSSES[loss].at(z, labels)
    for i in range(40):
        row, y = z[i : i + 1], labels[i : i + 1]
        if loss == "hinge":  # a step must not reach over a kink
            distance = np.abs(1 + row - row[0, y])[0]
            if np.delete(distance, y).min() < 3e-3:
                continue
        slope = reference.derivative(lambda v, y=y: LOSSES[loss].at(v, y)[0][0], row)
        assert_allclose(gradients[i], slope[0], rtol=1e-9, atol=1e-10)
        hessian = reference.derivative(lambda v, y=y: LOSSES[loss].at(v, y)[1][0], row)
        assert_allclose(curvatures[i], np.trace(hessian[:, 0]) / k, rtol=1e-9, atol=1e-10)


@EVERY_LOSS
def test_a_constant_on_all_outputs_changes_nothing(loss, rng):
    z, labels = rng.standard_normal((30, 4)), rng.integers(4, size=30)
    for one, other in zip(LOSSES[loss].at(z, labels), LOSSES[loss].at(z + 7, labels), strict=True):
        assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    assert_allclose(LOSSES[loss].at(z, labels)[1].sum(axis=1), 0, atol=1e-13)


@EVERY_LOSS
def test_the_outputs_are_left_as_they_are(loss, rng):
    z, labels = rng.standard_normal((30, 4)), rng.integers(4, size=30)
    before = z.copy()
    LOSSES[loss].at(z, labels)
    assert_array_equal(z, before)


@EVERY_LOSS
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_outputs_do_not_overflow(loss, size):
    z = np.array([[size, 0.0, 0.0], [0.0, size, -size]])
    labels = np.array([0, 2])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        values, gradients, curvatures = LOSSES[loss].at(z, labels)
    expected = [
        reference.loss_of_row(loss, row, y) for row, y in zip(z.tolist(), labels, strict=True)
    ]
    assert_allclose(values, expected, rtol=1e-12)
    assert np.isfinite(gradients).all()
    assert ((curvatures >= 0) & (curvatures <= 2)).all()


@EVERY_LOSS
def test_changes_of_the_slopes_are_the_hessian(loss, rng):
    z, labels = rng.standard_normal((20, 4)), rng.integers(4, size=20)
    U = 1e-6 * rng.standard_normal((20, 4))
    parts = LOSSES[loss]
    before, after = (parts.at(v, labels)[1] for v in (z - U, z + U))
    assert_allclose(2 * parts.curvature(before, labels, U), after - before, rtol=1e-5, atol=1e-11)


@EVERY_LOSS
def test_the_diagonal_is_the_diagonal_of_the_hessian(loss, rng):
    z, labels = rng.standard_normal((20, 4)), rng.integers(4, size=20)
    parts = LOSSES[loss]
    slopes = parts.at(z, labels)[1]
    found = parts.diagonal(slopes, labels)
    for c, unit in enumerate(np.eye(4)):
        along = parts.curvature(slopes, labels, np.tile(unit, (20, 1)))
        assert_allclose(found[:, c], along[:, c], atol=1.1e-6)
