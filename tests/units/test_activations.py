import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from varpro_nn.units import ACTIVATIONS
from varpro_nn.units.activations import sides

THRESHOLD = 0.3
KINKS = {"rectifier": [0.0], "two-sided": [-THRESHOLD, THRESHOLD]}
EVERY_ACTIVATION = pytest.mark.parametrize("name", ACTIVATIONS)
EVERY_TYPE = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["single", "double"])


def columns(name, z, threshold=THRESHOLD):
    """All columns of an activation, (sides, ...)."""
    return np.stack([side.apply(z, np.empty_like(z)) for side in sides(name, threshold)])


@EVERY_ACTIVATION
def test_values_are_those_of_the_formula(name):
    z = np.linspace(-6, 6, 101)
    expected = np.transpose([reference.activate(name, value, THRESHOLD) for value in z])
    assert_allclose(columns(name, z), expected, rtol=1e-12, atol=1e-15)


@EVERY_ACTIVATION
def test_derivative_is_a_function_of_the_value(name, rng):
    """Compared with finite differences, away from kinks."""
    step = 1e-3
    z = rng.uniform(-6, 6, 300)
    for kink in KINKS.get(name, []):
        z = z[np.abs(z - kink) > 2 * step]
    for side in sides(name, THRESHOLD):
        numeric = np.array(
            [reference.derivative(lambda x, s=side: s.apply(x, x.copy())[0], z[i : i + 1], step)
             for i in range(z.size)]
        )[:, 0]  # fmt: skip
        value = side.apply(z, np.empty_like(z))
        slope = side.derivative(value)
        assert_allclose(slope, numeric, rtol=1e-9, atol=1e-11)
        assert not np.shares_memory(slope, value)
        assert np.ptp(slope) > 0.2  # and the differences see something


@EVERY_TYPE
@EVERY_ACTIVATION
def test_result_goes_where_it_is_asked_to(name, dtype, rng):
    """To ``z`` itself, or elsewhere with ``z`` as it was; in the type of ``z``."""
    z = rng.uniform(-3, 3, (4, 5)).astype(dtype)
    for side in sides(name, THRESHOLD):
        before, elsewhere, same = z.copy(), np.full_like(z, np.nan), z.copy()
        value = side.apply(z, elsewhere)
        assert value is elsewhere
        assert_array_equal(z, before)
        assert side.apply(same, same) is same
        assert_array_equal(same, elsewhere)
        slope = side.derivative(value)
        assert value.dtype == slope.dtype == dtype
        assert_array_equal(value, elsewhere)


@EVERY_TYPE
@pytest.mark.parametrize(
    ("name", "values", "slopes"),
    [
        ("logistic", [[0, 0, 0.5, 1, 1]], [[0, 0, 0.25, 0, 0]]),
        ("tanh", [[-1, -1, 0, 1, 1]], [[0, 0, 1, 0, 0]]),
        ("rectifier", [[0, 0, 0, 50, 1e4]], [[0, 0, 0, 1, 1]]),
        (
            "two-sided",
            [[0, 0, 0, 49.5, 9999.5], [9999.5, 49.5, 0, 0, 0]],
            [[0, 0, 0, 1, 1], [-1, -1, 0, 0, 0]],
        ),
    ],
    ids=ACTIVATIONS,
)
def test_large_preactivations_neither_overflow_nor_warn(name, values, slopes, dtype):
    z = np.array([-1e4, -50, 0, 50, 1e4], dtype=dtype)
    made = columns(name, z, 0.5)
    assert_allclose(made, values, rtol=1e-6, atol=1e-15)
    derivatives = [s.derivative(v) for s, v in zip(sides(name, 0.5), made, strict=True)]
    assert_allclose(derivatives, slopes, rtol=1e-6, atol=1e-15)


@EVERY_TYPE
def test_values_are_good_to_the_last_digits_but_one(dtype):
    """The absolute error of single precision is that of its rounding, in the tails as well.

    NumPy promises 4 units in the last place, 2 eps for a number near 1. Half of one plus tanh has
    half of that and a rounding; the reference, in double precision, has a unit, eps / 2.
    """
    z = np.linspace(-30, 30, 2001).astype(dtype)
    exact = z.astype(np.float64)
    eps = np.finfo(dtype).eps
    assert_allclose(columns("logistic", z)[0], expit(exact), rtol=0, atol=4 * eps)
    assert_allclose(columns("tanh", z)[0], np.tanh(exact), rtol=0, atol=4 * eps)


def test_the_rectifier_has_slope_zero_or_one(rng):
    z = np.append(rng.standard_normal(200), 0.0)
    (side,) = sides("rectifier")
    slope = side.derivative(side.apply(z, np.empty_like(z)))
    assert_array_equal(slope, np.where(z > 0, 1.0, 0.0))


def test_the_two_sides_mirror_each_other(rng):
    z = rng.uniform(-2, 2, 200)
    above, below = columns("two-sided", z)
    assert_array_equal(columns("two-sided", -z), [below, above])
    assert_array_equal((above > 0) & (below > 0), False)
    # What lies between the thresholds is seen by neither; beyond, all but the threshold is kept.
    assert_allclose(above - below, np.sign(z) * np.maximum(np.abs(z) - THRESHOLD, 0), atol=1e-15)


def test_without_threshold_the_two_sides_are_rectifiers(rng):
    z = rng.standard_normal(200)
    above, below = columns("two-sided", z, 0.0)
    assert_array_equal(above, columns("rectifier", z)[0])
    assert_array_equal(above - below, z)
    assert [len(sides(name)) for name in ACTIVATIONS] == [1, 1, 1, 2]


def test_the_logistic_function_is_a_hyperbolic_tangent(rng):
    """2 logistic(2 z) - 1 = tanh(z)."""
    z = rng.uniform(-8, 8, 200)
    assert_allclose(2 * columns("logistic", 2 * z)[0] - 1, np.tanh(z), rtol=1e-9)
