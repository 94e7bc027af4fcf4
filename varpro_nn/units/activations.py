"""Activations: one column or several from a pre-activation, and their derivatives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from varpro_nn._typing import RealArray


@dataclass(frozen=True, slots=True)
class Side:
    """A scalar function of the pre-activation that makes one column.

    Attributes
    ----------
    apply : callable
        ``apply(z, out)`` writes the value (any shape) to ``out``, which may be ``z``; returns it.
    derivative : callable
        ``derivative(value)``: the derivative where the function has that value, a new array.
    """

    apply: Callable[[RealArray, RealArray], RealArray]
    derivative: Callable[[RealArray], RealArray]


def _logistic(z: RealArray, out: RealArray) -> RealArray:
    # 1 / (1 + exp(-z)) by the hyperbolic tangent: it cannot overflow, and numpy's is vectorised
    # in single precision, where scipy.special.expit is not.
    np.multiply(z, 0.5, out=out)
    np.tanh(out, out=out)
    out *= 0.5
    out += 0.5
    return out


def _positive_part(z: RealArray, out: RealArray) -> RealArray:
    # Vectorised by numpy, unlike np.maximum with a number.
    return np.clip(z, 0.0, np.inf, out=out)


def _step(value: RealArray) -> RealArray:
    # The derivative at the kink is taken as 0.
    return (value > 0).astype(value.dtype)


_LOGISTIC = Side(_logistic, lambda value: value * (1 - value))
_TANH = Side(lambda z, out: np.tanh(z, out=out), lambda value: 1 - value * value)
_RECTIFIER = Side(_positive_part, _step)

ACTIVATIONS = ("logistic", "tanh", "rectifier", "two-sided")
"""The activations by name."""


def sides(name: str, threshold: float = 0.0) -> tuple[Side, ...]:
    """Functions that an activation applies to each pre-activation ``z``, one column each.

    Parameters
    ----------
    name : {"logistic", "tanh", "rectifier", "two-sided"}
        ``two-sided`` is the soft threshold of both signs: ``max(0, z - a)`` and
        ``max(0, -z - a)``.
    threshold : float
        ``a`` of the two-sided one; the others have none.
    """
    if name == "two-sided":
        return _above(threshold), _below(threshold)
    known = {"logistic": _LOGISTIC, "tanh": _TANH, "rectifier": _RECTIFIER}
    return (known[name],)


def _above(threshold: float) -> Side:
    def apply(z: RealArray, out: RealArray) -> RealArray:
        np.subtract(z, threshold, out=out)
        return _positive_part(out, out)

    return Side(apply, _step)


def _below(threshold: float) -> Side:
    def apply(z: RealArray, out: RealArray) -> RealArray:
        np.subtract(-threshold, z, out=out)
        return _positive_part(out, out)

    return Side(apply, lambda value: -_step(value))
