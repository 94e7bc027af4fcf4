"""The output layer: the last linear layer, fitted on the features of all units.

=========== ======================================================= ==============================
layer       what is minimised over ``A``                            how the penalty is chosen
=========== ======================================================= ==============================
``ridge``   squares of ``tau - Phi A``                              exact leave-one-out error
``softmax`` cross-entropy                                           a split of the training images
``hinge``   squared multiclass hinge                                the same
=========== ======================================================= ==============================

each with the penalty times ``1/2 ||A||^2`` for columns scaled to variance 1. The ridge layer is
the glue of :mod:`varpro_nn.glue`, in its primal or dual form, as long as an eigendecomposition
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
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg

from varpro_nn._typing import FloatArray, ImageArray, RealArray, TargetArray
from varpro_nn.convex import LOSSES, ROWS_FOR_GRAM, fit_linear
from varpro_nn.feature_store import FeatureStore, fill, standardise_columns
from varpro_nn.features import block_slices, workers
from varpro_nn.glue import RIDGES, GlueReport, LeftOut, dual_glue, glue
from varpro_nn.images import check_targets, check_weights, targets_of
from varpro_nn.linalg import add_gram
from varpro_nn.training_data import DataReference
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
        See :class:`varpro_nn.glue.GlueReport`, where the glue fitted the layer.
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
    def of_glue(cls, report: GlueReport) -> "OutputLayer":
        """Take over what the glue found."""
        chosen = "leave-one-out" if len(report.ridges) > 1 else "given"
        return cls(
            report.A, "ridge", report.ridge, chosen, report.ridges, report.loo_mse,
            report.loo_error, 0, report.rank, report.degrees_of_freedom, report.redundant_units,
            report.left_out,
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
    images: ImageArray,
    labels: TargetArray,
    n_classes: int,
    *,
    penalty: float | None = None,
    standardise: bool = True,
    n_copies: int = 1,
    rng: np.random.Generator | None = None,
    n_jobs: int = 1,
    executor: Executor | None = None,
    data: DataReference | None = None,
    sample_weight: FloatArray | None = None,
    progress: bool = False,
) -> OutputLayer:
    """Fit the output layer of all units on all images.

    Parameters
    ----------
    name : {"ridge", "softmax", "hinge"}
    units : Units
    W : ndarray, shape (h, p)
    images : ndarray, shape (n, ...)
        With ``n_copies`` > 1: all images, then distorted copies of all of them in the same order.
    labels : ndarray of int, shape (n,); or of float, shape (n, k)
        Class numbers; or real targets, for the ridge layer.
    n_classes : int
    penalty : float, optional
        By default the one that does best; see the head of the module.
    standardise : bool
        Whether the ridge layer's penalty acts on columns scaled to variance 1.
    n_copies : int
    rng : numpy.random.Generator, optional
        Draws the images that are put aside.
    n_jobs : int
        Threads, -1 for all cores. The result is bitwise the same for any number.
    executor, data : optional
        Workers that make the sums of a ridge layer instead, as for :func:`varpro_nn.glue.glue`.
    sample_weight : ndarray of float, shape (n,), optional
        Weights of the images (of the copies too) in the sum of losses.
    progress : bool
        Show a bar on standard error (never off a terminal).

    Returns
    -------
    OutputLayer

    Raises
    ------
    ValueError
        An unknown name, a penalty out of range, labels that do not fit.
    """
    if name not in LAYERS:
        msg = f"output layer must be one of {', '.join(LAYERS)}, got {name!r}."
        raise ValueError(msg)
    least_allowed = 0.0 if name == "ridge" else np.finfo(float).tiny
    if penalty is not None and not least_allowed <= penalty < np.inf:
        msg = f"penalty must be finite and positive (ridge: or 0), got {penalty}."
        raise ValueError(msg)
    targets: Any = check_targets(labels, len(images), n_classes)
    if targets.ndim != 1 and name != "ridge":
        msg = f"labels must be class numbers for the layer {name}, got real targets."
        raise ValueError(msg)
    weights = check_weights(sample_weight, len(images))
    q = len(W) * units.n_cells
    # An image that is left out alone would still be there in its copies.
    by_glue = name == "ridge" and (n_copies == 1 or penalty is not None)
    if by_glue and min(q, len(images)) <= LARGEST_EIGENPROBLEM:
        options: dict[str, Any] = {
            "ridge": RIDGES if penalty is None else penalty, "standardise": standardise,
            "n_jobs": n_jobs, "progress": progress,
        }  # fmt: skip
        if q > len(images) and weights is None:
            return OutputLayer.of_glue(dual_glue(units, W, images, targets, n_classes, **options))
        if q <= LARGEST_EIGENPROBLEM:
            report = glue(
                units, W, images, targets, n_classes,
                executor=executor, data=data, sample_weight=weights, **options,
            )  # fmt: skip
            return OutputLayer.of_glue(report)
    # Images that are put aside come first, with their copies: the rest is one view.
    n, rest = divmod(len(images), n_copies)
    if rest or (n < 2 and penalty is None):
        msg = f"images must be two or more, each {n_copies} times, got {len(images)} in all."
        raise ValueError(msg)
    shuffled = (np.random.default_rng(0) if rng is None else rng).permutation(n)
    n_aside = 0 if penalty is not None else max(1, n // 6)
    aside, kept = np.sort(shuffled[:n_aside]), np.sort(shuffled[n_aside:])
    copies = n * np.arange(n_copies)[:, None]
    order = np.concatenate([(aside + copies).ravel(), (kept + copies).ravel()])
    with FeatureStore(len(order), q) as Phi, workers(n_jobs) as threads:
        fill(Phi, units, W, images, order, threads, progress=progress)
        mean, deviation = standardise_columns(Phi, scale=standardise or name != "ridge")
        ordered = None if weights is None else weights[order]
        fits = _Fits(name, Phi, targets[order], n_classes, threads, ordered)
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


class _Fits:
    """Fits of one layer on some of the rows."""

    def __init__(
        self,
        name: str,
        Phi: RealArray,
        labels: TargetArray,
        n_classes: int,
        executor: Executor | None,
        sample_weight: FloatArray | None,
    ) -> None:
        self._name, self._Phi = name, Phi
        self._labels: Any = labels
        self._weights = sample_weight
        self._n_classes = n_classes
        self._executor = executor
        self._rows: slice | None = None
        self._preconditioner: FloatArray | None = None

    def fit(
        self, rows: slice, penalty: float, start: FloatArray | None, *, tolerance: float
    ) -> tuple[FloatArray, int]:
        """Linear weights (q + 1, k) and the iterations it took."""
        if self._name == "ridge":
            return self._ridge(rows, penalty), 0
        Phi = self._Phi[rows]
        if start is None:
            # Some rows are enough to start from. Outputs of least squares lie in [0, 1], those of
            # the others a few times further apart.
            first = rows.start or 0
            some = slice(first, first + min(len(Phi), max(20_000, ROWS_FOR_GRAM * Phi.shape[1])))
            start = 4 * self._ridge(some, 1e-3 * (some.stop - some.start))
        fitted = fit_linear(
            self._name, Phi, self._labels[rows], start, penalty, tolerance=tolerance,
            max_iterations=40, rounds=3, preconditioner=self._preconditioner,
            executor=self._executor, sample_weight=self._weights_of(rows),
        )  # fmt: skip
        self._preconditioner = fitted.preconditioner
        return fitted.A, fitted.n_iterations

    def _ridge(self, rows: slice, penalty: float) -> FloatArray:
        if self._rows != rows:
            self._rows = rows
            self._gram, self._moments, self._sums = self._accumulate(rows)
        mean_Phi, mean_tau = self._sums[:-1] / self._sums[-1], self._moments[-1] / self._sums[-1]
        gram = self._gram - np.outer(self._sums[:-1], mean_Phi)
        moments = self._moments[:-1] - np.outer(self._sums[:-1], mean_tau)
        # A penalty below rounding may leave a matrix of repeated columns indefinite.
        noise = float(np.finfo(np.float32).eps) * np.trace(gram) / len(gram)
        while True:
            try:
                penalised = gram + np.diag(np.full(len(gram), max(penalty, noise)))
                R = linalg.cholesky(penalised, overwrite_a=True, check_finite=False)
                break
            except np.linalg.LinAlgError:
                noise = 10 * max(noise, np.finfo(float).tiny)
        slopes = linalg.cho_solve((R, False), moments, check_finite=False)
        return np.vstack([slopes, mean_tau - mean_Phi @ slopes])

    def _accumulate(self, rows: slice) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Gram matrix (upper tiles), moments with the constant's row last, sums and count."""
        Phi, labels, weights = self._Phi[rows], self._labels[rows], self._weights_of(rows)
        n, q = Phi.shape
        gram, moments, sums = np.zeros((q, q)), np.zeros((q + 1, self._n_classes)), np.zeros(q + 1)
        for block in block_slices(n, q):
            tau = targets_of(labels[block], self._n_classes)
            columns = Phi[block]
            if weights is None:
                sums[:-1] += columns.sum(axis=0, dtype=np.float64)
                sums[-1] += len(tau)
            else:
                root = np.sqrt(weights[block])[:, None]
                columns, tau = columns * root.astype(Phi.dtype), tau * root
                sums[:-1] += columns.T @ root[:, 0].astype(Phi.dtype)
                sums[-1] += float(weights[block].sum())
            add_gram(gram, columns, self._executor)
            moments[:-1] += columns.T @ tau.astype(Phi.dtype)
            moments[-1] += tau.sum(axis=0) if weights is None else root[:, 0] @ tau
        return gram, moments, sums

    def _weights_of(self, rows: slice) -> FloatArray | None:
        return None if self._weights is None else self._weights[rows]

    def measure(self, rows: slice, A: FloatArray) -> tuple[float, float, FloatArray]:
        """Mean loss, share of rows whose largest output is not their label's, and outputs."""
        outputs = self._Phi[rows] @ A[:-1].astype(self._Phi.dtype) + A[-1]
        labels = self._labels[rows]
        if self._name == "ridge":
            tau = targets_of(labels, self._n_classes)
            losses = 0.5 * np.square(outputs - tau).sum(axis=1)
        else:
            losses = LOSSES[self._name](outputs, labels)[0]
        wrong = (
            outputs.argmax(axis=1) != labels if labels.ndim == 1 else np.full(len(losses), np.nan)
        )
        weights = self._weights_of(rows)
        if weights is not None and not weights.any():
            weights = None  # those that were put aside weigh nothing: any measure will do
        loss, rate = (float(np.average(each, weights=weights)) for each in (losses, wrong))
        return loss, rate, outputs
