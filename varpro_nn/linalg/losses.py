"""Losses of the convex layers: values, slopes and curvatures.

For outputs ``z`` of one row and its label ``y``:

``softmax``: the multinomial cross-entropy ``-log p_y``, with ``p`` the softmax of ``z``.

``hinge``: the squared multiclass hinge of Weston and Watkins,
``1/2 sum_{c != y} max(0, 1 + z_c - z_y)^2`` (squared, so that it has a gradient; its generalised
Hessian is the Hessian of the positive terms).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from varpro_nn._typing import FloatArray, LabelArray

FLAT = 1e-6
"""Relative floor: of the curvature of a row, and of the squared norm of a weighted column."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss of outputs (b, k) and labels (b,).

    Attributes
    ----------
    at : callable
        Outputs and labels to values (b,), slopes by the outputs (b, k), and the mean curvature of
        each row (b,).
    curvature : callable
        Slopes, labels and changes of the outputs, (b, k), to the changes of the slopes (b, k).
    diagonal : callable
        Slopes and labels to the curvature along each output, (b, k).
    """

    at: Callable[[FloatArray, LabelArray], tuple[FloatArray, FloatArray, FloatArray]]
    curvature: Callable[[FloatArray, LabelArray, FloatArray], FloatArray]
    diagonal: Callable[[FloatArray, LabelArray], FloatArray]


def _softmax(z: FloatArray, labels: LabelArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    rows = np.arange(len(z))
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z)
    total = p.sum(axis=1, keepdims=True)
    p /= total
    value = np.log(total[:, 0]) - z[rows, labels]
    curvature = (p * (1 - p)).mean(axis=1)
    p[rows, labels] -= 1
    return value, p, curvature


def _hinge(z: FloatArray, labels: LabelArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    rows = np.arange(len(z))
    slack = 1 + z - z[rows, labels][:, None]
    # Vectorised by numpy, unlike np.maximum with a number.
    np.clip(slack, 0.0, np.inf, out=slack)
    slack[rows, labels] = 0.0
    value = 0.5 * np.square(slack).sum(axis=1)
    curvature = 2 * np.count_nonzero(slack, axis=1) / z.shape[1]
    slack[rows, labels] = -slack.sum(axis=1)
    return value, slack, curvature


def _softmax_curvature(slopes: FloatArray, labels: LabelArray, U: FloatArray) -> FloatArray:
    p = slopes.copy()  # p - e_y
    p[np.arange(len(p)), labels] += 1
    V = p * U
    V -= p * V.sum(axis=1, keepdims=True)
    return V


def _hinge_curvature(slopes: FloatArray, labels: LabelArray, U: FloatArray) -> FloatArray:
    rows = np.arange(len(U))
    # The slope by another output than the label's is positive where its term is.
    V = U - U[rows, labels][:, None]
    V *= slopes > 0
    V[rows, labels] = -V.sum(axis=1)
    return V


def _softmax_diagonal(slopes: FloatArray, labels: LabelArray) -> FloatArray:
    p = slopes.copy()  # p - e_y
    p[np.arange(len(p)), labels] += 1
    return p * (1 - p) + FLAT


def _hinge_diagonal(slopes: FloatArray, labels: LabelArray) -> FloatArray:
    D = (slopes > 0).astype(np.float64)
    D[np.arange(len(D)), labels] = D.sum(axis=1)
    return D


LOSSES = {
    "softmax": Loss(_softmax, _softmax_curvature, _softmax_diagonal),
    "hinge": Loss(_hinge, _hinge_curvature, _hinge_diagonal),
}
"""The losses by name."""
