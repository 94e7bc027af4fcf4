"""Activations: a function of the pre-activation, and its derivative from its own value."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from varpro_nn._typing import RealArray


@dataclass(frozen=True, slots=True)
class Activation:
    """A scalar function of the pre-activation.

    Attributes
    ----------
    name : str
    apply : callable
        ``apply(z)`` overwrites ``z`` (any shape) by its value and returns it.
    derivative : callable
        ``derivative(value)``: the derivative where the function has that value, a new array.
    """

    name: str
    apply: Callable[[RealArray], RealArray]
    derivative: Callable[[RealArray], RealArray]


def _logistic(z: RealArray) -> RealArray:
    # 1 / (1 + exp(-z)) by the hyperbolic tangent: it cannot overflow, and numpy's is vectorised
    # in single precision, where scipy.special.expit is not.
    z *= 0.5
    np.tanh(z, out=z)
    z *= 0.5
    z += 0.5
    return z


def _logistic_derivative(value: RealArray) -> RealArray:
    return value * (1 - value)


def _tanh(z: RealArray) -> RealArray:
    return np.tanh(z, out=z)


def _tanh_derivative(value: RealArray) -> RealArray:
    return 1 - value * value


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation("logistic", _logistic, _logistic_derivative),
        Activation("tanh", _tanh, _tanh_derivative),
    )
}
"""The activations by name."""
