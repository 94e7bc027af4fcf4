"""The ridge layer of all units on all images, its ridge chosen by exact leave-one-out errors.

Only unit weights come from the sub-networks. The linear weights of the whole network are fitted
anew on all images (the paper's *glue*), in one of two forms:

*primal*
    Sums over blocks of images make a matrix of columns by columns. One eigendecomposition solves
    for every ridge of a grid, and a second pass over the images gives the exact leave-one-out
    error of each.
*dual*
    For more columns than images. Sums over blocks of units make a matrix of images by images. Its
    eigendecomposition also gives the errors; a second pass over the units gives the weights.

Neither form stores the matrix of all features, unless its rows are to be kept. The ridge with
the lowest leave-one-out error rate is chosen, and no label of another set is involved.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.linalg import DualPath, KernelAccumulator, RidgePath, RowStore, spread
from varpro_nn.linalg.ridge import LeaveOneOut
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.output.features import block_features, feature_blocks
from varpro_nn.output.output_layer import LeftOut, OutputLayer
from varpro_nn.output.penalties import RIDGES, beyond
from varpro_nn.output.ridge_file import Kept
from varpro_nn.output.ridge_layer import RidgeLayer
from varpro_nn.output.ridge_sums import ridge_sums
from varpro_nn.units import Units
from varpro_nn.units.maps import n_columns, n_columns_below

DUAL_BLOCK_BYTES = 2**26
"""Bytes of the columns that the dual form takes at a time."""
MOST_LEFT_OUT = 20_000
"""Images whose left-out outputs are kept at most, evenly spread over all."""
LEFT_OUT_BYTES = 2**27
"""Bytes that these outputs may take for all ridges together."""

_RIDGES_OF_A_PASS = 4
"""Number of ridges of an extension of the grid, two decades, which takes one more pass."""
_TIED = 1e-12
"""Relative difference up to which error rates are equal, because sums of weights are rounded."""

_logger = logging.getLogger(__name__)


def fit_ridge(
    units: Units,
    W: RealArray,
    training: TrainingSet,
    compute: Compute,
    *,
    ridge: float | Sequence[float] | None = None,
    standardise: bool = False,
    form: Literal["primal", "dual"] | None = None,
    keep_sums: bool = False,
) -> OutputLayer:
    """Fit the linear weights of all units on all images.

    Parameters
    ----------
    W : ndarray, shape (h, p)
        Weights of all units; the features are computed in its type.
    compute : Compute
        Its threads, or the workers of its cluster, share the sums. The result is bit for bit the
        same for any number of them.
    ridge : float or sequence of float, optional
        ``lam``, or the grid to choose it from by the leave-one-out error rate, the squared
        error breaking ties (for real targets, the squared error alone). By default
        :data:`varpro_nn.output.penalties.RIDGES`, extended while the best is at an end. Each
        extension by two decades takes one more pass over the images.
    standardise : bool
        Let the ridge act on columns scaled to variance 1.
    form : {"primal", "dual"}, optional
        By default dual if there are more columns than images, no sample weights and no
        ``cells_below``; otherwise primal. The dual form takes the memory of two matrices of images
        by images (:data:`varpro_nn.linalg.dual.MEMORY_BUDGET`).
    keep_sums : bool
        Keep what the layer follows from, as ``OutputLayer.ridge_layer``. The primal form with more
        images than columns keeps sums: 8 q^2 bytes for q columns. Otherwise the rows of all
        features are kept: 4 n q or 8 n q bytes.

    Returns
    -------
    OutputLayer
        It has the leave-one-out error for a given ridge too.

    Raises
    ------
    TrainingError
        The workers of some sums were killed each time.
    NonFiniteError
        Features are NaN or infinite.
    ValueError
        A ridge is negative or not finite; sample weights, or columns of layers below, with the
        dual form; or ``keep_sums`` with real targets or sample weights.
    """
    ridges = np.atleast_1d(np.asarray(RIDGES if ridge is None else ridge, dtype=np.float64))
    if ridges.size == 0 or not np.isfinite(ridges).all() or ridges.min() < 0:
        msg = f"ridge must be finite and not negative, got {ridge}."
        raise ValueError(msg)
    if keep_sums:
        check_kept(training)
    if form is None:
        wide = n_columns(units, len(W)) > len(training) and has_dual(units, training)
        form = "dual" if wide else "primal"
    fit = _Fit(units, W, training, compute, ridges, ridge is None, standardise, keep_sums)
    return fit.dual() if form == "dual" else fit.primal()


def has_dual(units: Units, training: TrainingSet) -> bool:
    """Whether there is a dual form: for images without weights, and no columns of lower layers."""
    return training.weights is None and not n_columns_below(units)


def check_kept(training: TrainingSet, name: str = "ridge", n_copies: int = 0) -> None:
    """Raise ValueError for data whose sums a :class:`RidgeLayer` cannot hold."""
    plain = training.is_classified and training.weights is None
    if name != "ridge" or not plain or n_copies:
        msg = (
            "keep_sums needs output_layer='ridge', n_copies=0, and class labels without sample "
            f"weights or class_weight, got {name!r}, {n_copies}, "
            f"{'class labels' if training.is_classified else 'real targets'} and "
            f"{'no' if training.weights is None else 'sample'} weights."
        )
        raise ValueError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """Leave-one-out errors of ridges, and the best of them."""

    ridges: FloatArray
    errors: LeaveOneOut
    is_classified: bool

    @property
    def best(self) -> int:
        """Position of the ridge with the lowest error rate; the squared error breaks ties.

        Rates that differ by the rounding error of a sum of weights are ties.
        """
        rates, squares = self.errors.error_rate, self.errors.mean_squared_error
        if not self.is_classified:
            return int(np.argmin(squares))
        tied = rates <= rates.min() + _TIED
        return int(np.argmin(np.where(tied, squares, np.inf)))

    @property
    def ridge(self) -> float:
        """The best ridge."""
        return float(self.ridges[self.best])

    def extended(self, ridges: FloatArray, errors: LeaveOneOut) -> "_Search":
        """Add ridges and their errors."""
        both = np.concatenate([self.ridges, ridges])
        order = np.argsort(both)
        mine = self.errors

        def merged(name: str, axis: int = 0) -> Any:
            parts = [getattr(each, name) for each in (mine, errors)]
            return np.take(np.concatenate(parts, axis=axis), order, axis=axis)

        together = LeaveOneOut(
            merged("mean_squared_error"), merged("error_rate"), mine.rows, merged("outputs", 1)
        )
        return _Search(both[order], together, self.is_classified)


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """The arguments of a fit, and its primal and dual forms.

    ``goes_on``: whether the grid of ridges is continued past its ends.
    """

    units: Units
    W: RealArray
    training: TrainingSet
    compute: Compute
    ridges: FloatArray
    goes_on: bool
    standardise: bool
    keep_sums: bool

    def primal(self) -> OutputLayer:
        units, W, training, compute = self.units, self.W, self.training, self.compute
        n, q = len(training), n_columns(units, len(W))
        with (
            compute.bar("ridge layer", unit="part") as bar,
            thread_pool(compute.n_jobs) as threads,
        ):

            def blocks() -> Iterator[tuple[RealArray, FloatArray, FloatArray | None]]:
                for rows, Phi in feature_blocks(units, W, training.images, threads):
                    yield Phi, training.tau(rows), training.weights_at(rows)
                    bar.update()

            sums = ridge_sums(units, W, training, compute, tick=bar.update)
            keeps = self.keep_sums and n > q
            path = sums.path(standardise=self.standardise, keep=keeps)
            layer = self._kept(sums) if keeps else None
            if self.keep_sums and not keeps:
                columns = block_features(units, W, training.images[:], threads)
                layer = self._kept(RowStore(columns, training.tau()))
            del sums  # path() has used them up, unless they are kept
            n_kept = min(
                MOST_LEFT_OUT,
                max(1, LEFT_OUT_BYTES // (4 * len(self.ridges) * training.n_targets)),
            )

            def errors_of(ridges: FloatArray) -> LeaveOneOut:
                return path.leave_one_out(blocks(), ridges, threads, every=-(-n // n_kept))

            search = self._search(errors_of, path)
        A = path.solve(search.ridge)
        # A unit is redundant if columns of lower layers can replace it. These are never dropped.
        below = np.full(n_columns_below(units), -1)
        of_unit = np.append(np.tile(np.arange(len(W)), units.n_cells), below)
        # With fewer images than columns, n columns span all others.
        groups = path.redundant_groups(of_unit) if n > q else []
        redundant = [unit for unit in groups if unit >= 0]
        return self._fitted(A, path, search, redundant, layer)

    def dual(self) -> OutputLayer:
        units, W, training = self.units, self.W, self.training
        if not has_dual(units, training):
            msg = (
                "form must be primal with sample weights or cells_below, got dual; leave form out, "
                "or set form='primal'."
            )
            raise ValueError(msg)
        images = training.images[:]  # fewer than columns, so they fit in memory
        n, h, m = len(images), len(W), units.n_cells
        size = max(1, DUAL_BLOCK_BYTES // (4 * m * n))
        tiles = [slice(start, min(start + size, h)) for start in range(0, h, size)]
        deviations = np.ones((m, h))
        rows = np.empty((n, m, h), dtype=W.dtype) if self.keep_sums else None
        bar = self.compute.bar("ridge layer", total=2 * len(tiles), unit="block")
        with bar, thread_pool(self.compute.n_jobs) as threads:

            def blocks() -> Iterator[RealArray]:
                for tile in tiles:
                    Phi = block_features(units, W[tile], images, threads)
                    if rows is not None:
                        rows[:, :, tile] = Phi.reshape(n, m, -1)
                    if self.standardise:
                        deviation = spread(
                            Phi.std(axis=0, dtype=np.float64), Phi.mean(axis=0, dtype=np.float64)
                        )
                        deviations[:, tile] = deviation.reshape(m, -1)
                        Phi /= deviation.astype(Phi.dtype)
                    yield Phi
                    bar.update()

            kernel = KernelAccumulator(n)
            for Phi in blocks():
                kernel.add(Phi, threads)
            path = kernel.path(training.tau())
            search = self._search(lambda ridges: path.leave_one_out(ridges, threads), path)
            by_blocks = path.weights(blocks(), search.ridge, threads)
        A = np.empty((m * h + 1, training.n_targets))
        A[-1] = by_blocks[-1]
        by_unit = A[:-1].reshape(m, h, -1)
        for tile in tiles:
            of_tile = by_blocks[m * tile.start : m * tile.stop].reshape(
                m, tile.stop - tile.start, -1
            )
            by_unit[:, tile] = of_tile / deviations[:, tile, None]
        layer = None
        if rows is not None:
            layer = self._kept(RowStore(rows.reshape(n, m * h), training.tau()))
        return self._fitted(A, path, search, [], layer)

    def _kept(self, sums: Kept) -> RidgeLayer:
        return RidgeLayer.of(self.units, self.W, sums, n_jobs=self.compute.n_jobs)

    def _search(
        self, errors_of: Callable[[FloatArray], LeaveOneOut], path: RidgePath | DualPath
    ) -> "_Search":
        """Choose from the grid, and past its ends if the best lies there."""
        search = _Search(self.ridges, errors_of(self.ridges), self.training.is_classified)
        while self.goes_on:
            more = beyond(search.ridges.tolist(), search.ridge, path.bounds_of_ridges)
            if not more:
                break
            ridges = np.array(more[:_RIDGES_OF_A_PASS])
            search = search.extended(ridges, errors_of(ridges))
        return search

    def _fitted(
        self,
        A: FloatArray,
        path: RidgePath | DualPath,
        search: "_Search",
        redundant_units: Sequence[int],
        layer: RidgeLayer | None,
    ) -> OutputLayer:
        errors = search.errors
        trace = search.ridges, errors.mean_squared_error, errors.error_rate
        for ridge, mse, rate in zip(*trace, strict=True):
            _logger.info(
                "ridge layer, penalty %.3g: left-out squared error %.5g, rate %.5f",
                ridge, mse, rate,
            )  # fmt: skip
        return OutputLayer(
            A=A,
            name="ridge",
            penalty=search.ridge,
            chosen_by="leave-one-out" if len(self.ridges) > 1 else "given",
            penalties=tuple(search.ridges.tolist()),
            losses=tuple(errors.mean_squared_error.tolist()),
            error_rates=tuple(errors.error_rate.tolist()),
            n_iterations=0,
            rank=path.rank,
            degrees_of_freedom=path.degrees_of_freedom(search.ridge),
            redundant_units=tuple(redundant_units),
            left_out=LeftOut(errors.rows, errors.outputs[:, search.best]),
            ridge_layer=layer,
        )
