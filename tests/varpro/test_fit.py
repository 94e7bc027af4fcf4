"""The minimisation: every solver and form, the record it keeps, and how it stops."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binom
from unit_checks import CountingUnits, ExponentialUnits

from varpro_nn.errors import NonFiniteError
from varpro_nn.units import whole_image_units
from varpro_nn.varpro.fit import REASONS, SOLVERS, choose_form, fit
from varpro_nn.varpro.functional import VarProFunctional

WAYS = [(solver, form) for solver, (forms, _) in SOLVERS.items() for form in forms or ("auto",)]
EVERY_WAY = pytest.mark.parametrize(
    ("solver", "form"), WAYS, ids=[f"{solver}-{form}" for solver, form in WAYS]
)
LSMR_FORMS = SOLVERS["lsmr"].forms


def problem(rng, *, broken=(), n_units=3, **choices: Any):
    """A bilinear layer on pictures whose classes it can tell apart in part, and a start."""
    layer = whole_image_units("bilinear", (5, 5), n_units)
    images = rng.random((60, 5, 5))
    labels = np.argmax(images[:, 0, :3] * images[:, 1, :3], axis=1)
    units = CountingUnits(layer, broken)
    choices = {"ridge": 0.01, "weight_decay": 0.01, "dtype": np.float64, **choices}
    functional = VarProFunctional(units, images, np.eye(3)[labels], **choices)
    return functional, layer.init(images, rng)


# --- it descends -------------------------------------------------------------------------


@EVERY_WAY
def test_every_solver_lowers_the_cost(solver, form, rng):
    functional, w0 = problem(rng)
    start = functional.cost(w0.ravel())
    report = fit(functional, w0, solver=solver, form=form, max_nfev=40)
    assert report.cost < 0.999 * start
    assert_allclose(report.cost, functional.cost(report.w), rtol=1e-13)
    point = functional.evaluate(report.w)
    assert_array_equal([report.loo_mse, report.loo_error], [point.loo_mse, point.loo_error])
    assert report.solver == solver
    assert report.form == ("" if form == "auto" else form)
    assert report.reason == REASONS[report.status]
    assert report.converged == (report.status > 0)


@pytest.mark.parametrize("kind", ["kaufman", "full"])
@pytest.mark.parametrize(("solver", "max_nfev"), [("lsmr", 6), ("exact", 6), ("lm", 6)])
def test_the_forms_take_the_same_steps(solver, max_nfev, kind, rng):
    """All have the same matrix, gradient and cost, hence the same iterates.

    Five iterations of LSMR: later ones lose the orthogonality of its vectors, each form in its own
    way. Six steps amplify rounding errors a hundred thousand times.
    """
    functional, w0 = problem(rng)
    costs = []
    for form in SOLVERS[solver].forms:
        report = fit(
            functional, w0, solver=solver, form=form, jacobian=kind, max_nfev=max_nfev,
            inner_iterations=5,
        )  # fmt: skip
        costs.append([record.cost for record in report.history])
    for other in costs[1:]:
        assert_allclose(other, costs[0], rtol=1e-9)


@pytest.mark.parametrize("form", LSMR_FORMS)
def test_capped_inner_solves_give_nearly_the_same_cost(form, rng):
    functional, w0 = problem(rng)
    report = fit(functional, w0, form=form, max_nfev=8)
    exact = fit(functional, w0, solver="exact", form="array", max_nfev=8)
    assert report.cost < exact.cost + 0.3 * (exact.history[0].cost - exact.cost)


def test_single_precision_descends_alike(rng):
    """Five iterations of LSMR, whose vectors stay orthogonal in single precision as well."""
    seed = rng.bit_generator.seed_seq.entropy
    costs = []
    for dtype in (np.float32, np.float64):
        functional, w0 = problem(np.random.default_rng(seed), dtype=dtype)
        costs.append(fit(functional, w0, form="reduced", max_nfev=5, inner_iterations=5).cost)
    assert_allclose(costs[0], costs[1], rtol=1e-3)


def test_blocks_descend_alike(rng):
    seed = rng.bit_generator.seed_seq.entropy
    costs = []
    for block_size in (None, 7):
        functional, w0 = problem(np.random.default_rng(seed), block_size=block_size)
        report = fit(functional, w0, solver="exact", form="reduced", max_nfev=6)
        costs.append([record.cost for record in report.history])
    assert_allclose(costs[0], costs[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("solver", "n_problems", "rate"), [("exact", 12, 0.93), ("lm", 30, 0.33)], ids=["exact", "lm"]
)
def test_planted_network_is_recovered(solver, n_problems, rate, rng):
    """Data that a network of the same size explains, and a start: a share of them finds it.

    Of 240 starts 231 did with ``exact`` (0.963 +- 0.012) and 101 with ``lm`` (0.42 +- 0.03), whose
    first step in MINPACK is a hundred times as long as the weights and may saturate the units.
    With three standard errors less, ``rate``, fewer than what is asked have a probability of 1e-4.
    """
    n_found, n_enough = 0, binom.ppf(1e-4, n_problems, rate)
    for _ in range(n_problems):
        if n_found >= n_enough:
            break  # whatever the others do
        units = whole_image_units("bilinear", (4, 4), 2)
        images = rng.random((100, 4, 4))
        planted = units.init(images, rng)
        tau = units.features(planted, images) @ rng.standard_normal((2, 3)) + rng.standard_normal(3)
        functional = VarProFunctional(units, images, tau, dtype=np.float64)
        assert functional.cost(planted.ravel()) < 1e-24
        start = units.init(images, rng)
        report = fit(functional, start, solver=solver, max_nfev=80, gtol=1e-13, ftol=1e-13)
        if report.cost < 1e-12:
            n_found += 1
            # The same network: its units, in some order, have the planted features.
            found = units.features(report.w.reshape(2, -1), images)
            correlation = np.corrcoef(found.T, units.features(planted, images).T)[:2, 2:]
            assert_allclose(np.abs(correlation).max(axis=1), 1, atol=1e-6)
    assert n_found >= n_enough


def test_gradient_vanishes_where_it_converges(rng):
    functional, w0 = problem(rng, weight_decay=0.3)
    gtol = 1e-6
    report = fit(
        functional, w0, solver="exact", jacobian="full", max_nfev=500, ftol=1e-15, xtol=1e-15,
        gtol=gtol,
    )  # fmt: skip
    assert report.status == 1
    assert report.converged
    gradient = functional.gradient(report.w)
    along = functional.jacobian(report.w, "full") @ gradient
    size = np.linalg.norm(along) * np.linalg.norm(functional.residual(report.w))
    assert gradient @ gradient <= gtol * size * (1 + 1e-6)
    # It stopped for being below gtol: what else is there is rounding.
    optimality = min(report.history, key=lambda record: record.cost).optimality
    assert_allclose(np.abs(gradient).max(), optimality, rtol=1e-6, atol=1e-12)


def two_exponentials(rng, *, noise=1e-3, targets=1.0, abscissae=1.0):
    """Data whose rates are 0.5 and 2, in other units if asked for, and the rates to start from."""
    t = np.linspace(0, 5, 60)
    y = 2 * np.exp(-0.5 * t) - 3 * np.exp(-2 * t) + 1 + noise * rng.standard_normal(60)
    functional = VarProFunctional(ExponentialUnits(2), abscissae * t, targets * y, dtype=np.float64)
    return functional, np.array([0.3, 3.0]) / abscissae


@pytest.mark.parametrize("solver", SOLVERS)
def test_units_of_the_data_do_not_matter(solver, rng):
    """Small numbers were taken for a small gradient, and the start for the end."""
    seed = rng.bit_generator.seed_seq.entropy
    statuses, rates, costs = [], [], []
    for targets, abscissae in [(1, 1), (1e-90, 1), (1e-5, 1), (1e12, 1), (1, 1e-12), (1, 1e12)]:
        functional, w0 = two_exponentials(
            np.random.default_rng(seed), targets=targets, abscissae=abscissae
        )
        report = fit(functional, w0, solver=solver, max_nfev=1000)
        statuses.append(report.converged)
        rates.append(np.sort(report.w) * abscissae)
        costs.append(report.cost / targets**2)
    assert all(statuses)
    assert_allclose(costs, [costs[0]] * len(costs), rtol=1e-6)
    assert_allclose(rates, [rates[0]] * len(rates), rtol=1e-4)
    assert_allclose(rates[0], [0.5, 2.0], rtol=0.05)  # 1e-3 of noise


@pytest.mark.parametrize("solver", ["lsmr", "exact", "lm", "l-bfgs-b"])
def test_a_bad_start_does_not_end_the_search_early(solver, rng):
    """The cost falls by 1e-14, so a gradient that is small beside the first one is large still.

    There a residual of 1e-8 has a rounding error of 1e-16, and the cost 1e-9 of itself. A line
    search on costs alone may end with an error of its own between such digits.
    """
    functional, w0 = two_exponentials(rng, noise=1e-8)
    report = fit(functional, w0, solver=solver, max_nfev=1000)
    assert report.converged or (solver == "l-bfgs-b" and report.status == -3)
    assert_allclose(np.sort(report.w), [0.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("solver", ["lsmr", "exact", "lm", "l-bfgs-b"])
def test_a_stationary_start_is_the_end(solver):
    t = np.linspace(0, 5, 60)
    functional = VarProFunctional(ExponentialUnits(2), t, np.zeros(60), dtype=np.float64)
    report = fit(functional, [1.0, 2.0], solver=solver)
    assert (report.status, report.n_evaluations) == (1, 1)
    assert_array_equal(report.w, [1.0, 2.0])


@pytest.mark.parametrize("form", ["auto", *LSMR_FORMS])
def test_one_weight_is_fitted_by_lsmr_too(form):
    """SciPy looks for a step of LSMR in a plane; a single weight has none (IndexError)."""
    t = np.linspace(0, 5, 60)
    functional = VarProFunctional(ExponentialUnits(1), t, np.exp(-0.7 * t), dtype=np.float64)
    report = fit(functional, [5.0], form=form, max_nfev=50)
    assert_allclose(report.w, [0.7], rtol=1e-8)
    assert report.solver == "exact"  # what was used


# --- the record --------------------------------------------------------------------------


@EVERY_WAY
def test_history_has_every_evaluation(solver, form, rng):
    functional, w0 = problem(rng)
    report = fit(functional, w0, solver=solver, form=form, max_nfev=12)
    history = report.history
    # One more call of features if the weights that are returned were not the last ones tried.
    assert functional.units.n_features - len(history) in (0, 1)
    assert report.n_evaluations == len(history)
    assert_allclose(history[0].cost, functional.cost(w0.ravel()), rtol=1e-13)
    seconds = [record.cpu_seconds for record in history]
    assert report.cpu_seconds >= max(seconds) >= min(seconds) >= 0
    assert np.isfinite([record.loo_mse for record in history]).all()


@pytest.mark.parametrize("form", LSMR_FORMS)
def test_optimality_is_missing_for_refused_trial_points_alone(form, rng):
    """A point from which the next steps start has a gradient: it lowered the cost."""
    functional, w0 = problem(rng, broken={3})  # a trial point that is refused for sure
    report = fit(functional, w0, form=form, max_nfev=20)
    lowest = np.inf
    for record in report.history:
        if record.cost < lowest:
            assert np.isfinite(record.optimality)
            lowest = record.cost
        else:
            assert np.isnan(record.optimality)
    assert_allclose(report.cost, lowest, rtol=1e-12)
    assert np.isnan([record.optimality for record in report.history]).any()
    expected = np.abs(functional.gradient(w0.ravel())).max()
    assert_allclose(report.history[0].optimality, expected, rtol=1e-9)


@EVERY_WAY
def test_start_is_left_alone(solver, form, rng):
    functional, w0 = problem(rng)
    before = w0.copy()
    w0.flags.writeable = False
    report = fit(functional, w0, solver=solver, form=form, max_nfev=5)
    assert_array_equal(w0, before)
    assert report.w.shape == (w0.size,)
    assert not np.shares_memory(report.w, w0)


@EVERY_WAY
def test_same_start_same_end(solver, form, rng):
    functional, w0 = problem(rng)
    ends = [fit(functional, w0, solver=solver, form=form, max_nfev=8).w for _ in range(2)]
    assert_array_equal(*ends)


# --- how it stops ------------------------------------------------------------------------


@pytest.mark.parametrize("max_nfev", [1, 2, 17])
@EVERY_WAY
def test_limit_of_evaluations_is_kept(solver, form, max_nfev, rng):
    functional, w0 = problem(rng)
    report = fit(
        functional, w0, solver=solver, form=form, max_nfev=max_nfev, ftol=1e-15, xtol=1e-15,
        gtol=1e-15,
    )  # fmt: skip
    # MINPACK, at times, and Powell's method count one more than they make.
    assert max_nfev - (solver in ("lm", "powell")) <= report.n_evaluations <= max_nfev
    assert report.status == 0
    assert not report.converged
    assert report.reason == "the limit of evaluations was reached"


@pytest.mark.parametrize("max_nfev", [1, 3, 20])
@EVERY_WAY
def test_no_recorded_cost_is_lower_than_the_one_returned(solver, form, max_nfev, rng):
    functional, w0 = problem(rng)
    report = fit(functional, w0, solver=solver, form=form, max_nfev=max_nfev)
    assert report.cost <= min(record.cost for record in report.history) * (1 + 1e-12)


@pytest.mark.parametrize("solver", [solver for solver in SOLVERS if solver != "lm"])
def test_callback_sees_the_records_and_stops_the_search(solver, rng):
    # One step of Powell's method is a line search along the direction of each weight.
    functional, w0 = problem(rng, n_units=1 if solver == "powell" else 3)
    seen = []

    def stop_at_second(record):
        seen.append(record)
        return len(seen) == 2

    report = fit(functional, w0, solver=solver, max_nfev=5000, callback=stop_at_second)
    assert len(seen) == 2
    assert report.status == -2
    assert report.reason == "stopped by the callback"
    assert not report.converged
    # of the same evaluation; the time of a record grows while its derivative is taken
    assert {record.cost for record in seen} <= {record.cost for record in report.history}
    assert report.cost == seen[-1].cost


def test_callback_that_returns_nothing_changes_nothing(rng):
    functional, w0 = problem(rng)
    seen = []
    with_callback = fit(functional, w0, max_nfev=8, callback=seen.append)
    assert_array_equal(with_callback.w, fit(functional, w0, max_nfev=8).w)
    assert seen


# --- features that are not finite --------------------------------------------------------


@EVERY_WAY
def test_trial_points_that_are_not_finite_are_survived(solver, form, rng):
    """The step is shortened, and the search goes on to something better.

    Three in a row, from which a search comes back, and one later, beside points that are finite.
    """
    broken = {2, 3, 4, 6}
    functional, w0 = problem(rng, broken=broken)
    report = fit(functional, w0, solver=solver, form=form, max_nfev=40)
    assert [i + 1 for i, r in enumerate(report.history) if np.isinf(r.cost)] == sorted(broken)
    assert all(
        np.isnan([r.optimality, r.loo_mse, r.loo_error]).all()
        for r in report.history
        if np.isinf(r.cost)
    )
    assert np.isfinite(report.w).all()
    share = 0.999 if solver in ("powell", "nelder-mead") else 0.5  # those use no derivative
    assert report.cost < share * report.history[0].cost


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s not in ("l-bfgs-b", "powell")])
def test_nothing_finite_but_the_start_returns_the_start(solver, rng):
    functional, w0 = problem(rng, broken=range(2, 1000))
    report = fit(functional, w0, solver=solver, max_nfev=10)
    assert_array_equal(report.w, w0.ravel())
    assert report.cost == report.history[0].cost


@EVERY_WAY
def test_a_start_that_is_not_finite_is_an_error(solver, form, rng):
    functional, w0 = problem(rng, broken={1})
    with pytest.raises(NonFiniteError, match="features are NaN or infinite"):
        fit(functional, w0, solver=solver, form=form)


# --- choices -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"solver": "newton"}, "solver must be one of lsmr, exact, lm, l-bfgs-b, powell, nelder"),
        ({"form": "dense"}, "form must be auto or operator or reduced or array for lsmr"),
        ({"solver": "exact", "form": "operator"}, "form must be auto or reduced or array"),
        ({"solver": "l-bfgs-b", "form": "reduced"}, "form must be auto for l-bfgs-b"),
        ({"jacobian": "golub"}, "jacobian must be one of kaufman, full"),
        ({"solver": "lm", "callback": bool}, "callback needs another solver than 'lm'"),
        ({"max_nfev": 0}, "must be at least 1, got 0 and 20"),
        ({"inner_iterations": 0}, "must be at least 1, got 15 and 0"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_choices_are_checked(choices, message):
    functional, w0 = problem(np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        fit(functional, w0, **choices)


@pytest.mark.parametrize("form", ["operator", "array"])
def test_blocks_can_only_be_reduced(form):
    functional, w0 = problem(np.random.default_rng(0), block_size=10)
    with pytest.raises(ValueError, match="needs block_size=None, got block_size=10"):
        fit(functional, w0, form=form)
    assert choose_form(functional) == "reduced"
    assert fit(functional, w0, max_nfev=2).form == "reduced"


def test_start_of_the_wrong_size_is_refused():
    functional, w0 = problem(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"w must have shape \(33,\) or \(3, 11\), got \(22,\)"):
        fit(functional, w0[:2])


def test_automatic_form_follows_the_count_of_operations():
    """Few weights and many inputs: reduced. Many weights and few inputs: operator."""

    def functional(n, h, k):
        tau = np.zeros((n, k))
        return VarProFunctional(ExponentialUnits(h), np.arange(n), tau, ridge=1, dtype=np.float64)

    assert choose_form(functional(5000, 2, 3)) == "reduced"
    assert choose_form(functional(20, 400, 3)) == "operator"


def test_every_reason_is_in_words():

    assert sorted(REASONS) == [-3, -2, 0, 1, 2, 3, 4]
    assert all(REASONS.values())


@pytest.mark.parametrize(
    ("solver", "options", "status"),
    [
        ("l-bfgs-b", {"gtol": 1e6}, 1),
        ("l-bfgs-b", {"ftol": 1e-2, "gtol": 0.0, "max_nfev": 500}, 2),
        ("powell", {"ftol": 0.5, "max_nfev": 5000}, 2),
        ("nelder-mead", {"ftol": 1e3, "xtol": 1e3, "max_nfev": 500}, 4),
    ],
    ids=["gradient", "cost", "powell", "simplex"],
)
def test_the_reason_is_the_tolerance_that_was_met(solver, options, status, rng):
    functional, w0 = problem(rng, n_units=1 if solver == "powell" else 3)
    assert fit(functional, w0, solver=solver, **options).status == status
