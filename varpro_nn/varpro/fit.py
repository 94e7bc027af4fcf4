"""Minimise a variable-projection functional: the only caller of ``least_squares``.

=============== =============================================== ===================================
solver          method of SciPy                                 form of the problem
=============== =============================================== ===================================
``lsmr``        ``least_squares``, ``trf``, inner LSMR, capped  operator, reduced or array
``exact``       ``least_squares``, ``trf``, inner SVD           reduced or array
``lm``          ``least_squares``, MINPACK's Levenberg-Marquardt reduced or array
``l-bfgs-b``    ``minimize`` on cost and gradient               none: sums over blocks
``powell``      ``minimize``, cost alone, for tiny problems     none
``nelder-mead`` ``minimize``, cost alone, for tiny problems     none
=============== =============================================== ===================================

A capped, inexact inner solve is the default: much faster than an exact one, and not worse after as
many evaluations (``python -m experiments.benchmarks.iteration``). The last three are the paper's
appendix (8.1 and 8.2).

The end of a search does not depend on the units of targets, inputs or weights. SciPy receives
``x = w / u`` and the cost divided by ``v^2``, with powers of two ``u`` and ``v`` near the size of
the weights and of the residual at the start. Its absolute constants are then meaningful, and no bit
of a step changes. The gradient ``g = J'r`` is small if ``r`` hardly changes along it,

    |g|^2 <= gtol |J g| |r|,

where ``|J g| |r|`` is the largest value of the left side (Cauchy and Schwarz). A step along ``g``
can then lower the cost by at most ``gtol^2`` of it. MINPACK has the same test for
each column of ``J``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy

from varpro_nn._arrays import plain_array
from varpro_nn._typing import FloatArray
from varpro_nn.errors import NonFiniteError
from varpro_nn.varpro.functional import VarProFunctional
from varpro_nn.varpro.history import REASONS, FitReport, Record, Recorder, SearchEnd
from varpro_nn.varpro.reduced import JacobianKind, ReducedFunctional

Solver = Literal["lsmr", "exact", "lm", "l-bfgs-b", "powell", "nelder-mead"]
Form = Literal["auto", "operator", "reduced", "array"]

MEMORY_BUDGET = 2**30
"""Bytes that the stored derivative may take before the reduced problem is chosen."""


INNER_ITERATIONS = 20
"""Cap of the inner LSMR solve, unless another is asked for."""


def choose_form(
    functional: ReducedFunctional, inner_iterations: int = INNER_ITERATIONS
) -> Literal["operator", "reduced"]:
    """Pick ``operator`` or ``reduced`` for the LSMR solver by a count of operations."""
    if not isinstance(functional, VarProFunctional):
        return "reduced"  # the only form of the others
    if functional.design.block_size is not None:
        return "reduced"
    return cheaper_form(
        functional.tau.shape,
        functional.n_weights,
        functional.units.n_cells,
        functional.design.ridge_of_columns.size,
        functional.design.dtype.itemsize,
        inner_iterations,
    )


def cheaper_form(
    shape: tuple[int, int],
    n_weights: int,
    n_cells: int,
    n_columns: int,
    itemsize: int,
    inner_iterations: int = INNER_ITERATIONS,
) -> Literal["operator", "reduced"]:
    """Pick the form for targets of a shape (n, k), from the sizes of a problem alone.

    The operator reads the stored derivative twice an inner iteration and is bound by memory; the
    reduced problem multiplies matrices once an outer one, and needs no memory that grows with n.
    The rates are those of a plain core of 2020 and later (100 Gflop/s in single precision,
    20 GB/s); only their ratio matters.
    """
    (n, k), p, m, q = shape, n_weights, n_cells, n_columns
    derivative_bytes = n * m * p * itemsize
    if derivative_bytes > MEMORY_BUDGET:
        return "reduced"
    passes = 2 * (inner_iterations + 2)
    # The basis of the range, (n, q) in double precision, is read twice in each pass.
    operator = passes * (derivative_bytes + 16 * n * q) / 20e9
    # Half of two Gram matrices, by cells or by classes, whichever is smaller, and the products with
    # all columns (jacobian.NormalSums).
    side = p * (m if m * m <= k else k)
    gram = (n + q) * min(m * m, k) * p * p + 2 * n * q * side
    reduced = gram / 100e9 + p**3 / 3 / 20e9 + passes * 8 * p * p / 20e9
    return "operator" if operator <= reduced else "reduced"


def fit(
    functional: ReducedFunctional,
    w0: FloatArray,
    *,
    solver: Solver = "lsmr",
    form: Form = "auto",
    jacobian: JacobianKind = "kaufman",
    max_nfev: int = 15,
    inner_iterations: int = INNER_ITERATIONS,
    ftol: float | None = None,
    xtol: float | None = None,
    gtol: float | None = None,
    callback: Callable[[Record], bool | None] | None = None,
) -> FitReport:
    """Minimise ``functional`` from ``w0``.

    Parameters
    ----------
    functional : VarProFunctional or CrossEntropyFunctional
    w0 : ndarray, shape (h, p) or (h * p,)
    solver : {"lsmr", "exact", "lm", "l-bfgs-b", "powell", "nelder-mead"}
        ``lsmr`` and ``exact`` are ``least_squares`` by trust regions, with the inner problem solved
        by LSMR, capped, or exactly; ``lm`` is MINPACK's Levenberg-Marquardt method. The others
        are methods of ``minimize``, the last two on the cost alone.
    form : {"auto", "operator", "reduced", "array"}
        What ``least_squares`` works on: products with the stored derivative, the equivalent
        problem of h p + 1 rows, or the dense Jacobian. ``auto`` is ``reduced``; for ``lsmr`` the
        cheaper of ``operator`` and ``reduced``.
    jacobian : {"kaufman", "full"}
        Without or with the second term of Golub and Pereyra.
    max_nfev : int
        Evaluations of the functional, refused steps included.
    inner_iterations : int
        Cap of the inner LSMR solve.
    ftol, xtol, gtol : float, optional
        Relative change of cost, relative change of weights, and cosine of the angle between the
        residual and its change along the gradient, at which to stop. By default 1e-8 with a
        functional in double precision, 1e-6 in single. For ``powell`` and ``nelder-mead``, changes
        are relative to the start, and ``gtol`` is not used.
    callback : callable, optional
        ``callback(record)`` after each accepted step; a true value ends the search.

    Returns
    -------
    FitReport

    Raises
    ------
    ValueError
        An unknown name, a form that the solver cannot use, a callback with ``lm``, masked or
        complex weights, or units that break their contract.
    NonFiniteError
        If ``w0`` or the features there are not finite.
    """
    if solver not in SOLVERS:
        msg = f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}."
        raise ValueError(msg)
    forms = tuple(f for f in SOLVERS[solver].forms if f in functional.forms)
    if form != "auto" and form not in forms:
        msg = f"form must be auto{''.join(f' or {f}' for f in forms)} for {solver}, got {form!r}."
        raise ValueError(msg)
    if solver == "lm" and callback is not None:
        msg = "callback needs another solver than 'lm', which has no callback in SciPy."
        raise ValueError(msg)
    if jacobian not in get_args(JacobianKind):
        msg = f"jacobian must be one of {', '.join(get_args(JacobianKind))}, got {jacobian!r}."
        raise ValueError(msg)
    if max_nfev < 1 or inner_iterations < 1:
        msg = (
            "max_nfev and inner_iterations must be at least 1, "
            f"got {max_nfev} and {inner_iterations}."
        )
        raise ValueError(msg)
    w0 = np.array(plain_array(w0, "w0"), dtype=np.float64).ravel()
    if solver == "lsmr" and w0.size == 1:
        # SciPy's step by LSMR lies in a plane. One weight has none, and one column is no array.
        solver, form = "exact", "array" if form == "operator" else form
    if not forms:
        form_used = ""
    elif form != "auto":
        form_used = form
    else:
        form_used = choose_form(functional, inner_iterations) if solver == "lsmr" else "reduced"

    if not np.isfinite(w0).all():
        msg = "the weights to start from are NaN or infinite."
        raise NonFiniteError(msg)
    tolerance = 1e-8 if functional.dtype == np.float64 else 1e-6
    recorder = Recorder(functional, callback, max_nfev)
    cost = recorder.cost(w0)
    problem = _Problem(
        recorder, w0, _power_of_two(math.sqrt(float(np.mean(w0**2)))),
        _power_of_two(math.sqrt(2 * cost)), form_used, jacobian, max_nfev, inner_iterations,
        *(tolerance if given is None else given for given in (ftol, xtol, gtol)),
    )  # fmt: skip
    try:
        status = SOLVERS[solver].minimise(problem)
    except SearchEnd as end:
        status = end.status
    w = recorder.best[1]
    record = recorder.record(w)
    return FitReport(
        w=w,
        cost=record.cost,
        loo_mse=record.loo_mse,
        loo_error=record.loo_error,
        history=tuple(recorder.history),
        status=status,
        reason=REASONS[status],
        solver=solver,
        form=form_used,
        cpu_seconds=recorder.elapsed(),
    )


def _power_of_two(size: float) -> float:
    """Power of two near ``size``; 1 if there is no size."""
    return 2.0 ** math.frexp(size)[1] if 0 < size < math.inf else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """The input of a solver: the functional in its recorder, the start, and when to stop.

    A solver sees ``x = w / weight_unit`` and residuals divided by ``residual_unit``.
    """

    recorder: Recorder
    w0: FloatArray
    weight_unit: float
    residual_unit: float
    form: str
    jacobian: JacobianKind
    max_nfev: int
    inner_iterations: int
    ftol: float
    xtol: float
    gtol: float

    @property
    def x0(self) -> FloatArray:
        """The start in the units of the solver."""
        return self.w0 / self.weight_unit

    def accepted(self, intermediate_result: Any) -> None:
        """After each step that SciPy accepted (the name of the argument is SciPy's)."""
        self.recorder.accepted(intermediate_result.x * self.weight_unit)

    def least_squares(
        self,
        method: Literal["trf", "lm"],
        tr_solver: Literal["lsmr", "exact"] | None = None,
        tr_options: dict[str, Any] | None = None,
        callback: Callable[[Any], None] | None = None,
    ) -> int:
        """Hand the residual and its Jacobian, in the form chosen, to SciPy; return the status."""
        recorder, form = self.recorder, self.form
        functional: Any = recorder.functional  # residual and jacobian: of VarProFunctional alone

        def residual(x: FloatArray) -> FloatArray:
            w = x * self.weight_unit
            if not math.isfinite(recorder.cost(w)):
                # SciPy takes such a trial point back and shortens the step.
                rows = functional.n_weights + 1 if form == "reduced" else functional.n_residuals
                return np.full(rows, np.inf)
            r = functional.reduced_residual(w) if form == "reduced" else functional.residual(w)
            return r / self.residual_unit

        def jacobian(x: FloatArray) -> Any:
            w = x * self.weight_unit
            if form == "reduced":
                r, J = functional.reduced(w, self.jacobian)
            else:
                r, J = functional.residual(w), functional.jacobian(w, self.jacobian, form)
            # From here on in the units of the solver, where nothing overflows or vanishes.
            r, J = r / self.residual_unit, J * (self.weight_unit / self.residual_unit)
            g = J.T @ r
            along, square = float(np.linalg.norm(J @ g)), float(g @ g)
            small = square <= self.gtol * along * float(np.linalg.norm(r))
            recorder.set_gradient(w, g * (self.residual_unit**2 / self.weight_unit), small=small)
            return J

        # The gradient is tested here, at the start and after each accepted step. SciPy's own test
        # of ``trf`` is an absolute one: it has the least number that SciPy takes.
        gtol = self.gtol if method == "lm" else float(np.finfo(np.float64).eps)
        result = scipy.optimize.least_squares(
            residual, self.x0, jacobian, max_nfev=self.max_nfev, x_scale=1.0,
            ftol=self.ftol, xtol=self.xtol, gtol=gtol,
            method=method, tr_solver=tr_solver, tr_options=tr_options, callback=callback,
        )  # fmt: skip
        return int(result.status)

    def cost(self, x: FloatArray) -> float:
        """Cost for a search that computes with it: high where it is infinite, but a number."""
        cost = self.recorder.cost(x * self.weight_unit)
        if not math.isfinite(cost):
            cost = 10 * self.recorder.history[0].cost
        return cost / self.residual_unit**2


def _trust_region_lsmr(problem: _Problem) -> int:
    return problem.least_squares(
        method="trf", tr_solver="lsmr", tr_options={"maxiter": problem.inner_iterations},
        callback=problem.accepted,
    )  # fmt: skip


def _trust_region_exact(problem: _Problem) -> int:
    return problem.least_squares(method="trf", tr_solver="exact", callback=problem.accepted)


def _levenberg_marquardt(problem: _Problem) -> int:
    return problem.least_squares(method="lm")


def _l_bfgs_b(problem: _Problem) -> int:
    search = _QuasiNewton(problem)
    result = scipy.optimize.minimize(
        search.cost_and_gradient, problem.x0, jac=True, method="L-BFGS-B",
        callback=search.accepted,
        # Both are tested after each step, relative to the cost there; SciPy's tests are not.
        options={"maxfun": problem.max_nfev, "maxiter": problem.max_nfev, "ftol": 0, "gtol": 0},
    )  # fmt: skip
    if result.status not in (0, 1):
        return -3
    if not result.success:
        return 0
    return 1 if "GRADIENT" in str(result.message).upper() else 2


class _QuasiNewton:
    """A search by costs and gradients: its functions, and its tests after each step.

    It has no ``J``. The change of the gradient over the last step ``d`` gives the curvature
    ``d'(g - g_before) / |d|^2``, which stands for ``|J g|^2 / |g|^2`` in the test of the gradient.
    """

    def __init__(self, problem: _Problem) -> None:
        self._problem = problem
        # Cost, x and gradient in the units of the solver, where nothing overflows or vanishes.
        self._last = self._step_from = math.inf, problem.x0, np.zeros_like(problem.x0)

    def cost_and_gradient(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Cost and gradient for a line search along a direction of descent.

        Where the cost is infinite it is given as one just above that at which the line search
        began, without a slope. The search refuses it and, as the cubic through both ends says,
        takes a third of the step: a much higher cost would have it take next to nothing.
        """
        problem = self._problem
        w, unit = x * problem.weight_unit, problem.residual_unit**2
        cost = problem.recorder.cost(w)
        if not math.isfinite(cost):
            return float(np.nextafter(self._step_from[0], np.inf)), np.zeros_like(x)
        gradient = problem.recorder.functional.gradient(w)
        problem.recorder.set_gradient(w, gradient, small=not gradient.any())
        self._last = cost / unit, x.copy(), gradient * (problem.weight_unit / unit)
        if math.isinf(self._step_from[0]):
            self._step_from = self._last  # the start
        return self._last[0], self._last[2]

    def accepted(self, intermediate_result: Any) -> None:
        """After each step: the callback, then whether gradient or cost hardly change any more."""
        problem = self._problem
        problem.accepted(intermediate_result)
        (before, x_before, g_before), (cost, x, g) = self._step_from, self._last
        self._step_from = self._last
        if before - cost <= problem.ftol * before:
            raise SearchEnd(2)
        step = x - x_before
        curvature = float(step @ (g - g_before)) / float(step @ step)
        if float(g @ g) <= problem.gtol**2 * 2 * cost * curvature:
            raise SearchEnd(1)


def _powell(problem: _Problem) -> int:
    result = scipy.optimize.minimize(
        problem.cost, problem.x0, method="Powell", callback=problem.accepted,
        options={"maxfev": problem.max_nfev, "ftol": problem.ftol, "xtol": problem.xtol},
    )  # fmt: skip
    return 2 if result.success else 0


def _nelder_mead(problem: _Problem) -> int:
    result = scipy.optimize.minimize(
        problem.cost, problem.x0, method="Nelder-Mead", callback=problem.accepted,
        options={"maxfev": problem.max_nfev, "fatol": problem.ftol, "xatol": problem.xtol},
    )  # fmt: skip
    return 4 if result.success else 0


class _Method(NamedTuple):
    """A solver: the forms of the problem that it can work on, and the function that minimises."""

    forms: tuple[str, ...]
    minimise: Callable[[_Problem], int]


SOLVERS: dict[str, _Method] = {
    "lsmr": _Method(("operator", "reduced", "array"), _trust_region_lsmr),
    "exact": _Method(("reduced", "array"), _trust_region_exact),
    "lm": _Method(("reduced", "array"), _levenberg_marquardt),
    "l-bfgs-b": _Method((), _l_bfgs_b),
    "powell": _Method((), _powell),
    "nelder-mead": _Method((), _nelder_mead),
}
"""The solvers by name."""
