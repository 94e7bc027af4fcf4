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
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy

from varpro_nn._typing import FloatArray
from varpro_nn.errors import NonFiniteError
from varpro_nn.varpro.functional import VarProFunctional
from varpro_nn.varpro.history import REASONS, FitReport, LimitError, Record, Recorder
from varpro_nn.varpro.reduced import JacobianKind, ReducedFunctional

Solver = Literal["lsmr", "exact", "lm", "l-bfgs-b", "powell", "nelder-mead"]
Form = Literal["auto", "operator", "reduced", "array"]

MEMORY_BUDGET = 2**30
"""Bytes that the stored derivative may take before the reduced problem is chosen."""


def choose_form(functional: ReducedFunctional, inner_iterations: int = 20) -> str:
    """Pick ``operator`` or ``reduced`` for the LSMR solver by a count of operations.

    The operator reads the stored derivative twice an inner iteration and is bound by memory; the
    reduced problem multiplies matrices once an outer one, and needs no memory that grows with n.
    The rates are those of a plain core of 2020 and later (100 Gflop/s in single precision,
    20 GB/s); only their ratio matters.
    """
    if not isinstance(functional, VarProFunctional):
        return "reduced"  # the only form of the others
    n, k = functional.tau.shape
    p = functional.n_weights
    m = functional.units.n_cells
    derivative_bytes = n * m * p * functional.design.dtype.itemsize
    stored = functional.design.block_size is None and derivative_bytes <= MEMORY_BUDGET
    if not stored:
        return "reduced"
    passes = 2 * (inner_iterations + 2)
    operator = passes * derivative_bytes / 20e9
    # Half the Gram matrix, by cells or by classes, whichever is smaller (jacobian.NormalSums).
    reduced = n * min(m * m, k) * p * p / 100e9 + p**3 / 3 / 20e9 + passes * 8 * p * p / 20e9
    return "operator" if operator <= reduced else "reduced"


def fit(
    functional: ReducedFunctional,
    w0: FloatArray,
    *,
    solver: Solver = "lsmr",
    form: Form = "auto",
    jacobian: JacobianKind = "kaufman",
    max_nfev: int = 15,
    inner_iterations: int = 20,
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
        Relative change of cost and weights, size of the gradient, at which to stop. By default
        1e-8 with a functional in double precision, 1e-6 in single.
    callback : callable, optional
        ``callback(record)`` after each accepted step; a true value ends the search.

    Returns
    -------
    FitReport

    Raises
    ------
    ValueError
        An unknown name, a form that the solver cannot use, a callback with ``lm``.
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
    if not forms:
        form_used = ""
    elif form != "auto":
        form_used = form
    else:
        form_used = choose_form(functional, inner_iterations) if solver == "lsmr" else "reduced"

    w0 = np.array(w0, dtype=np.float64).ravel()
    if not np.isfinite(w0).all():
        msg = "the weights to start from are NaN or infinite."
        raise NonFiniteError(msg)
    tolerance = 1e-8 if functional.dtype == np.float64 else 1e-6
    problem = _Problem(
        Recorder(functional, callback, max_nfev), w0, form_used, jacobian, max_nfev,
        inner_iterations,
        *(tolerance if given is None else given for given in (ftol, xtol, gtol)),
    )  # fmt: skip
    recorder = problem.recorder
    try:
        status = SOLVERS[solver].minimise(problem)
    except LimitError:
        status = 0
    if recorder.status < 0:
        status = recorder.status
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


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """What a solver is given: the functional in its recorder, the start, and when to stop."""

    recorder: Recorder
    w0: FloatArray
    form: str
    jacobian: JacobianKind
    max_nfev: int
    inner_iterations: int
    ftol: float
    xtol: float
    gtol: float

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

        def residual(w: FloatArray) -> FloatArray:
            if not math.isfinite(recorder.cost(w)):
                # SciPy takes such a trial point back and shortens the step.
                rows = functional.n_weights + 1 if form == "reduced" else functional.n_residuals
                return np.full(rows, np.inf)
            return functional.reduced_residual(w) if form == "reduced" else functional.residual(w)

        def jacobian(w: FloatArray) -> Any:
            if form == "reduced":
                f, J = functional.reduced(w, self.jacobian)
                recorder.set_gradient(w, J.T @ f)
                return J
            J = functional.jacobian(w, self.jacobian, form)
            recorder.set_gradient(w, J.T @ functional.residual(w))
            return J

        result = scipy.optimize.least_squares(
            residual, self.w0, jacobian, max_nfev=self.max_nfev, x_scale=1.0,
            ftol=self.ftol, xtol=self.xtol, gtol=self.gtol,
            method=method, tr_solver=tr_solver, tr_options=tr_options, callback=callback,
        )  # fmt: skip
        return int(result.status)

    def finite_cost(self, w: FloatArray) -> float:
        """Cost for a search that computes with it: high where it is infinite, but a number."""
        cost = self.recorder.cost(w)
        return cost if math.isfinite(cost) else 10 * self.recorder.history[0].cost

    def cost_and_gradient(self, w: FloatArray) -> tuple[float, FloatArray]:
        """Cost and gradient for a line search along a direction of descent.

        Where the cost is infinite it is given as one just above that at which the line search
        began, without a slope. The search refuses it and, as the cubic through both ends says,
        takes a third of the step: a much higher cost would have it take next to nothing.
        """
        cost = self.recorder.cost(w)
        if not math.isfinite(cost):
            return float(np.nextafter(self.recorder.accepted_cost, np.inf)), np.zeros_like(w)
        gradient = self.recorder.functional.gradient(w)
        self.recorder.set_gradient(w, gradient)
        return cost, gradient


def _trust_region_lsmr(problem: _Problem) -> int:
    return problem.least_squares(
        method="trf", tr_solver="lsmr", tr_options={"maxiter": problem.inner_iterations},
        callback=problem.recorder.accepted,
    )  # fmt: skip


def _trust_region_exact(problem: _Problem) -> int:
    return problem.least_squares(
        method="trf", tr_solver="exact", callback=problem.recorder.accepted
    )


def _levenberg_marquardt(problem: _Problem) -> int:
    return problem.least_squares(method="lm")


def _l_bfgs_b(problem: _Problem) -> int:
    result = scipy.optimize.minimize(
        problem.cost_and_gradient, problem.w0, jac=True, method="L-BFGS-B",
        callback=problem.recorder.accepted,
        options={
            "maxfun": problem.max_nfev, "maxiter": problem.max_nfev,
            "ftol": problem.ftol, "gtol": problem.gtol,
        },
    )  # fmt: skip
    if result.status not in (0, 1):
        return -3
    if not result.success:
        return 0
    return 1 if "GRADIENT" in str(result.message).upper() else 2


def _powell(problem: _Problem) -> int:
    result = scipy.optimize.minimize(
        problem.finite_cost, problem.w0, method="Powell", callback=problem.recorder.accepted,
        options={"maxfev": problem.max_nfev, "ftol": problem.ftol, "xtol": problem.xtol},
    )  # fmt: skip
    return 2 if result.success else 0


def _nelder_mead(problem: _Problem) -> int:
    result = scipy.optimize.minimize(
        problem.finite_cost, problem.w0, method="Nelder-Mead", callback=problem.recorder.accepted,
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
