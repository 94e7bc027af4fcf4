"""What happens in a fit: a record of every evaluation, when to stop, and the report of the end."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from varpro_nn._typing import FloatArray
from varpro_nn.errors import NonFiniteError
from varpro_nn.varpro.reduced import ReducedFunctional

REASONS = {
    -2: "stopped by the callback",
    -3: "stopped: the line search found no lower cost",
    0: "the limit of evaluations was reached",
    1: "converged: the gradient is small (gtol)",
    2: "converged: the cost no longer changes (ftol)",
    3: "converged: the weights no longer change (xtol)",
    4: "converged: neither cost nor weights change (ftol and xtol)",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluation of the functional.

    Attributes
    ----------
    cost : float
        Infinite where the features were not finite.
    optimality : float
        Largest entry of the gradient; NaN at a trial point whose step was refused, where no
        derivative was taken.
    loo_mse, loo_error : float
        Exact leave-one-out errors of the linear fit, as in ``reduced.Evaluation``.
    cpu_seconds : float
        Of this process, since the start of the fit.
    """

    cost: float
    optimality: float
    loo_mse: float
    loo_error: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class FitReport:
    """The end of a fit.

    Attributes
    ----------
    w : ndarray, shape (h * p,)
        Weights of lowest cost.
    cost, loo_mse, loo_error : float
        There.
    history : tuple of Record
        One entry an evaluation, the start first.
    status : int
        Positive for convergence, 0 if the limit of evaluations was reached, negative if the
        search was stopped.
    reason : str
        The same in words.
    solver, form : str
        What was used; ``form`` is empty for the solvers that need none.
    cpu_seconds : float
        CPU time of this process in the whole fit, the last inner solve included.
    """

    w: FloatArray
    cost: float
    loo_mse: float
    loo_error: float
    history: tuple[Record, ...]
    status: int
    reason: str
    solver: str
    form: str
    cpu_seconds: float

    @property
    def n_evaluations(self) -> int:
        """Evaluations of the functional."""
        return len(self.history)

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met."""
        return self.status > 0


def join_reports(reports: Sequence[FitReport]) -> FitReport:
    """One report of fits that went on from each other: the last, with the history of all."""
    history: list[Record] = []
    elapsed = 0.0
    for report in reports:
        history += [replace(r, cpu_seconds=r.cpu_seconds + elapsed) for r in report.history]
        elapsed += report.cpu_seconds
    return replace(reports[-1], history=tuple(history), cpu_seconds=elapsed)


class SearchEnd(Exception):  # noqa: N818  # ends a search, as StopIteration does
    """Ends a search from within a function that SciPy calls.

    Attributes
    ----------
    status : int
        A key of :data:`REASONS`.
    """

    def __init__(self, status: int) -> None:
        super().__init__(REASONS[status])
        self.status = status


class Recorder:
    """Records every evaluation and decides when to stop.

    The one place of mutable state in a fit: SciPy calls back into it.
    """

    def __init__(
        self,
        functional: ReducedFunctional,
        callback: Callable[[Record], bool | None] | None,
        max_nfev: int,
    ) -> None:
        self.functional = functional
        self.history: list[Record] = []
        # Where the cost was lowest.
        self.best: tuple[float, FloatArray] = math.inf, np.zeros(0)
        self._gradient_is_small = False
        self._callback = callback
        self._max_nfev = max_nfev
        self._of_key: dict[bytes, int] = {}
        self._start = time.process_time()

    def elapsed(self) -> float:
        """CPU seconds of this process since the fit began."""
        return time.process_time() - self._start

    def cost(self, w: FloatArray) -> float:
        """Evaluate and record the cost at ``w``; infinite if the evaluation fails."""
        if w.tobytes() in self._of_key:
            return self.record(w).cost  # asked again: no evaluation
        if len(self.history) >= self._max_nfev:
            raise SearchEnd(0)
        try:
            point = self.functional.evaluate(w)
            cost, loo_mse, loo_error = point.cost, point.loo_mse, point.loo_error
        except NonFiniteError:
            if not self.history:
                raise
            cost, loo_mse, loo_error = math.inf, math.nan, math.nan
        self._of_key[w.tobytes()] = len(self.history)
        self.history.append(Record(cost, math.nan, loo_mse, loo_error, self.elapsed()))
        if cost < self.best[0]:
            self.best = cost, w.copy()
        return cost

    def record(self, w: FloatArray) -> Record:
        """Look up the record of the evaluation at ``w``."""
        return self.history[self._of_key[w.tobytes()]]

    def set_gradient(self, w: FloatArray, gradient: FloatArray, *, small: bool) -> None:
        """Add the optimality to the record of ``w``; end the search if the start is stationary."""
        number = self._of_key[w.tobytes()]
        self.history[number] = replace(
            self.history[number],
            optimality=float(np.max(np.abs(gradient), initial=0.0)),
            cpu_seconds=self.elapsed(),
        )
        self._gradient_is_small = small
        if small and number == 0:
            raise SearchEnd(1)

    def accepted(self, w: FloatArray) -> None:
        """After each step that SciPy accepted, its gradient known unless the solver needs none."""
        if self._callback is not None and self._callback(self.record(w)):
            raise SearchEnd(-2)
        if self._gradient_is_small:
            raise SearchEnd(1)
