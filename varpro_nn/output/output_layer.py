"""What a fit of the output layer gives: the linear weights, and how their penalty was chosen."""

from dataclasses import dataclass

import numpy as np

from varpro_nn._typing import FloatArray, IndexArray, RealArray
from varpro_nn.linalg.losses import LOSSES
from varpro_nn.output.ridge_layer import RidgeLayer

LAYERS = ("ridge", *LOSSES)
"""The output layers by name."""


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """Outputs of linear layers that never saw the image (the units may have seen it).

    Attributes
    ----------
    rows : ndarray of int, shape (r,)
        Positions of the images.
    outputs : ndarray of float, shape (r, k)
        NaN for an image whose output without it is not determined.
    """

    rows: IndexArray
    outputs: RealArray

    def determined(self) -> tuple[IndexArray, FloatArray]:
        """Rows and outputs, in double precision, of the images whose outputs are determined."""
        there = np.isfinite(self.outputs).all(axis=1)
        return self.rows[there], self.outputs[there].astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class OutputLayer:
    """A fitted output layer.

    Attributes
    ----------
    A : ndarray, shape (q + 1, k)
        Linear weights of the q columns as they are: those of the units, then of lower layers
        (``cells_below``). The last row is that of the constant.
    name : {"ridge", "softmax", "hinge"}
    penalty : float
        Chosen or given.
    chosen_by : {"leave-one-out", "split", "given"}
    penalties, losses, error_rates : tuple of float
        The grid of penalties, with mean losses and error rates: leave-one-out, or on held-out
        images. With leave-one-out errors, the loss is the squared norm of the left-out residual,
        exact for the given units. A single penalty that was given has an entry too.
    n_iterations : int
        Of the convex solver in the final fit; 0 for a linear solve.
    excess : float or None
        Estimated relative distance of the cost of the final fit from its minimum, before the last
        step. None for a linear solve, as ``gradient_norm``.
    gradient_norm : float or None
        Norm of the gradient of that cost, by the linear weights of columns of variance 1.
    rank : int or None
        Directions of the columns that are above rounding: q (dual form: n) at most. None
        where no eigendecomposition was made, like the next two.
    degrees_of_freedom : float or None
        Trace of the hat matrix at the penalty.
    redundant_units : tuple of int or None
        Redundant units, which could all be removed without loss. Of several equal units, the last
        ones. Empty unless there are more images than columns.
    left_out : LeftOut or None
        Held-out outputs: leave-one-out, or those of the images held out for the penalty.
        None if the penalty was given without either.
    ridge_layer : RidgeLayer or None
        The sums or rows from which a ridge layer was fitted, if asked for.
    """

    A: FloatArray
    name: str
    penalty: float
    chosen_by: str
    penalties: tuple[float, ...]
    losses: tuple[float, ...]
    error_rates: tuple[float, ...]
    n_iterations: int
    excess: float | None = None
    gradient_norm: float | None = None
    rank: int | None = None
    degrees_of_freedom: float | None = None
    redundant_units: tuple[int, ...] | None = None
    left_out: LeftOut | None = None
    ridge_layer: RidgeLayer | None = None

    @property
    def error_rate(self) -> float:
        """Error rate at the penalty, where the trace has it; else NaN."""
        return dict(zip(self.penalties, self.error_rates, strict=True)).get(self.penalty, np.nan)
