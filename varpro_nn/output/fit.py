"""Fit the output layer: the last linear layer, on the features of all units.

=========== ======================================================= ==============================
layer       what is minimised over ``A``                            how the penalty is chosen
=========== ======================================================= ==============================
``ridge``   squares of ``tau - Phi A``                              exact leave-one-out error
``softmax`` cross-entropy                                           a split of the training images
``hinge``   squared multiclass hinge                                the same
=========== ======================================================= ==============================

Each adds the penalty times ``1/2 ||A||^2``, for columns scaled to variance 1.
:mod:`varpro_nn.output.ridge_fit` fits the ridge layer, in its primal or dual form, if an
eigendecomposition of its columns or images is quick. Otherwise its penalty is also chosen on the
split. The split is also used with distorted copies, because a left-out image would stay in as its
copies, and where outputs are averaged over views. Held-out outputs are averaged over the views, as
in the network.

The search on a split uses at most ``searched_images`` images, drawn at random, with all their
distorted copies. One in six of them is held out. The fits go along the grid from the largest
penalty to the smallest, and each starts from the one before. Each is fitted on the images of the
search that are not held out, and measured on the held-out ones by its mean loss (error rates are
too coarse to compare penalties). The search ends after a penalty that is worse. The grid is
extended while the best penalty is at its end, and each step lowers the loss by at least 1 %. The
final fit uses all images, and no other labels. The *units* were trained on the held-out images too,
so the accuracy on them is too high: it serves to choose a penalty, not to estimate the accuracy.
With fewer rows (images and copies) than columns, these fits use as many columns as rows
(:mod:`varpro_nn.linalg.row_space`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from varpro_nn._typing import FloatArray, IndexArray, RealArray
from varpro_nn._warn import warn_user
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import ConvergenceWarning
from varpro_nn.linalg import RowStore
from varpro_nn.linalg.row_space import RowSpace
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.output.feature_store import (
    feature_store,
    fill_features,
    restored,
    standardise_columns,
)
from varpro_nn.output.features import VIEWS, block_features, block_slices
from varpro_nn.output.linear_fits import LinearFits
from varpro_nn.output.output_layer import LeftOut, OutputLayer
from varpro_nn.output.penalties import PENALTIES, RIDGES, beyond
from varpro_nn.output.ridge_fit import check_kept, fit_ridge, has_dual
from varpro_nn.output.ridge_layer import RidgeLayer
from varpro_nn.output.settings import OutputSettings
from varpro_nn.units import Units
from varpro_nn.units.maps import n_columns

GRID_TOLERANCE = 3e-3
"""Tolerance of the convex fits along the grid; see :func:`varpro_nn.linalg.convex.fit_linear`."""
FINAL_TOLERANCE = 2e-4
"""Tolerance of the final fit, whose last step leaves less than 1e-4 (measured)."""
WORTHWHILE = 0.99
"""Past the end of the grid, a penalty must lower the held-out loss to this share of the least.

Images that the features separate have a loss that falls towards a limit as the penalty goes to
zero, ever more slowly, while the fits become ever harder.
"""
LARGEST_EIGENPROBLEM = 6000
"""Columns, or images, up to which the ridge layer chooses its penalty by leave-one-out error."""
FEW_ROWS = 0.8
"""Ratio of rows to columns below which fits use the kernel matrix of the rows.

Above it, this matrix takes about as long as it saves.
"""
SEARCHED_ROWS, SEARCHED_ROWS_PER_COLUMN = 200_000, 30
"""Most images and copies in the search for a penalty, held-out ones too: the larger of the two.

The penalty acts as a prior of the linear weights, which does not depend on the number of rows.
"""
GRAM_BYTES = 2**33
"""Bytes that a Gram matrix of all columns, or of all rows, may take: 32,768 of them."""

_logger = logging.getLogger(__name__)


def check_size(q: int, n_rows: int) -> None:
    """Check before the training that an output layer of ``q`` columns can be fitted.

    With fewer rows than columns, the matrices are of rows by rows.

    Raises
    ------
    ValueError
        Its matrices are too large.
    """
    n_bytes = 8 * min(q, n_rows) ** 2
    if n_bytes > GRAM_BYTES:
        of_rows = n_rows < q
        size = f"{n_bytes / 2**30:.0f} GiB; at most {GRAM_BYTES / 2**30:.0f} GiB are supported"
        msg = f"the output layer has {q} columns (n_units times the cells of a unit; cells_below)"
        if of_rows:
            msg += (
                f" and {n_rows} rows (images and copies). Its matrix of rows by rows takes {size}. "
                "Reduce n_train, n_copies, n_units, grid or cells_below."
            )
        else:
            msg += f". Its Gram matrix takes {size}. Reduce n_units, grid or cells_below."
        raise ValueError(msg)


def searched_images(n_images: int, times: int, q: int) -> int:
    """Count the images, each ``times`` times, in the search for the penalty of ``q`` columns."""
    most = max(SEARCHED_ROWS, SEARCHED_ROWS_PER_COLUMN * q)
    return min(n_images, max(2, most // times))


def fit_output_layer(
    settings: OutputSettings,
    units: Units,
    W: RealArray,
    training: TrainingSet,
    compute: Compute,
    *,
    rng: np.random.Generator | None = None,
    keep_sums: bool = False,
) -> OutputLayer:
    """Fit the output layer of all units on all images.

    Parameters
    ----------
    W : ndarray, shape (h, p)
    training : TrainingSet
        All images, then ``settings.n_copies`` distorted copies of all of them in the same order.
        Real targets need the ridge layer.
    compute : Compute
        Its threads share the work; a cluster makes the sums of a ridge layer without copies.
    rng : numpy.random.Generator, optional
        Draws the held-out images.
    keep_sums : bool
        Keep the sums that a ridge layer follows from (8 q^2 bytes for q columns), or its rows if
        there are fewer images than columns, as ``OutputLayer.ridge_layer``. Needs class labels
        without sample weights.

    Raises
    ------
    ValueError
        Real targets for another layer than ridge, or ``keep_sums`` with another layer, copies,
        real targets or sample weights.
    """
    name, penalty, times = settings.layer, settings.penalty, 1 + settings.n_copies
    if not training.is_classified and name != "ridge":
        msg = f"labels must be class numbers for the layer {name}, got real targets."
        raise ValueError(msg)
    if keep_sums:
        check_kept(training, name, settings.n_copies)
    n, q = len(training), n_columns(units, len(W))
    eigenproblem = min(n, q) if has_dual(units, training) else q
    # An image that is left out alone would still be there in its copies, and the errors are those
    # of the image itself, where outputs are averaged over views.
    meaningful = (times == 1 and settings.views == "single") or penalty is not None
    if name == "ridge" and meaningful and eigenproblem <= LARGEST_EIGENPROBLEM:
        layer = fit_ridge(
            units, W, training, compute, ridge=penalty, standardise=settings.standardise,
            keep_sums=keep_sums,
        )  # fmt: skip
        alone = times == 1 and settings.views == "single"
        return layer if alone else replace(layer, left_out=None)
    n_searched = 0 if penalty is not None else searched_images(n // times, times, q)
    n_aside = 0 if penalty is not None else max(1, n_searched // 6)
    order = _searched_first(n, times, n_aside, n_searched, rng)
    with feature_store(n, q, compute.scratch) as Phi, thread_pool(compute.n_jobs) as threads:
        fill_features(Phi, units, W, training.images, order, threads, compute)
        mean, deviation = standardise_columns(Phi, scale=settings.standardise or name != "ridge")
        space = RowSpace(Phi, threads) if n < FEW_ROWS * q else None
        columns = Phi if space is None else space.columns
        whole = (lambda B: B) if space is None else space.weights
        targets, weights = training.targets[order], training.weights_at(order)
        fits = LinearFits(name, columns, targets, training.n_targets, threads, weights)
        found = _Search()
        if penalty is None:
            grid = RIDGES[::-2] if name == "ridge" else PENALTIES
            others = slice(n_aside * times, n_searched * times)
            found = _search(fits, name, grid, order[:n_aside], others)
            penalty = found.penalty
            if settings.views != "single":
                assert found.A is not None
                A = whole(found.A)
                found.left_out = LeftOut(order[:n_aside], np.zeros((n_aside, training.n_targets)))
                for view in VIEWS[settings.views]:
                    for rows in block_slices(n_aside, q):
                        images = view(training.images[order[:n_aside][rows]])
                        block = (block_features(units, W, images, threads) - mean) / deviation
                        outputs = block @ A[:-1] + A[-1]
                        found.left_out.outputs[rows] += outputs / len(VIEWS[settings.views])
        fitted, convex = fits.fit(slice(None), penalty, found.A, tolerance=FINAL_TOLERANCE)
        A = whole(fitted)
        ridge_layer = None
        if keep_sums:
            kept = (
                fits.sums(mean, deviation, W.dtype)
                if n > q
                else RowStore(restored(Phi, mean, deviation, order, W.dtype), training.tau())
            )
            ridge_layer = RidgeLayer.of(units, W, kept, n_jobs=compute.n_jobs)
    if convex is not None and not convex.converged:
        msg = (
            f"the {name} layer is not at its optimum: after {convex.n_iterations} products the "
            f"cost is about {100 * convex.excess:.2g} % above it; try a larger output_penalty than "
            f"{penalty:.3g}."
        )
        warn_user(msg, ConvergenceWarning)
    A[:-1] /= deviation[:, None]
    A[-1] -= mean @ A[:-1]
    return OutputLayer(
        A, name, float(penalty), "split" if n_aside else "given", tuple(found.penalties),
        tuple(found.losses), tuple(found.error_rates),
        n_iterations=0 if convex is None else convex.n_iterations,
        excess=None if convex is None else convex.excess,
        gradient_norm=None if convex is None else convex.gradient_norm,
        left_out=found.left_out, ridge_layer=ridge_layer,
    )  # fmt: skip


def _searched_first(
    n_images: int, times: int, n_aside: int, n_searched: int, rng: np.random.Generator | None
) -> IndexArray:
    """Order images so that held-out ones and their copies come first, then others of the search."""
    n, rest = divmod(n_images, times)
    if rest or (n < 2 and n_aside):
        msg = f"images must be two or more, each {times} times, got {n_images} in all."
        raise ValueError(msg)
    shuffled = (np.random.default_rng(0) if rng is None else rng).permutation(n)
    copies = n * np.arange(times)[:, None]
    parts = np.split(shuffled, [n_aside, n_searched])
    return np.concatenate([(np.sort(part) + copies).ravel() for part in parts])


@dataclass(slots=True)
class _Search:
    """Results along the grid of penalties, the largest first, and the fit of the best."""

    penalties: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    error_rates: list[float] = field(default_factory=list)
    left_out: LeftOut | None = None
    penalty: float = np.nan
    A: FloatArray | None = None

    def add(self, penalty: float, loss: float, error_rate: float) -> None:
        """Add the results of a penalty."""
        at = sum(other > penalty for other in self.penalties)
        self.penalties.insert(at, penalty)
        self.losses.insert(at, loss)
        self.error_rates.insert(at, error_rate)


def _search(
    fits: LinearFits, name: str, grid: Sequence[float], aside: IndexArray, kept: slice
) -> _Search:
    """Fit along the grid to the rows ``kept``; measure on held-out images without their copies.

    The held-out images are the first rows; ``aside`` has their positions.
    """
    found, bounds = _Search(), fits.bounds_of_penalties(kept)
    A, ahead = None, tuple(grid)
    while ahead:
        penalty, *rest = ahead
        A, _ = fits.fit(kept, penalty, A, tolerance=GRID_TOLERANCE)
        loss, rate, outputs = fits.measure(slice(0, len(aside)), A)
        least = min(found.losses, default=np.inf)
        better = loss < least * (1.0 if penalty in grid else WORTHWHILE) or not found.losses
        if better:
            found.penalty, found.A = penalty, A
            found.left_out = LeftOut(aside, outputs)
        found.add(penalty, loss, rate)
        _logger.info(
            "%s, penalty %.3g: loss %.5g, error rate %.5f put aside", name, penalty, loss, rate
        )
        if penalty in grid and loss <= least and rest:
            ahead = tuple(rest)
        else:
            ahead = beyond(found.penalties, found.penalty, bounds)
    return found
