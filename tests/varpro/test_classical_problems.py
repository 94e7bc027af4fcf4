"""Sums of exponentials: classical separable problems, by way of the public unit contract.

References
----------
NIST Statistical Reference Datasets, nonlinear regression: Lanczos1, Lanczos2, Lanczos3, of
C. Lanczos, Applied Analysis (1956), pp. 272-280. Data and certified values as in the files
Lanczos2.dat and Lanczos3.dat of www.itl.nist.gov/div898/strd/nls.
M. R. Osborne (1972); problem 17 of J. J. More, B. S. Garbow and K. E. Hillstrom, ACM Trans. Math.
Softw. 7 (1981) 17-41, which gives the minimum 5.46489e-5. Data as in NLSProblems.jl, mgh17.jl.
"""

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose
from scipy.optimize import least_squares
from unit_checks import ExponentialUnits

from varpro_nn.varpro.fit import fit
from varpro_nn.varpro.functional import VarProFunctional

TIGHT = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
WAYS = pytest.mark.parametrize(
    ("solver", "form", "kind"),
    [
        ("lm", "array", "full"),
        ("lm", "array", "kaufman"),
        ("exact", "array", "full"),
        ("exact", "array", "kaufman"),
        ("exact", "reduced", "kaufman"),
        ("lm", "reduced", "full"),
    ],
    ids=lambda value: str(value),
)


def exponentials(t, y, n_units, *, constant):
    return VarProFunctional(ExponentialUnits(n_units), t, y, constant=constant, dtype=np.float64)


def rates_and_weights(report, functional):
    """Rates in rising order, and the linear weight of each; then that of the constant."""
    A = functional.evaluate(report.w).A[:, 0]
    order = np.argsort(report.w)
    return report.w[order], np.append(A[: order.size][order], A[order.size :])


# --- Lanczos -----------------------------------------------------------------------------

ABSCISSAE = np.arange(24) * 0.05
EXACT = np.array([0.0951, 0.8607, 1.5576]), np.array([1.0, 3.0, 5.0])
STARTS = pytest.mark.parametrize(
    "start", [(0.3, 5.5, 7.6), (0.7, 4.2, 6.3)], ids=["start1", "start2"]
)
CERTIFIED = {
    # how the data are rounded: linear weights, rates, sum of squares
    "6 digits": (
        [9.6251029939e-02, 8.6424689056e-01, 1.5529016879e00],
        [1.0057332849e00, 3.0078283915e00, 5.0028798100e00],
        2.2299428125e-11,
    ),
    "4 decimals": (
        [8.6816414977e-02, 8.4400777463e-01, 1.5825685901e00],
        [9.5498101505e-01, 2.9515951832e00, 4.9863565084e00],
        1.6117193594e-08,
    ),
}


def lanczos(rounding):
    weights, rates = EXACT
    y = np.exp(-np.outer(ABSCISSAE, rates)) @ weights
    digits = {"14 digits": ".13e", "6 digits": ".5e", "4 decimals": ".4f"}[rounding]
    return np.array([float(format(value, digits)) for value in y])


def test_data_are_those_of_nist():
    assert_allclose(lanczos("6 digits")[[1, 7, 23]], [2.04433, 6.38878e-01, 6.23931e-02], rtol=0)
    assert_allclose(lanczos("4 decimals")[:5], [2.5134, 2.0443, 1.6684, 1.3664, 1.1232], rtol=0)


@WAYS
@STARTS
@pytest.mark.parametrize("rounding", CERTIFIED, ids=["Lanczos2", "Lanczos3"])
def test_lanczos_with_rounded_data(rounding, start, solver, form, kind):
    functional = exponentials(ABSCISSAE, lanczos(rounding), 3, constant=False)
    report = fit(
        functional, start, solver=solver, form=form, jacobian=kind, max_nfev=2000, **TIGHT
    )  # fmt: skip
    weights, rates, sum_of_squares = CERTIFIED[rounding]
    found_rates, found_weights = rates_and_weights(report, functional)
    assert_allclose(2 * report.cost, sum_of_squares, rtol=1e-6)
    assert_allclose(found_rates, rates, rtol=1e-4)
    assert_allclose(found_weights, weights, rtol=1e-4)


@STARTS
def test_lanczos_with_exact_data(start):
    """Lanczos1: the certified sum of squares, 1.4e-25, is rounding error."""
    functional = exponentials(ABSCISSAE, lanczos("14 digits"), 3, constant=False)
    report = fit(functional, start, solver="lm", form="array", max_nfev=2000, **TIGHT)
    found_rates, found_weights = rates_and_weights(report, functional)
    assert 2 * report.cost < 1e-20
    assert_allclose(found_weights, EXACT[0], rtol=1e-4)
    assert_allclose(found_rates, EXACT[1], rtol=1e-4)


# --- Osborne -----------------------------------------------------------------------------

OSBORNE = np.array(
    [
        844, 908, 932, 936, 925, 908, 881, 850, 818, 784, 751, 718, 685, 658, 628, 603, 580, 558,
        538, 522, 506, 490, 478, 467, 457, 448, 438, 431, 424, 420, 414, 411, 406,
    ]
) / 1000  # fmt: skip


@WAYS
def test_osborne_1(solver, form, kind):
    functional = exponentials(10.0 * np.arange(33), OSBORNE, 2, constant=True)
    report = fit(
        functional, (0.01, 0.02), solver=solver, form=form, jacobian=kind, max_nfev=500, **TIGHT
    )  # fmt: skip
    rates, weights = rates_and_weights(report, functional)
    assert f"{2 * report.cost:.5e}" == "5.46489e-05"  # all digits that are published
    assert_allclose(rates, [0.01287, 0.02212], atol=1e-5)
    assert_allclose(weights, [1.93585, -1.46469, 0.37541], atol=2e-3)


def test_osborne_1_agrees_with_a_joint_fit():
    """All five parameters at once, by SciPy alone."""
    t = 10.0 * np.arange(33)

    def residual(x):
        return x[0] + x[1] * np.exp(-t * x[3]) + x[2] * np.exp(-t * x[4]) - OSBORNE

    joint = least_squares(
        residual, [0.5, 1.5, -1, 0.01, 0.02], method="lm", max_nfev=20000, **TIGHT
    )
    functional = exponentials(t, OSBORNE, 2, constant=True)
    report = fit(functional, (0.01, 0.02), solver="lm", max_nfev=500, **TIGHT)
    rates, weights = rates_and_weights(report, functional)
    assert_allclose(report.cost, joint.cost, rtol=1e-8)
    assert_allclose(np.append(weights[[2, 0, 1]], rates), joint.x, rtol=1e-4)


# --- double exponentials -----------------------------------------------------------------


def test_double_exponential_from_many_starts(rng):
    t = np.linspace(0, 4, 60)
    y = 2 * np.exp(-0.5 * t) - 1.5 * np.exp(-3 * t) + 0.3 + 0.01 * rng.standard_normal(60)
    functional = exponentials(t, y, 2, constant=True)
    starts = [(0.1, 1), (0.1, 10), (1, 2), (0.3, 0.4), (2, 8), (5, 6), (0.7, 30)]
    reports = [fit(functional, w, solver="lm", max_nfev=500, **TIGHT) for w in starts]

    def residual(x):
        return np.exp(-np.outer(t, x[3:])) @ x[1:3] + x[0] - y

    joint = least_squares(residual, [0.3, 2, -1.5, 0.5, 3], **TIGHT)
    assert_allclose([report.cost for report in reports], joint.cost, rtol=1e-8)
    assert_allclose([np.sort(report.w) for report in reports], [joint.x[3:]] * 7, rtol=1e-4)


def test_several_curves_share_their_rates(rng):
    """Targets of several columns: the same rates, linear weights of their own."""
    t = np.linspace(0, 4, 50)
    A = rng.uniform(0.5, 2, (3, 4)) * [[1], [-1], [1]]
    y = np.column_stack([np.exp(-0.5 * t), np.exp(-2 * t), np.ones(50)]) @ A
    functional = exponentials(t, y, 2, constant=True)
    report = fit(functional, (0.1, 5), solver="lm", max_nfev=500, **TIGHT)
    assert report.cost < 1e-20
    assert_allclose(np.sort(report.w), [0.5, 2], rtol=1e-6)
    found = functional.evaluate(report.w).A
    assert_allclose(found[[*np.argsort(report.w), 2]], A, rtol=1e-6)


def test_variance_of_the_rates_is_that_of_the_joint_problem():
    """Without its linear weights, the full Jacobian's J'J is a Schur complement of the joint one's.

    At zero residual, where the second-order terms of both vanish.
    """
    t = np.linspace(0, 4, 50)
    rates, weights = np.array([0.5, 2.0]), np.array([1.0, -2.0])
    y = np.exp(-np.outer(t, rates)) @ weights
    functional = exponentials(t, y, 2, constant=False)

    def residual(x):
        return y - np.exp(-np.outer(t, x[2:])) @ x[:2]

    J = reference.derivative(residual, np.append(weights, rates))
    joint = np.linalg.inv(J.T @ J)[2:, 2:]
    H, _ = functional.normal_equations(rates, "full")
    assert_allclose(np.linalg.inv(H), joint, rtol=1e-6)
