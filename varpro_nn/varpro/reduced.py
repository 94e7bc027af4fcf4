"""What variable-projection functionals share: the memo, and the small equivalent problem."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from varpro_nn._arrays import plain_array
from varpro_nn._typing import FloatArray
from varpro_nn.linalg import small_equivalent
from varpro_nn.linalg.threads import Threads
from varpro_nn.units import Units

JacobianKind = Literal["kaufman", "full"]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What is known at one ``w``.

    Attributes
    ----------
    w : ndarray, shape (h * p,)
    A : ndarray, shape (q, k)
        The eliminated linear weights.
    rank : int
        Numerical rank of the problem that they solve; q unless it is deficient.
    cost : float
        Value of the functional, ridge and weight decay included.
    loo_mse : float
        Weighted mean squared norm of the exact leave-one-out residual of a linear least-squares
        fit; NaN for another loss.
    loo_error : float
        Weighted share of inputs whose left-out output is largest at another class than ``tau``;
        NaN for a single target or another loss.
    """

    w: FloatArray
    A: FloatArray
    rank: int
    cost: float
    loo_mse: float
    loo_error: float


class ReducedFunctional(ABC):
    """A functional of unit weights whose linear weights are projected out.

    Attributes
    ----------
    units : Units
    weight_decay : float
    dtype : numpy.dtype
        Type of the features and of the large products.
    forms : tuple of str
        Forms of the problem that :func:`varpro_nn.fit` may choose from.
    threads : Threads or None
        Share the sums over inputs; no bit depends on them. See :mod:`varpro_nn.linalg.threads`.

    Notes
    -----
    ``least_squares`` asks for the residual at ``w`` and, if the step is accepted, for the
    Jacobian at the same ``w``, each time in a new array. A one-slot memo keyed by value lets the
    two share the work.
    """

    forms: ClassVar[tuple[str, ...]] = ("reduced",)

    units: Units
    weight_decay: float
    dtype: np.dtype[Any]

    def __init__(self, threads: Threads | None = None) -> None:
        self.threads = threads
        self._memo: tuple[Evaluation, Any] | None = None

    @property
    def n_weights(self) -> int:
        """Length of ``w``."""
        return self.units.n_units * self.units.n_weights

    @abstractmethod
    def _project(self, w: FloatArray) -> tuple[Evaluation, Any]:
        """Eliminate the linear weights at ``w``; whatever else is worth keeping."""

    @abstractmethod
    def _sums(self, w: FloatArray, *, matrix: bool, full: bool) -> tuple[FloatArray, FloatArray]:
        """Gauss-Newton matrix (empty unless asked for) and gradient without weight decay."""

    def _evaluate(self, w: FloatArray) -> tuple[Evaluation, Any]:
        rows = (self.units.n_units, self.units.n_weights)
        w = plain_array(w, "w")
        if w.shape == rows:
            w = w.ravel()
        if self._memo is None or not np.array_equal(self._memo[0].w, w):
            w = np.array(w, dtype=np.float64)
            if w.shape != (self.n_weights,):
                msg = f"w must have shape ({self.n_weights},) or {rows}, got {w.shape}."
                raise ValueError(msg)
            self._memo = self._project(w)
        return self._memo

    def evaluate(self, w: FloatArray) -> Evaluation:
        """Eliminate the linear weights.

        Parameters
        ----------
        w : ndarray, shape (h * p,) or (h, p)

        Returns
        -------
        Evaluation

        Raises
        ------
        ValueError
            Weights of another shape, masked or complex; units that break their contract.
        NonFiniteError
            The features there are not finite.
        """
        return self._evaluate(w)[0]

    def cost(self, w: FloatArray) -> float:
        """Compute the value of the functional; errors as :meth:`evaluate`.

        Parameters
        ----------
        w : ndarray, shape (h * p,) or (h, p)

        Returns
        -------
        float
        """
        return self.evaluate(w).cost

    def gradient(self, w: FloatArray) -> FloatArray:
        """Compute the gradient of the cost; errors as :meth:`evaluate`.

        It is as exact as the linear weights: to rounding with squares, to the tolerance of the
        inner fit with cross-entropy.

        Parameters
        ----------
        w : ndarray, shape (h * p,) or (h, p)

        Returns
        -------
        ndarray, shape (h * p,)
        """
        w = self.evaluate(w).w
        return self._sums(w, matrix=False, full=False)[1] + self.weight_decay * w

    def normal_equations(
        self, w: FloatArray, kind: JacobianKind = "kaufman"
    ) -> tuple[FloatArray, FloatArray]:
        """Compute the Gauss-Newton matrix and the gradient; errors as :meth:`evaluate`.

        Parameters
        ----------
        w : ndarray, shape (h * p,) or (h, p)
        kind : {"kaufman", "full"}
            Without or with the second term of Golub and Pereyra. The gradient is the same.

        Returns
        -------
        H : ndarray, shape (h * p, h * p)
            ``J'J``.
        g : ndarray, shape (h * p,)
            ``J'r``.
        """
        full, w = is_full(kind), self.evaluate(w).w
        H, g = self._sums(w, matrix=True, full=full)
        H[np.diag_indices_from(H)] += self.weight_decay
        return H, g + self.weight_decay * w

    def reduced(
        self, w: FloatArray, kind: JacobianKind = "kaufman"
    ) -> tuple[FloatArray, FloatArray]:
        """Compute residual and Jacobian of the equivalent problem of h * p + 1 rows.

        ``f @ f / 2``, ``J.T @ f`` and ``J.T @ J`` are the cost, gradient and Gauss-Newton matrix
        (the last, with cross-entropy, up to what keeps it positive semidefinite beside ``f``).
        Errors as :meth:`evaluate`.

        Parameters
        ----------
        w : ndarray, shape (h * p,) or (h, p)
        kind : {"kaufman", "full"}
            Without or with the second term of Golub and Pereyra. The gradient is the same.

        Returns
        -------
        f : ndarray, shape (h * p + 1,)
        J : ndarray, shape (h * p + 1, h * p)
        """
        H, g = self.normal_equations(w, kind)
        noise = 10 * float(np.finfo(self.dtype).eps)
        return small_equivalent(H, g, 2 * self.cost(w), noise)

    def reduced_residual(self, w: FloatArray) -> FloatArray:
        """Compute ``f`` of :meth:`reduced` alone, which needs no derivative.

        Parameters
        ----------
        w : ndarray, shape (h * p,) or (h, p)

        Returns
        -------
        ndarray, shape (h * p + 1,)
        """
        f = np.zeros(self.n_weights + 1)
        f[-1] = np.sqrt(2 * self.cost(w))
        return f


def check_penalties(ridge: float, weight_decay: float) -> None:
    """Refuse penalties that are negative or not finite.

    Raises
    ------
    ValueError
    """
    for name, value in (("ridge", ridge), ("weight_decay", weight_decay)):
        if not (np.isfinite(value) and value >= 0):
            msg = f"{name} must be finite and not negative, got {value}."
            raise ValueError(msg)


def is_full(kind: str) -> bool:
    """Whether ``kind`` is the full Jacobian; refuse unknown ones.

    Raises
    ------
    ValueError
    """
    if kind not in ("kaufman", "full"):
        msg = f"kind must be 'kaufman' or 'full', got {kind!r}."
        raise ValueError(msg)
    return kind == "full"
