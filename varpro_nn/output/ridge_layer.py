"""A ridge layer that keeps its sums, so that it can change without starting again.

Images can be added and removed (exactly, to rounding: what is removed leaves no trace), units
appended and dropped, the ridge changed at will. Each costs what is new or gone; no second pass
over the rest is made.

What is kept goes by shape. While there are fewer images than columns their rows of ``Phi`` are
kept, and the solution comes from their singular value decomposition; then the sums of the normal
equations take their place, for good: rows do not come back from sums.
"""

from dataclasses import is_dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from varpro_nn._arrays import plain_array
from varpro_nn._typing import FloatArray, ImageArray, IndexArray, RealArray, TargetArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.linalg import GramAccumulator, RidgePath, RowStore, product_over_rows
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.output.features import block_features, feature_blocks
from varpro_nn.output.penalties import RIDGES, beyond
from varpro_nn.output.ridge_file import (
    Kept,
    form_of,
    read_ridge_layer,
    unit_weights,
    write_ridge_layer,
)
from varpro_nn.output.ridge_sums import ridge_sums
from varpro_nn.units import Units, with_n_units
from varpro_nn.units.maps import n_columns, n_columns_below


class RidgeLayer:
    """An output layer of least squares that can change: images and units come and go.

    Parameters
    ----------
    units : Units
        Those of this package, and of a registered class, can be saved.
    W : ndarray, shape (h, p)
        Weights of the units; the features are computed in its type. Single precision is quick;
        double keeps more digits through many additions and removals.
    n_classes : int
    n_jobs : int
        Threads, -1 for all cores; no bit of a result depends on it.

    Notes
    -----
    The sums take 8 q^2 bytes, q being the number of columns; n rows take 4 n q or 8 n q.
    Solving from rows takes 24 n (n + q) bytes for a while, and each change copies the rows. Sums
    cannot tell whether an image that is removed was ever added; rows can.
    """

    def __init__(self, units: Units, W: ArrayLike, n_classes: int, *, n_jobs: int = 1) -> None:
        self.W: RealArray = unit_weights(W, units.n_weights)
        self._units = units
        self.n_jobs = n_jobs
        Phi = np.zeros((0, n_columns(units, len(self.W))), dtype=self.W.dtype)
        self._kept: Kept = RowStore(Phi, np.zeros((0, n_classes)))
        self._paths: dict[bool, RidgePath] = {}

    @classmethod
    def of(cls, units: Units, W: ArrayLike, kept: Kept, *, n_jobs: int = 1) -> "RidgeLayer":
        """Take over the sums, or the rows, of a fit.

        Parameters
        ----------
        units : Units
        W : array_like, shape (h, p)
        kept : varpro_nn.linalg.GramAccumulator or varpro_nn.linalg.RowStore
            Of class labels, without sample weights; not copied.
        n_jobs : int
            As for the class.

        Returns
        -------
        RidgeLayer
        """
        layer = cls(units, W, kept.n_targets, n_jobs=n_jobs)
        layer._kept = kept
        return layer

    @property
    def units(self) -> Units:
        """The layer of units; ``n_units`` is up to date if they are a dataclass."""
        return with_n_units(self._units, len(self.W)) if is_dataclass(self._units) else self._units

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self._kept.n_targets

    @property
    def n_images(self) -> int:
        """Images that have been taken in, and not out."""
        return round(self._kept.sum_weights)

    @property
    def form(self) -> str:
        """What is kept: ``"rows"`` or ``"sums"``."""
        return form_of(self._kept)

    def add_images(self, images: ArrayLike, labels: ArrayLike) -> "RidgeLayer":
        """Take images in.

        Parameters
        ----------
        images : array_like, shape (n, ...)
        labels : array_like of int, shape (n,)
            Class numbers.

        Returns
        -------
        RidgeLayer
            Itself.

        Raises
        ------
        ValueError
            Labels or images that do not fit.
        NonFiniteError
            Features are NaN or infinite; nothing has been taken in.
        """
        new, kept = TrainingSet.classified(images, labels, self.n_classes), self._kept
        if isinstance(kept, RowStore) and self.n_images + len(new) <= kept.n_columns:
            self._kept = kept.added(self._features(self.W, new.images), new.tau())
        else:
            sums = self._as_sums(kept)
            sums.merge(self._sums_of(new, sums.shift))
            self._kept = sums
        self._paths.clear()
        return self

    partial_fit = add_images

    def remove_images(self, images: ArrayLike, labels: ArrayLike) -> "RidgeLayer":
        """Take images out that had been taken in.

        Parameters
        ----------
        images : array_like, shape (n, ...)
        labels : array_like of int, shape (n,)

        Returns
        -------
        RidgeLayer
            Itself.

        Raises
        ------
        ValueError
            There are fewer images in the sums, in all or of a class; or one is not in the rows.
        """
        gone = TrainingSet.classified(images, labels, self.n_classes)
        if isinstance(self._kept, RowStore):
            self._kept = self._kept.without_rows(self._find(self._kept, gone))
            self._paths.clear()
            return self
        counts, there = self._counts(gone.targets), self._counts()
        if any(count > present for count, present in zip(counts, there, strict=True)):
            msg = f"images must be among those in the sums, by class {there}, got {counts}."
            raise ValueError(msg)
        self._kept.merge(self._sums_of(gone, self._kept.shift), sign=-1)
        self._paths.clear()
        return self

    def add_units(self, W: ArrayLike, images: ArrayLike, labels: ArrayLike) -> "RidgeLayer":
        """Append units: columns of the rows, or blocks of the sums that border the old ones.

        Parameters
        ----------
        W : array_like, shape (h_new, p)
        images : array_like, shape (n, ...)
            All the images that have been taken in, in any order: the products of the new columns
            with the old ones need them. Products among the old columns are not made again.
        labels : array_like of int, shape (n,)

        Returns
        -------
        RidgeLayer
            Itself.

        Raises
        ------
        ValueError
            Weights of another shape; other images than those taken in, as far as their number in
            each class tells (from rows: each of them).
        """
        new = unit_weights(W, self.units.n_weights).astype(self.W.dtype, copy=False)
        training = TrainingSet.classified(images, labels, self.n_classes)
        there = self._counts(training.targets)
        if there != self._counts():
            msg = f"images must be those in the sums, by class {self._counts()}, got {there}."
            raise ValueError(msg)
        all_units, kept, n_old = np.concatenate([self.W, new]), self._kept, self._kept.n_columns
        # From old columns, new columns to cell by cell, as the features of all units come; those
        # of the layers below stay the last.
        m, n_new = self.units.n_cells, len(new) * self.units.n_cells
        of_old, below, new_columns = np.split(
            np.arange(n_old + n_new), [len(self.W) * self.units.n_cells, n_old]
        )
        by_cells = np.concatenate([of_old.reshape(m, -1), new_columns.reshape(m, -1)], axis=1)
        order = np.append(by_cells, below)
        if isinstance(kept, RowStore):
            at, Phi = self._find(kept, training), self._features(new, training.images)
            self._kept = kept.with_columns(at, Phi[:, :n_new], order)
        else:
            of_new = GramAccumulator(len(new_columns), self.n_classes)
            cross = np.zeros((n_old, len(new_columns)))
            with thread_pool(self.n_jobs) as threads:
                for rows, Phi in feature_blocks(self.units, all_units, training.images, threads):
                    back = Phi[:, np.argsort(order)]
                    old, appended = back[:, :n_old] - kept.shift, back[:, n_old:]
                    of_new.add(appended, training.tau(rows), threads=threads)  # shifts them
                    cross += product_over_rows(old, appended)
            kept.append_columns(cross, of_new, order)
        self.W = all_units
        self._paths.clear()
        return self

    def drop_units(self, index: ArrayLike) -> "RidgeLayer":
        """Drop units; no image is needed.

        Parameters
        ----------
        index : array_like of int or bool
            Positions in ``W``, or a mask (h,).

        Returns
        -------
        RidgeLayer
            Itself.

        Raises
        ------
        IndexError
            No such unit.
        ValueError
            No unit would be left.
        """
        kept = np.ones(len(self.W), dtype=bool)
        dropped = plain_array(index, "index")
        try:
            kept[dropped if dropped.size else []] = False
        except IndexError as error:
            msg = f"index must be positions of the {len(self.W)} units or a mask, got {index!r}."
            raise IndexError(msg) from error
        if not kept.any():
            msg = f"one unit at least must be left of the {len(self.W)}."
            raise ValueError(msg)
        of_units = np.tile(kept, self.units.n_cells)
        columns = np.flatnonzero(np.append(of_units, [True] * n_columns_below(self.units)))
        if isinstance(self._kept, RowStore):
            rows = self._kept.of_columns(columns)
            self._kept = rows if self.n_images <= len(columns) else self._as_sums(rows)
        else:
            self._kept.keep_columns(columns)
        self.W = self.W[kept]
        self._paths.clear()
        return self

    def solve(self, ridge: float | None = None, *, standardise: bool = False) -> FloatArray:
        """Linear weights for one ridge.

        Parameters
        ----------
        ridge : float, optional
            ``lam``. By default the one whose generalised cross-validation is least, of a grid that
            goes on past its ends; leave-one-out errors would need a pass over the images.
        standardise : bool
            Let the ridge act on columns scaled to variance 1.

        Returns
        -------
        ndarray, shape (q + 1, k)
            ``A``, as :class:`varpro_nn.Network` takes it.

        Raises
        ------
        ValueError
            No images, or a ridge that is negative or not finite.
        TypeError
            The ridge is not a number.
        """
        if ridge is not None and not isinstance(ridge, Real):
            msg = f"ridge must be a number, or None to choose it, got {ridge!r}."
            raise TypeError(msg)
        path = self.path(standardise=standardise)
        if ridge is None:
            ridge = _least_cross_validation(path)
        if not 0 <= ridge < np.inf:
            msg = f"ridge must be finite and not negative, got {ridge}."
            raise ValueError(msg)
        return path.solve(ridge)

    def path(self, *, standardise: bool = False) -> RidgePath:
        """Factorise what is kept, for every ridge; once after each change.

        Parameters
        ----------
        standardise : bool
            As for :meth:`solve`.

        Returns
        -------
        varpro_nn.linalg.RidgePath

        Raises
        ------
        ValueError
            No images.
        """
        if standardise not in self._paths:
            with thread_pool(1):
                self._paths[standardise] = self._kept.path(standardise=standardise)
        return self._paths[standardise]

    def save(self, path: str | Path) -> None:
        """Write units and sums (or rows) to an npz file that :meth:`load` checks, atomically.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        TypeError
            Units that are not of this package.
        """
        write_ridge_layer(Path(path), self.units, self.W, self._kept)

    @classmethod
    def load(cls, path: str | Path, *, n_jobs: int = 1) -> "RidgeLayer":
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
        n_jobs : int
            As for the class.

        Returns
        -------
        RidgeLayer

        Raises
        ------
        ModelFileError
            The file is damaged, holds something else, or its arrays do not go together.
        FileNotFoundError
            There is none.
        """
        return cls.of(*read_ridge_layer(Path(path)), n_jobs=n_jobs)

    def _counts(self, labels: TargetArray | None = None) -> list[int]:
        """Images of each class: of ``labels``, or in the sums."""
        if labels is None:
            return [round(count) for count in self._kept.sum_tau.tolist()]
        codes: Any = labels
        return np.bincount(codes, minlength=self.n_classes).tolist()

    def _as_sums(self, kept: Kept) -> GramAccumulator:
        if isinstance(kept, GramAccumulator):
            return kept
        with thread_pool(self.n_jobs) as threads:
            return kept.sums(threads)

    def _sums_of(self, training: TrainingSet, shift: RealArray | None) -> GramAccumulator:
        return ridge_sums(self.units, self.W, training, Compute(self.n_jobs), shift=shift)

    def _features(self, W: RealArray, images: ImageArray) -> RealArray:
        with thread_pool(self.n_jobs) as threads:
            return block_features(self.units, W, images[:], threads)

    def _find(self, kept: RowStore, training: TrainingSet) -> IndexArray:
        """Positions of images among the rows that are kept."""
        return kept.find(self._features(self.W, training.images), training.tau())


def _least_cross_validation(path: RidgePath) -> float:
    """Choose the ridge whose generalised cross-validation is least."""
    scores = {ridge: path.generalised_cross_validation(ridge) for ridge in RIDGES}
    while True:
        best = min(scores, key=scores.__getitem__)
        more = beyond(list(scores), best, path.bounds_of_ridges)
        if not more:
            return best
        scores[more[0]] = path.generalised_cross_validation(more[0])
