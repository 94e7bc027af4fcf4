"""Fits of a linear layer on stored features, for one penalty after another."""

from typing import Any

import numpy as np
import scipy

from varpro_nn._io.mapped import release_rows
from varpro_nn._typing import FloatArray, RealArray, TargetArray
from varpro_nn.data.images import targets_of
from varpro_nn.linalg import GramAccumulator, add_gram, definite_factor, product_over_rows
from varpro_nn.linalg.convex import ConvexFit, fit_linear
from varpro_nn.linalg.losses import LOSSES
from varpro_nn.linalg.preconditioner import Preconditioner
from varpro_nn.linalg.ridge import column_tiles
from varpro_nn.linalg.threads import Threads
from varpro_nn.output.features import block_slices

FOR_TRACE = 1000
"""Rows from which the size of the columns is estimated."""
_FEWEST, _ROWS_PER_COLUMN = 20_000, 2
"""A start need not be exact: of more rows for each column, it would take longer than the fit."""


def rows_for_start(q: int) -> int:
    """Rows of the ridge solution that a convex fit of ``q`` columns starts from."""
    return max(_FEWEST, _ROWS_PER_COLUMN * q)


class LinearFits:
    """Fits of one layer on some of the rows.

    Parameters
    ----------
    name : {"ridge", "softmax", "hinge"}
    Phi : ndarray, shape (n, q)
        Columns of mean 0, without the constant one; may be a memory map.
    targets : ndarray of int, shape (n,); or of float, shape (n, k)
    n_targets : int
        Number of classes, or of real targets.
    threads : Threads or None
        Threads that share the work.
    sample_weight : ndarray of float, shape (n,), or None
    """

    def __init__(
        self,
        name: str,
        Phi: RealArray,
        targets: TargetArray,
        n_targets: int,
        threads: Threads | None,
        sample_weight: FloatArray | None,
    ) -> None:
        self._name, self._Phi = name, Phi
        self._targets: Any = targets
        self._weights = sample_weight
        self._n_targets = n_targets
        self._threads = threads
        self._rows: slice | None = None
        self._preconditioner: Preconditioner | None = None

    def fit(
        self, rows: slice, penalty: float, start: FloatArray | None, *, tolerance: float
    ) -> tuple[FloatArray, ConvexFit | None]:
        """Linear weights (q + 1, k); and the fit that they come from, unless it is a solve."""
        if self._name == "ridge":
            return self._ridge(rows, penalty), None
        Phi = self._Phi[rows]
        if start is None:
            # Some rows are enough to start from. Outputs of least squares lie in [0, 1], those of
            # the others a few times further apart.
            first = rows.start or 0
            some = slice(first, first + min(len(Phi), rows_for_start(Phi.shape[1])))
            start = 4 * self._ridge(some, 1e-3 * (some.stop - some.start), once=True)
        fitted = fit_linear(
            self._name, Phi, self._targets[rows], start, penalty, tolerance=tolerance,
            preconditioner=self._preconditioner, threads=self._threads,
            sample_weight=self._weights_of(rows),
        )  # fmt: skip
        self._preconditioner = fitted.preconditioner
        return fitted.A, fitted

    def bounds_of_penalties(self, rows: slice) -> tuple[float, float]:
        """Give the penalties between which a fit changes.

        For a ridge as ``RidgePath.bounds_of_ridges``. The convex layers solve with products of the
        rows, whose errors are those of one column. The trace of the Gram matrix is estimated from
        the first rows.
        """
        Phi = self._Phi[rows]
        n, q = Phi.shape
        trace = n * q * float(np.square(Phi[:FOR_TRACE], dtype=np.float64).mean())
        eps = float(np.finfo(Phi.dtype).eps)
        return eps * trace / (np.sqrt(q) if self._name == "ridge" else q), 10 * trace

    def _ridge(self, rows: slice, penalty: float, *, once: bool = False) -> FloatArray:
        """Solve for one penalty; ``once`` uses up the Gram matrix, which is large."""
        if self._rows != rows:
            self._rows = rows
            self._gram, self._moments, self._sums = self._accumulate(rows)
        total = self._sums[-1] or 1.0  # rows that weigh nothing: all sums are 0, and so is the fit
        mean_Phi, mean_tau = self._sums[:-1] / total, self._moments[-1] / total
        squares = np.diag(self._gram).copy()
        gram = self._gram if once else self._gram.copy()
        for tile in column_tiles(len(gram)):
            gram[tile] -= np.outer(self._sums[:-1][tile], mean_Phi)
        if once:
            self._rows = None
            del self._gram
        moments = self._moments[:-1] - np.outer(self._sums[:-1], mean_tau)
        # Rounding errors of the products, relative to the squares before centring. A column of
        # zeros has no errors and no moments: any positive number makes the matrix definite.
        noise = np.where(squares > 0, float(np.finfo(np.float32).eps) * squares, 1.0)
        R = definite_factor(gram, np.full(len(gram), penalty), noise)
        slopes = scipy.linalg.cho_solve((R, False), moments, check_finite=False)
        return np.vstack([slopes, mean_tau - mean_Phi @ slopes])

    def _accumulate(self, rows: slice) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Gram matrix (upper tiles), moments with the constant's row last, sums and count."""
        Phi, targets, weights = self._Phi[rows], self._targets[rows], self._weights_of(rows)
        n, q = Phi.shape
        gram, moments, sums = np.zeros((q, q)), np.zeros((q + 1, self._n_targets)), np.zeros(q + 1)
        for block in block_slices(n, q):
            tau = targets_of(targets[block], self._n_targets)
            columns = Phi[block]
            if weights is None:
                sums[:-1] += columns.sum(axis=0, dtype=np.float64)
                sums[-1] += len(tau)
            else:
                root = np.sqrt(weights[block])[:, None]
                columns, tau = columns * root.astype(Phi.dtype), tau * root
                sums[:-1] += product_over_rows(columns, root[:, 0].astype(Phi.dtype))
                sums[-1] += float(weights[block].sum())
            add_gram(gram, columns, self._threads)
            moments[:-1] += product_over_rows(columns, tau.astype(Phi.dtype))
            moments[-1] += tau.sum(axis=0) if weights is None else root[:, 0] @ tau
            release_rows(Phi, block)
        return gram, moments, sums

    def sums(
        self, mean: FloatArray, deviation: FloatArray, dtype: np.dtype[Any]
    ) -> GramAccumulator:
        """Hand over the sums of the last ridge fit, on all rows, for columns as they were before.

        The sums are used up.

        Parameters
        ----------
        mean, deviation : ndarray, shape (q,)
            What :func:`varpro_nn.output.feature_store.standardise_columns` has taken off.
        dtype : numpy.dtype
            Type of rows that will be added or removed.
        """
        assert self._rows == slice(None)
        gram, moments, sums = self._gram, self._moments, self._sums
        del self._gram  # as large as all the rest
        self._rows = None
        gram *= deviation[:, None]
        gram *= deviation
        arrays = {
            "gram": gram,
            "moments": moments[:-1] * deviation[:, None],
            "sum_Phi": sums[:-1] * deviation,
            "sum_tau": moments[-1],
            "peaks": np.diag(gram),
            # Targets of class numbers: a single 1 in each row, so their squares sum to n.
            "totals": np.array([sums[-1], sums[-1]]),
            # As it was taken off: rounded to the type of the columns.
            "shift": mean.astype(self._Phi.dtype).astype(dtype),
        }
        return GramAccumulator.of_arrays(arrays, len(gram), dtype)

    def _weights_of(self, rows: slice) -> FloatArray | None:
        return None if self._weights is None else self._weights[rows]

    def measure(self, rows: slice, A: FloatArray) -> tuple[float, float, FloatArray]:
        """Mean loss, share of rows whose largest output is not their label's, and outputs."""
        Phi = self._Phi[rows]
        outputs = np.empty((len(Phi), A.shape[1]))
        for block in block_slices(*Phi.shape):
            outputs[block] = Phi[block] @ A[:-1].astype(Phi.dtype) + A[-1]
            release_rows(Phi, block)
        targets = self._targets[rows]
        if self._name == "ridge":
            tau = targets_of(targets, self._n_targets)
            losses = 0.5 * np.square(outputs - tau).sum(axis=1)
        else:
            losses = LOSSES[self._name].at(outputs, targets)[0]
        wrong = (
            outputs.argmax(axis=1) != targets if targets.ndim == 1 else np.full(len(losses), np.nan)
        )
        weights = self._weights_of(rows)
        if weights is not None and not weights.any():
            weights = None  # held-out images all have weight 0: any measure will do
        loss, rate = (float(np.average(each, weights=weights)) for each in (losses, wrong))
        return loss, rate, outputs
