"""The output layer: the last linear layer, fitted on the features of all units.

=========== ======================================================= ==============================
layer       what is minimised over ``A``                            how the penalty is chosen
=========== ======================================================= ==============================
``ridge``   squares of ``tau - Phi A``                              exact leave-one-out error
``softmax`` cross-entropy                                           a split of the training images
``hinge``   squared multiclass hinge                                the same
=========== ======================================================= ==============================

each with the penalty times ``1/2 ||A||^2`` for columns scaled to variance 1. The ridge layer is
the glue of :mod:`varpro_nn.output.glue`, in its primal or dual form, as long as an
eigendecomposition
of its columns or images is quick; beyond that its penalty is chosen on the split as well, and so
it is if there are distorted copies of the images, which leaving one row out would leave in.

For the split, one image in six is put aside at random (with all its distorted copies). Along the
grid, from the largest penalty to the smallest and each fit starting from the one before, the fit
on the others is measured on those, by its mean loss (error rates are too coarse to tell penalties
apart); the search ends after a penalty that is worse. The final fit is on all images. No other
label is involved. The *units* have seen the images put aside, so the accuracy on them flatters
the network: it chooses a penalty, and is no estimate of accuracy. Copies of an image would
flatter a leave-one-out error too, so with copies the ridge layer goes by the split.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.linalg.convex import LOSSES
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.output.feature_store import FeatureStore, fill, standardise_columns
from varpro_nn.output.glue import RIDGES, GlueReport, LeftOut, dual_glue, glue
from varpro_nn.output.linear_fits import LinearFits
from varpro_nn.units import Units

LAYERS = ("ridge", *LOSSES)
"""The output layers by name."""
PENALTIES = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3)
"""The grid of penalties of the convex layers, for columns of variance 1."""
LARGEST_EIGENPROBLEM = 6000
"""Columns, or images, up to which the ridge layer chooses its penalty by leave-one-out error."""
GRAM_BYTES = 2**33
"""Bytes that a Gram matrix of all columns may take: 32,768 columns."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class OutputLayer:
    """A fitted output layer.

    Attributes
    ----------
    A : ndarray, shape (h * m + 1, k)
        Linear weights of the columns as they are; the row of the constant column is last.
    name : {"ridge", "softmax", "hinge"}
    penalty : float
    chosen_by : {"leave-one-out", "split", "given"}
    penalties, losses, error_rates : tuple of float
        The trace of the choice: mean losses and error rates, left out or on the images put aside.
    n_iterations : int
        Of the convex solver in the final fit; 0 for a linear solve.
    rank, degrees_of_freedom, redundant_units : int, float, tuple of int; or None
        See :class:`varpro_nn.output.glue.GlueReport`, where the glue fitted the layer.
    left_out : LeftOut or None
        Outputs of images that the layer did not see: leave-one-out, or of the images put aside.
        None if the penalty was given without either.
    """

    A: FloatArray
    name: str
    penalty: float
    chosen_by: str
    penalties: tuple[float, ...]
    losses: tuple[float, ...]
    error_rates: tuple[float, ...]
    n_iterations: int
    rank: int | None = None
    degrees_of_freedom: float | None = None
    redundant_units: tuple[int, ...] | None = None
    left_out: LeftOut | None = None

    @classmethod
    def of_glue(cls, report: GlueReport, n_copies: int) -> "OutputLayer":
        """Take over what the glue found; of copies an output that was left out is none."""
        left_out = report.left_out if n_copies == 1 else None
        chosen = "leave-one-out" if len(report.ridges) > 1 else "given"
        return cls(
            report.A, "ridge", report.ridge, chosen, report.ridges, report.loo_mse,
            report.loo_error, 0, report.rank, report.degrees_of_freedom, report.redundant_units,
            left_out,
        )  # fmt: skip

    @property
    def error_rate(self) -> float:
        """Error rate at the penalty, where the trace has it; else NaN."""
        return dict(zip(self.penalties, self.error_rates, strict=True)).get(self.penalty, np.nan)


def check_size(n_columns: int) -> None:
    """Refuse a network whose output layer is too large to fit, before its units are trained.

    Raises
    ------
    ValueError
    """
    if 8 * n_columns**2 > GRAM_BYTES:
        msg = (
            f"n_units times the cells of a unit make {n_columns} columns, whose Gram matrix takes "
            f"{8 * n_columns**2 / 2**30:.0f} GiB, more than {GRAM_BYTES / 2**30:.0f}: take fewer "
            "units or cells."
        )
        raise ValueError(msg)


def fit_output_layer(
    name: str,
    units: Units,
    W: RealArray,
    training: TrainingSet,
    compute: Compute,
    *,
    penalty: float | None = None,
    standardise: bool = True,
    n_copies: int = 1,
    rng: np.random.Generator | None = None,
) -> OutputLayer:
    """Fit the output layer of all units on all images.

    Parameters
    ----------
    name : {"ridge", "softmax", "hinge"}
    units : Units
    W : ndarray, shape (h, p)
    training : TrainingSet
        With ``n_copies`` > 1: all images, then distorted copies of all of them in the same order.
        Real targets are for the ridge layer.
    compute : Compute
        Its threads share the work; a cluster makes the sums of a ridge layer without copies.
    penalty : float, optional
        By default the one that does best; see the head of the module.
    standardise : bool
        Whether the ridge layer's penalty acts on columns scaled to variance 1.
    n_copies : int
    rng : numpy.random.Generator, optional
        Draws the images that are put aside.

    Returns
    -------
    OutputLayer

    Raises
    ------
    ValueError
        An unknown name, a penalty out of range, or real targets for another layer than ridge.
    """
    if name not in LAYERS:
        msg = f"output layer must be one of {', '.join(LAYERS)}, got {name!r}."
        raise ValueError(msg)
    least_allowed = 0.0 if name == "ridge" else np.finfo(float).tiny
    if penalty is not None and not least_allowed <= penalty < np.inf:
        msg = f"penalty must be finite and positive (ridge: or 0), got {penalty}."
        raise ValueError(msg)
    if not training.is_classified and name != "ridge":
        msg = f"labels must be class numbers for the layer {name}, got real targets."
        raise ValueError(msg)
    q = len(W) * units.n_cells
    # An image that is left out alone would still be there in its copies.
    by_glue = name == "ridge" and (n_copies == 1 or penalty is not None)
    if by_glue and min(q, len(training)) <= LARGEST_EIGENPROBLEM:
        ridge = RIDGES if penalty is None else penalty
        if q > len(training) and training.weights is None:
            report = dual_glue(units, W, training, compute, ridge=ridge, standardise=standardise)
            return OutputLayer.of_glue(report, n_copies)
        if q <= LARGEST_EIGENPROBLEM:
            report = glue(units, W, training, compute, ridge=ridge, standardise=standardise)
            return OutputLayer.of_glue(report, n_copies)
    # Images that are put aside come first, with their copies: the rest is one view.
    n, rest = divmod(len(training), n_copies)
    if rest or (n < 2 and penalty is None):
        msg = f"images must be two or more, each {n_copies} times, got {len(training)} in all."
        raise ValueError(msg)
    shuffled = (np.random.default_rng(0) if rng is None else rng).permutation(n)
    n_aside = 0 if penalty is not None else max(1, n // 6)
    aside, kept = np.sort(shuffled[:n_aside]), np.sort(shuffled[n_aside:])
    copies = n * np.arange(n_copies)[:, None]
    order = np.concatenate([(aside + copies).ravel(), (kept + copies).ravel()])
    with FeatureStore(len(order), q) as Phi, thread_pool(compute.n_jobs) as threads:
        fill(Phi, units, W, training.images, order, threads, compute)
        mean, deviation = standardise_columns(Phi, scale=standardise or name != "ridge")
        ordered = training.weights_at(order)
        fits = LinearFits(name, Phi, training.targets[order], training.n_targets, threads, ordered)
        grid: Sequence[float] = RIDGES[::-2] if name == "ridge" else PENALTIES
        rates: list[float] = []
        losses: list[float] = []
        left_out = None
        A = None
        if penalty is None:
            # Measured on the images themselves, not on their copies.
            aside_rows, kept_rows = slice(0, n_aside), slice(n_aside * n_copies, None)
            for value in grid:
                A, _ = fits.fit(kept_rows, value, A, tolerance=1e-2)
                loss, rate, outputs = fits.measure(aside_rows, A)
                if loss < min(losses, default=np.inf):
                    left_out = LeftOut(aside, outputs)
                losses.append(loss)
                rates.append(rate)
                _logger.info(
                    "%s, penalty %.3g: loss %.5g, error rate %.5f put aside",
                    name,
                    value,
                    loss,
                    rate,
                )
                if loss > min(losses):
                    break
        tried = tuple(grid[: len(rates)])
        best = tried[int(np.argmin(losses))] if penalty is None else penalty
        A, n_iterations = fits.fit(slice(None), best, A, tolerance=1e-3)
    A[:-1] /= deviation[:, None]
    A[-1] -= mean @ A[:-1]
    chosen_by = "split" if penalty is None else "given"
    return OutputLayer(
        A, name, float(best), chosen_by, tried, tuple(losses), tuple(rates), n_iterations,
        left_out=left_out,
    )  # fmt: skip
